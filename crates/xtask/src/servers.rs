//! Servers of our own, for as long as a chore runs.
//!
//! Each listens on a free port of this machine, keeps nothing, and never touches a server that is already
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

use crate::command::{program, succeeds};

/// Ends the server and removes its folder when dropped.
pub(crate) struct PrivateServer {
    name: &'static str,
    address: SocketAddr,
    folder: PathBuf,
    guard: Child,
}

impl PrivateServer {
    /// Starts a Redis server and waits until it answers.
    pub(crate) fn redis() -> anyhow::Result<Self> {
        Self::start("redis", REDIS_GUARD, &[], redis_answers)
    }

    /// Starts a PostgreSQL server and waits until it answers.
    pub(crate) fn postgres() -> anyhow::Result<Self> {
        let programs = postgres_programs().context("find the programs of PostgreSQL")?;
        let ready = programs.join("pg_isready");
        let answers = move |address: SocketAddr| {
            let port = address.port().to_string();
            succeeds(program(&ready).args(["-q", "-h", "127.0.0.1", "-p", &port]))
        };
        Self::start("postgres", POSTGRES_GUARD, &[&programs], answers)
    }

    fn start(
        name: &'static str,
        guard: &str,
        arguments: &[&Path],
        answers: impl Fn(SocketAddr) -> bool,
    ) -> anyhow::Result<Self> {
        let address = free_address()?;
        let folder = std::env::temp_dir().join(format!("tollgate-{name}-{}", address.port()));
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;

        let guard = program("sh")
            .args(["-c", guard, "guard"])
            .arg(&folder)
            .arg(address.port().to_string())
            .args(arguments)
            .stdin(Stdio::piped())
            .process_group(0) // out of reach of the terminal's Ctrl-C
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let server = Self { name, address, folder, guard };
        server.wait(answers)?;
        Ok(server)
    }

    /// Where it is, as clients of Redis want to be told.
    pub(crate) fn redis_url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Where it is, as clients of PostgreSQL want to be told.
    pub(crate) fn postgres_url(&self) -> String {
        format!("postgres://tollgate@{}/postgres", self.address)
    }

    fn wait(&self, answers: impl Fn(SocketAddr) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !answers(self.address) {
            if Instant::now() > deadline {
                bail!("{} does not answer:\n{}", self.name, log(&self.folder));
            }
            #[expect(clippy::disallowed_methods, reason = "the pause between two tries")]
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // A guard that cannot be waited for is gone, and so is what it guarded.
        let _ = self.guard.wait();
    }
}

/// Where `initdb` and `postgres` are: on the search path, or where Debian hides them.
pub(crate) fn postgres_programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    versions.sort();
    let search_path = {
        #[expect(clippy::disallowed_methods, reason = "the search path is the environment's")]
        std::env::var_os("PATH")?
    };
    versions.pop().or_else(|| {
        std::env::split_paths(&search_path).find(|folder| folder.join("initdb").exists())
    })
}

fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}

fn redis_answers(address: SocketAddr) -> bool {
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
    fs::read_to_string(folder.join("log")).unwrap_or_else(|_| "it wrote no log".to_owned())
}

const START_LIMIT: Duration = Duration::from_secs(30);

/// Its arguments are the folder and the port; `read` returns when the other end of the pipe closes.
const REDIS_GUARD: &str = r#"
trap '' INT TERM HUP
redis-server --port "$2" --bind 127.0.0.1 --dir "$1" --logfile "$1/log" \
    --save '' --appendonly no </dev/null &
read -r nothing
kill "$!"
wait "$!"
rm -rf "$1"
"#;

/// The same, with the folder of the programs as the third argument. The server refuses to run as root.
const POSTGRES_GUARD: &str = r#"
trap '' INT TERM HUP
as=""
if [ "$(id -u)" = 0 ]; then
    chown postgres "$1"
    as="setpriv --reuid=postgres --regid=postgres --clear-groups"
fi
cd "$1"
$as "$3/initdb" -D "$1/data" -U tollgate -A trust -E UTF8 --no-sync >"$1/log" 2>&1
$as "$3/postgres" -D "$1/data" -p "$2" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c fsync=off -c full_page_writes=off -c max_connections=200 </dev/null >>"$1/log" 2>&1 &
read -r nothing
kill -INT "$!"
wait "$!"
rm -rf "$1"
"#;
