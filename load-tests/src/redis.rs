//! A Redis of our own, and what it is asked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::product::free_address;

/// A Redis server that keeps nothing. Killed when dropped.
#[derive(Debug)]
pub struct PrivateRedis {
    address: SocketAddr,
    counts: Arc<Counts>,
    _child: Child,
    _folder: TempDir,
}

/// Commands that a server has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commands {
    /// Those that came over the network; a script is one of them, whatever it does.
    pub asked: u64,
    /// Those that scripts ran.
    pub inside_scripts: u64,
}

#[derive(Debug, Default)]
struct Counts {
    asked: AtomicU64,
    inside_scripts: AtomicU64,
}

impl PrivateRedis {
    /// Starts `redis-server` from the search path, and waits until it answers.
    pub async fn start() -> anyhow::Result<Self> {
        let address = free_address()?;
        let folder = TempDir::with_prefix("tollgate-load-redis-").context("create a folder")?;
        let port = address.port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.kill_on_drop(true).spawn();
        let child = child.context("start redis-server; install Debian's package redis-server")?;
        let counts = Arc::new(Counts::default());
        let redis = Self { address, counts, _child: child, _folder: folder };
        let deadline = Instant::now() + LIMIT;
        let monitor = loop {
            match redis.monitor() {
                Ok(monitor) => break monitor,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            ensure!(Instant::now() < deadline, "redis-server does not answer within {LIMIT:?}");
        };
        let counts = Arc::clone(&redis.counts);
        std::thread::spawn(move || {
            // It ends with the server.
            monitor.lines().map_while(Result::ok).for_each(|line| counts.note(&line));
        });
        Ok(redis)
    }

    /// Where gateways find it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// What it has run so far.
    pub fn commands(&self) -> Commands {
        let Counts { asked, inside_scripts } = self.counts.as_ref();
        let [asked, inside_scripts] =
            [asked, inside_scripts].map(|count| count.load(Ordering::Relaxed));
        Commands { asked, inside_scripts }
    }

    /// A connection that tells every command as it is run. Unlike the server's own sums, it tells those
    /// that scripts run from those that were asked for.
    fn monitor(&self) -> std::io::Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect_timeout(&self.address, LIMIT)?;
        stream.write_all(b"MONITOR\r\n")?;
        let mut monitor = BufReader::new(stream);
        let mut accepted = String::new();
        monitor.read_line(&mut accepted)?;
        if accepted.trim_end() != "+OK" {
            return Err(std::io::Error::other(accepted));
        }
        Ok(monitor)
    }
}

impl Counts {
    /// Counts a line such as `+1764042287.281 [0 127.0.0.1:41234] "GET" "a"`, or `[0 lua]` for a script's.
    fn note(&self, line: &str) {
        let Some((_, rest)) = line.split_once('[') else { return };
        let Some((whose, _)) = rest.split_once(']') else { return };
        let count = if whose.ends_with(" lua") { &self.inside_scripts } else { &self.asked };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Commands {
    /// What was run after `earlier`.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            asked: self.asked - earlier.asked,
            inside_scripts: self.inside_scripts - earlier.inside_scripts,
        }
    }
}

const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_runs_is_told_from_what_was_asked_for() {
        let counts = Counts::default();
        let script = r#"+1764042287.28 [0 127.0.0.1:41234] "EVALSHA" "f [0 lua] 1" "0""#;
        let inside = r#"+1764042287.28 [0 lua] "HGET" "a" "[b]""#;

        for line in [script, inside, inside, "+OK"] {
            counts.note(line);
        }

        assert_eq!(counts.asked.into_inner(), 1);
        assert_eq!(counts.inside_scripts.into_inner(), 2);
    }
}
