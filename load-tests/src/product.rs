//! Starts the product as a user would: its release binary, in a folder of its own, on free ports.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

/// The binary.
#[derive(Clone, Debug)]
pub struct Product {
    binary: PathBuf,
}

/// A `tollgate serve` that is ready. Killed, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Serve {
    /// When the process was started.
    pub began: Instant,
    /// Where clients are served.
    pub endpoint: String,
    /// The key of the first run.
    pub api_key: String,
    data: TempDir,
    child: Child,
    _stdout: Lines<BufReader<ChildStdout>>,
}

/// A `tollgate gateway` or `tollgate worker` that accepts connections. Killed when dropped.
#[derive(Debug)]
pub struct Role {
    child: Child,
}

impl Product {
    /// The binary at `binary`, else the one that cargo built beside this program.
    pub fn find(binary: Option<&Path>) -> anyhow::Result<Self> {
        let beside = || {
            let this = std::env::current_exe().context("find this program")?;
            Ok::<_, anyhow::Error>(this.with_file_name("tollgate"))
        };
        let binary = binary.map_or_else(beside, |binary| Ok(binary.to_owned()))?;
        ensure!(
            binary.is_file(),
            "there is no {}; run `cargo build --release -p tollgate` or use --binary",
            binary.display()
        );
        Ok(Self { binary })
    }

    /// Starts everything in one process, in a fresh folder, and waits until it says that it is
    /// ready.
    pub async fn serve(&self) -> anyhow::Result<Serve> {
        let data = TempDir::with_prefix("tollgate-load-").context("create a folder")?;
        let mut command = self.command();
        command.arg("serve").arg("--data").arg(data.path());
        command.args(["--listen", FREE, "--admin-listen", FREE]);
        let began = Instant::now();
        let mut child = command.stdout(Stdio::piped()).spawn().context("start tollgate serve")?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut stdout = BufReader::new(stdout).lines();
        let ready = async {
            while let Some(line) = stdout.next_line().await.context("read its output")? {
                if line.contains("curl") {
                    return Ok(());
                }
            }
            bail!("tollgate serve ended before it was ready")
        };
        tokio::time::timeout(LIMIT, ready).await.context("tollgate serve is not ready")??;
        let first_run = std::fs::read_to_string(data.path().join("first-run.json"));
        let first_run: Value = serde_json::from_str(&first_run.context("read first-run.json")?)?;
        let (endpoint, api_key) = (text(&first_run, "endpoint")?, text(&first_run, "api_key")?);
        Ok(Serve { began, endpoint, api_key, data, child, _stdout: stdout })
    }

    /// Starts a gateway or a worker with a configuration file, and waits until it accepts
    /// connections.
    pub async fn role(
        &self,
        role: &str,
        config: &Path,
        listen: SocketAddr,
    ) -> anyhow::Result<Role> {
        let mut command = self.command();
        command.arg(role).arg("--config").arg(config).env("TOLLGATE_LOG", "warn");
        let child = command.spawn().with_context(|| format!("start tollgate {role}"))?;
        let accepts = async || tokio::net::TcpStream::connect(listen).await.is_ok();
        until(&format!("tollgate {role} accepts connections"), accepts).await?;
        Ok(Role { child })
    }

    /// Makes a key in a project of its own, in the gateway's folder `data`.
    pub async fn key(&self, data: &Path, tenant: &str) -> anyhow::Result<String> {
        let mut command = self.command();
        command.args(["admin", "keys", "create", "--json", "--name", tenant, "--project", tenant]);
        let made = command.arg("--data").arg(data).output().await.context("make a key")?;
        let said = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success(), "make a key for {tenant}: {}", said.trim());
        text(&serde_json::from_slice(&made.stdout).context("read the key")?, "api_key")
    }

    /// What `tollgate admin` says to `arguments`, for the gateway's folder `data`.
    pub async fn admin(&self, data: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = self.command();
        command.arg("admin").args(arguments).arg("--json").arg("--data").arg(data);
        let about = || format!("tollgate admin {}", arguments.join(" "));
        let done = command.output().await.with_context(about)?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{}: {}", about(), said.trim());
        serde_json::from_slice(&done.stdout).with_context(about)
    }

    fn command(&self) -> Command {
        let mut command = Command::new::<&OsStr>(self.binary.as_ref());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

impl Serve {
    /// The folder that holds all of its state.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Ends it, and waits until it is gone.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("end tollgate serve")
    }
}

impl Role {
    /// Kibibytes of memory under `field` of what the kernel tells, such as `VmRSS`.
    pub fn kibibytes(&self, field: &str) -> anyhow::Result<u64> {
        let id = self.child.id().context("the process has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"));
        let status = status.context("read what the kernel tells (Linux only)")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next());
        let number = number.with_context(|| format!("no {field} in /proc/{id}/status"))?;
        Ok(number.parse()?)
    }

    /// The time that processors have spent on it, as the kernel counts it: in hundredths of a second.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let id = self.child.id().context("the process has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
        let stat = stat.context("read what the kernel tells (Linux only)")?;
        processor_time(&stat).with_context(|| format!("read /proc/{id}/stat"))
    }

    /// Ends it, and waits until it is gone.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("end a process")
    }
}

/// An address on this machine that nobody listens on.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !look().await {
        ensure!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// User and system time in a line of `/proc/*/stat`.
fn processor_time(stat: &str) -> Option<Duration> {
    // The name before the last bracket may hold anything; 11 fields stand between it and the times.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(Duration::from_millis(ticks * MILLIS_PER_TICK))
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    let text = value[name].as_str().with_context(|| format!("there is no `{name}`"))?;
    Ok(text.to_owned())
}

const FREE: &str = "127.0.0.1:0";
const LIMIT: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(10);
/// Linux counts in this unit for programs, whatever its own clock does.
const MILLIS_PER_TICK: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_whatever_a_process_is_called() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 170 0 1 0 250 50 0 0 20 0 1 0 93 2 3";

        assert_eq!(processor_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(processor_time("7 (a) S 1"), None);
    }
}
