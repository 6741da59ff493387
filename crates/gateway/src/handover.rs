//! One process takes over from another on the same machine, and no connection is refused in between.
//!
//! A gateway listens on a socket in its data directory. Whoever is to take over connects there and is given the
//! listeners themselves, so that both accept from one queue of connections. Once the successor serves, it says so,
//! and the predecessor accepts nothing more, ends what runs and goes; its end of the connection closes with its
//! process. A successor that fails or goes away before it said anything has changed nothing.
//!
//! The protocol, on one connection: the predecessor sends [`GREETING`] with the two listeners attached
//! (`SCM_RIGHTS`, see unix(7)) and a line of JSON ([`Offer`]); the successor sends [`TAKEN`].

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};

use crate::listener::Listener;

/// A gateway cannot be taken over from.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// There is none.
    #[error(
        "no gateway can be taken over from at {path}: start one without --upgrade, with the same `data`"
    )]
    Nobody {
        /// Where it would be asked.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its words make no sense.
    #[error("the gateway at {path} answers with something else than listeners")]
    Strange {
        /// Where it was asked.
        path: PathBuf,
    },
    /// It listens elsewhere.
    #[error(
        "`{setting}` is {wanted}, and the gateway that runs listens on {found}; addresses change with a restart only"
    )]
    Elsewhere {
        /// The setting.
        setting: &'static str,
        /// What it says.
        wanted: SocketAddr,
        /// Where the running gateway listens.
        found: SocketAddr,
    },
    /// The connection to it failed.
    #[error("take over from the gateway at {path}")]
    Broken {
        /// Where it was asked.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What a predecessor says of itself.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Offer {
    /// Models that its clients can ask for.
    models: Vec<String>,
}

/// The process whose place this one takes.
#[derive(Debug)]
pub struct Predecessor {
    path: PathBuf,
    connection: BufReader<UnixStream>,
    models: Vec<String>,
}

impl Predecessor {
    /// Asks the gateway that keeps its state in `data` for its listeners. It serves on, until it is relieved.
    pub async fn find(data: &Path) -> Result<(Self, [Listener; 2]), HandoverError> {
        let path = data.join(SOCKET);
        let nobody = |source| HandoverError::Nobody { path: path.clone(), source };
        let connection = UnixStream::connect(&path).await.map_err(nobody)?;
        let broken = |source| HandoverError::Broken { path: path.clone(), source };
        let strange = || HandoverError::Strange { path: path.clone() };
        let talk = async {
            let listeners = receive(&connection).await.map_err(broken)?.ok_or_else(strange)?;
            let mut connection = BufReader::new(connection);
            let mut line = String::new();
            let mut bounded = (&mut connection).take(MAX_OFFER_BYTES);
            bounded.read_line(&mut line).await.map_err(broken)?;
            let Offer { models } = serde_json::from_str(&line).map_err(|_| strange())?;
            let [one, other] = listeners.map(|socket| Listener::of(TcpListener::from(socket)));
            let listeners = [one.map_err(broken)?, other.map_err(broken)?];
            Ok((Self { path: path.clone(), connection, models }, listeners))
        };
        tokio::time::timeout(ANSWER_LIMIT, talk).await.unwrap_or_else(|_| Err(strange()))
    }

    /// Names of the models that its clients can ask for.
    pub(crate) fn models(&self) -> &[String] {
        &self.models
    }

    /// Tells it to accept nothing more: this process serves from now on.
    pub(crate) async fn relieve(&mut self) -> Result<(), HandoverError> {
        let sent = self.connection.get_mut().write_all(&[TAKEN]).await;
        sent.map_err(|source| HandoverError::Broken { path: self.path.clone(), source })
    }

    /// Waits until its process has ended.
    pub(crate) async fn gone(&mut self) {
        let mut rest = Vec::new();
        // Whatever ends the connection, nobody is there any more.
        let _ = self.connection.read_to_end(&mut rest).await;
    }
}

/// Whether what was configured is what a predecessor's listeners are; port 0 is any.
pub fn check_listeners(
    listeners: &[Listener; 2],
    listen: SocketAddr,
    admin_listen: SocketAddr,
) -> Result<(), HandoverError> {
    let wanted = [("listen", listen), ("admin_listen", admin_listen)];
    for (listener, (setting, wanted)) in listeners.iter().zip(wanted) {
        let found = listener.address();
        if found.ip() != wanted.ip() || (wanted.port() != 0 && found.port() != wanted.port()) {
            return Err(HandoverError::Elsewhere { setting, wanted, found });
        }
    }
    Ok(())
}

/// Where a successor asks this process for its place.
pub(crate) struct Place {
    socket: UnixListener,
    listeners: [OwnedFd; 2],
}

impl Place {
    /// Takes the socket in `data`; whoever had it is not asked any more.
    pub(crate) fn open(data: &Path, listeners: [&Listener; 2]) -> std::io::Result<Self> {
        let path = data.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(OWNER_ONLY))?;
        let [one, other] = listeners.map(Listener::duplicate);
        Ok(Self { socket, listeners: [one?, other?] })
    }

    /// Resolves when a successor serves, to its connection, which is to be kept until this process ends.
    pub(crate) async fn taken(&self, models: impl Fn() -> Vec<String>) -> UnixStream {
        loop {
            match self.offer(models()).await {
                Ok(Some(connection)) => return connection,
                Ok(None) => tracing::info!("a successor went away before it served"),
                Err(error) => {
                    tracing::warn!(error = ?error, "place not handed over");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn offer(&self, models: Vec<String>) -> std::io::Result<Option<UnixStream>> {
        let (mut connection, _) = self.socket.accept().await?;
        tracing::info!("a successor was given the listeners");
        let sockets = [self.listeners[0].as_fd(), self.listeners[1].as_fd()];
        let mut line = serde_json::to_vec(&Offer { models })?;
        line.push(b'\n');
        let tell = async {
            send(&connection, &sockets).await?;
            connection.write_all(&line).await
        };
        tokio::time::timeout(ANSWER_LIMIT, tell).await??;
        let mut word = [0];
        let read = connection.read(&mut word).await?;
        Ok((read == 1 && word[0] == TAKEN).then_some(connection))
    }
}

async fn send(connection: &UnixStream, sockets: &[BorrowedFd<'_>; 2]) -> std::io::Result<()> {
    let sent = connection.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        attached.push(SendAncillaryMessage::ScmRights(sockets));
        let words = [IoSlice::new(GREETING)];
        Ok(sendmsg(connection, &words, &mut attached, SendFlags::empty())?)
    });
    match sent.await? {
        bytes if bytes == GREETING.len() => Ok(()),
        _ => Err(std::io::ErrorKind::WriteZero.into()),
    }
}

/// The two listeners; `None` if that is not what came.
async fn receive(connection: &UnixStream) -> std::io::Result<Option<[OwnedFd; 2]>> {
    let mut words = [0; GREETING.len()];
    let mut sockets = Vec::new();
    let read = connection.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut attached = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut words)];
        let received = recvmsg(connection, &mut into, &mut attached, RecvFlags::CMSG_CLOEXEC)?;
        for message in attached.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
        Ok(received.bytes)
    });
    let read = read.await?;
    Ok(if read == words.len() && words == *GREETING { sockets.try_into().ok() } else { None })
}

const SOCKET: &str = "upgrade.sock";
/// Says which protocol is spoken, too.
const GREETING: &[u8; 8] = b"tollgat1";
const TAKEN: u8 = b'T';
const OWNER_ONLY: u32 = 0o600;
const MAX_OFFER_BYTES: u64 = 4 << 20;
/// Both sides are on one machine and answer at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
