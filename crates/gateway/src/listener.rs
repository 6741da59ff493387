//! A port that is bound, and what is told when it cannot be.
//!
//! Ports are bound before anything else is started, so that a port in use is one clear line, and
//! port 0 can be asked what it became.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;

use pingora_core::server::{Fds, ListenFds};

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// A port cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

impl Listener {
    /// Binds `address`; port 0 is any free one.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        TcpListener::bind(address).and_then(Self::of).map_err(failed)
    }

    /// A port that was bound already, here or by another process.
    pub(crate) fn of(listener: TcpListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The same port for another process: both accept from one queue.
    pub(crate) fn duplicate(&self) -> std::io::Result<OwnedFd> {
        self.listener.try_clone().map(OwnedFd::from)
    }

    /// Where it is bound.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn into_tokio(self) -> std::io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.listener)
    }

    /// The port as Pingora takes over sockets from elsewhere.
    pub(crate) fn into_pingora(self) -> ListenFds {
        let mut sockets = Fds::new();
        sockets.add(self.address.to_string(), self.listener.into_raw_fd());
        Arc::new(pingora_mutex(sockets))
    }
}

/// Pingora guards its sockets with a lock of its own choosing.
fn pingora_mutex<T, M: From<T>>(value: T) -> M {
    M::from(value)
}
