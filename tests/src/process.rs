//! A process under test: started, listened to, and ended.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::{tollgate, until};

/// A running `tollgate`. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
    stdout: Said,
    stderr: Said,
}

impl Process {
    /// Starts the binary under test. Whether it is of use yet is the caller's question.
    pub fn start(arguments: &[impl AsRef<OsStr>]) -> anyhow::Result<Self> {
        let mut child = Command::new(tollgate()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start tollgate")?;
        let pid = child.id().context("it has just been started")?;
        let stdout = Said::listen(child.stdout.take().context("stdout is piped")?);
        let stderr = Said::listen(child.stderr.take().context("stderr is piped")?);
        Ok(Self { child, pid, stdout, stderr })
    }

    /// The id of the process, also after its end.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it logged so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a line on stdout that contains `part`, and returns it.
    pub async fn printed(&self, part: &str, limit: Duration) -> anyhow::Result<String> {
        self.stdout.line(part, limit).await.map_err(|error| self.explain(&error))
    }

    /// Waits for a line on stderr that contains `part`, and returns it.
    pub async fn logged(&self, part: &str, limit: Duration) -> anyhow::Result<String> {
        self.stderr.line(part, limit).await.map_err(|error| self.explain(&error))
    }

    /// Like [`until`], and fails at once when the process ends before that.
    pub async fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> anyhow::Result<T> {
        let child = &mut self.child;
        let seen = until(what, limit, async || {
            if let Some(status) = child.try_wait().context("look after tollgate")? {
                bail!("{what}: tollgate ended: {status}");
            }
            Ok(look().await)
        });
        seen.await.map_err(|error| self.explain(&error))
    }

    /// Sends a signal, named as `kill` names it: `INT`, `TERM`, `STOP`, `CONT`.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        // The shell's own `kill`: not every machine has another.
        let script = format!("kill -{name} {}", self.pid);
        let status = Command::new("sh").args(["-c", &script]).status().await;
        if !status.context("start a shell")?.success() {
            bail!("send {name} to {}: is it still there?\n{}", self.pid, self.story());
        }
        Ok(())
    }

    /// Waits for the process to end, however it does.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let Ok(status) = tokio::time::timeout(limit, self.child.wait()).await else {
            bail!("tollgate did not end within {limit:?}\n{}", self.story());
        };
        status.context("wait for tollgate")
    }

    /// Asks the process to stop, as Ctrl-C does, and waits until it has. Fine if it has ended already.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait().context("look after tollgate")? {
            return Ok(status);
        }
        self.signal("INT").await?;
        self.ended(STOP_LIMIT).await
    }

    /// Ends the process at once, without asking (SIGKILL), and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill tollgate")
    }

    /// Everything it said, for the message of a failing test.
    pub fn story(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.stderr())
    }

    fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n{}", self.story())
    }
}

/// The last lines a process wrote to one of its streams.
#[derive(Debug)]
struct Said(watch::Receiver<Vec<String>>);

impl Said {
    fn listen(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (sender, receiver) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stream).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                let line = String::from_utf8_lossy(&line).into_owned();
                sender.send_modify(|lines: &mut Vec<String>| {
                    if lines.len() == MAX_LINES {
                        lines.remove(0);
                    }
                    lines.push(line);
                });
            }
        });
        Self(receiver)
    }

    fn text(&self) -> String {
        self.0.borrow().join("\n")
    }

    async fn line(&self, part: &str, limit: Duration) -> anyhow::Result<String> {
        let mut receiver = self.0.clone();
        let seen = receiver.wait_for(|lines| lines.iter().any(|line| line.contains(part)));
        let seen = tokio::time::timeout(limit, seen).await;
        let lines = seen.with_context(|| format!("no line with `{part}` within {limit:?}"))?;
        let lines = lines.with_context(|| format!("it fell silent before a line with `{part}`"))?;
        lines.iter().find(|line| line.contains(part)).cloned().context("it was just there")
    }
}

const STOP_LIMIT: Duration = Duration::from_secs(30);
const MAX_LINES: usize = 5_000;
