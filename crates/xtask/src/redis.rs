//! A Redis server of our own, for as long as a chore runs.
//!
//! It listens on a free port of this machine, keeps nothing, and never touches a server that is already
//! there. A small guard process owns it and ends it when the chore is gone, in whichever way it went:
//! the guard waits for the end of a pipe that only we hold. Knows nothing of what is stored.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::command::program;

/// Ends the server and removes its folder when dropped.
pub(crate) struct PrivateRedis {
    address: SocketAddr,
    folder: PathBuf,
    guard: Child,
}

impl PrivateRedis {
    /// Starts a server and waits until it answers.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let address = free_address()?;
        let folder = std::env::temp_dir().join(format!("tollgate-redis-{}", address.port()));
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;

        let guard = program("sh")
            .args(["-c", GUARD, "redis-guard"])
            .arg(&folder)
            .arg(address.port().to_string())
            .stdin(Stdio::piped())
            .process_group(0) // out of reach of the terminal's Ctrl-C
            .spawn()
            .context("start redis-server")?;
        let redis = Self { address, folder, guard };
        redis.wait()?;
        Ok(redis)
    }

    /// Where it is, as clients want to be told.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    fn wait(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !answers(self.address) {
            if Instant::now() > deadline {
                bail!("redis-server does not answer:\n{}", log(&self.folder));
            }
            #[expect(clippy::disallowed_methods, reason = "the pause between two tries")]
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // A guard that cannot be waited for is gone, and so is what it guarded.
        let _ = self.guard.wait();
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}

fn answers(address: SocketAddr) -> bool {
    let ping = || -> std::io::Result<[u8; 5]> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    ping().is_ok_and(|answer| &answer == b"+PONG")
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("redis.log")).unwrap_or_else(|_| "it wrote no log".to_owned())
}

const START_LIMIT: Duration = Duration::from_secs(10);

/// Its arguments are the folder and the port; `read` returns when the other end of the pipe closes.
const GUARD: &str = r#"
trap '' INT TERM HUP
redis-server --port "$2" --bind 127.0.0.1 --dir "$1" --logfile "$1/redis.log" \
    --save '' --appendonly no </dev/null &
read -r nothing
kill "$!"
wait "$!"
rm -rf "$1"
"#;
