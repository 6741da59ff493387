//! A Redis of a test's own, to be killed and started again.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::{free_address, until};

/// A running Redis that keeps nothing. Killed when dropped.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Redis {
    /// Starts one on a free port.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("tollgate-redis-").context("create a folder")?;
        let address = free_address()?;
        let child = spawn(&folder, address)?;
        let redis = Self { child, address, folder };
        redis.answers().await?;
        Ok(redis)
    }

    /// Where it is, as its clients want to be told.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it at once, without asking (SIGKILL).
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill redis")
    }

    /// Starts it again, empty, at the same address.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.folder, self.address)?;
        self.answers().await
    }

    async fn answers(&self) -> anyhow::Result<()> {
        let look = async || Ok(ping(self.address).await.ok());
        until("redis answers", START_LIMIT, look).await
    }
}

fn spawn(folder: &TempDir, address: SocketAddr) -> anyhow::Result<Child> {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"])
        .arg("--dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("start redis-server; on Debian it is in the package redis-server")
}

async fn ping(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await?;
    Ok(())
}

const START_LIMIT: Duration = Duration::from_secs(20);
