//! `tollgate gateway` and `tollgate worker`: the parts of the product as processes of their own.
//!
//! What is in a configuration is the test's business; the address it names is told to us as well, since
//! only the test knows it. Started means that it accepts connections there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;

use crate::serve::is_ready;
use crate::{Process, http};

/// A running `tollgate gateway`. Killed when dropped.
#[derive(Debug)]
pub struct Gateway(Role);

/// A running `tollgate worker`. Killed when dropped.
#[derive(Debug)]
pub struct Worker(Role);

impl Gateway {
    /// Starts a gateway that listens on `listen`, as its configuration says.
    pub async fn start(config: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        Role::start("gateway", config, listen).await.map(Self)
    }

    /// Where clients are served: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.0.listen)
    }

    /// Waits until the gateway says that it is ready; without a worker it may never be.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let url = format!("{}/readyz", self.endpoint());
        let http = http().build().context("build a client")?;
        let look = async || is_ready(&http, &url).await.then_some(());
        self.0.process.until("become ready", START_LIMIT, look).await
    }

    /// The process: its id, what it said, stopping and killing it.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.0.process
    }

    /// Stops it if it runs, and starts it again with what its configuration says now.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.0.restart().await
    }
}

impl Gateway {
    /// Starts another process that takes this one's place, as its configuration says now, and returns this one's
    /// process, which ends what it has begun.
    pub async fn upgrade(&mut self) -> anyhow::Result<Process> {
        let config = self.0.config.as_os_str();
        let next = Process::start(&[
            "gateway".as_ref(),
            "--upgrade".as_ref(),
            "--config".as_ref(),
            config,
        ])?;
        next.logged("gateway ready", START_LIMIT).await?;
        let before = std::mem::replace(&mut self.0.process, next);
        before.logged("another process serves now", START_LIMIT).await?;
        Ok(before)
    }
}

impl Worker {
    /// Starts a worker that listens on `listen`, as its configuration says.
    pub async fn start(config: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        Role::start("worker", config, listen).await.map(Self)
    }

    /// Starts a worker without waiting for it.
    pub fn spawn(config: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        Role::spawn("worker", config, listen).map(Self)
    }

    /// Waits until it accepts connections.
    pub async fn accepts(&mut self) -> anyhow::Result<()> {
        self.0.accepts().await
    }

    /// Where gateways find it.
    pub const fn address(&self) -> SocketAddr {
        self.0.listen
    }

    /// The process: its id, what it said, stopping and killing it.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.0.process
    }

    /// Stops it if it runs, and starts it again with what its configuration says now.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.0.restart().await
    }
}

/// An address on this machine that nobody listens on, to be written into a configuration.
///
/// Not one that the system would choose: it gives those to outgoing connections too, and whoever is to listen
/// there might find it taken.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(PORTS_APART);
    let free = (0..PORTS.len()).find_map(|_| {
        let number = first.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(number % PORTS.len() as u32).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?.local_addr().ok()
    });
    free.context("find a free port")
}

/// Below those of outgoing connections.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
const PORTS_APART: u32 = 97;

#[derive(Debug)]
struct Role {
    name: &'static str,
    config: PathBuf,
    listen: SocketAddr,
    process: Process,
}

impl Role {
    fn spawn(name: &'static str, config: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        let process = spawn(name, config)?;
        Ok(Self { name, config: config.to_owned(), listen, process })
    }

    async fn start(name: &'static str, config: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        let mut role = Self::spawn(name, config, listen)?;
        role.accepts().await?;
        Ok(role)
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.stop().await?;
        self.process = spawn(self.name, &self.config)?;
        self.accepts().await
    }

    async fn accepts(&mut self) -> anyhow::Result<()> {
        let listen = self.listen;
        let look = async || TcpStream::connect(listen).await.ok().map(drop);
        self.process.until("accept connections", START_LIMIT, look).await
    }
}

fn spawn(role: &str, config: &Path) -> anyhow::Result<Process> {
    Process::start(&[role.as_ref(), "--config".as_ref(), config.as_os_str()])
}

const START_LIMIT: Duration = Duration::from_mins(1);
