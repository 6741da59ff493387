//! Who the two ends of the worker link are to each other: certificates, keys, and the authorities they trust. Also what
//! a gateway shows to its clients.
//!
//! All keep them in PEM files. Who makes a connection gets what the files hold by then: they are read
//! again when a connection is made, at most every ten seconds, and what stands in them counts, not when it was
//! written. Files that cannot be used change nothing: the credentials of before stay, and the log names the file.
//! Connections that are open stay as they are.
//!
//! Invariant: knows nothing of gRPC, and of sockets only that TLS runs over them.

mod identity;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

pub use self::identity::ServerIdentity;

/// What a worker shows to gateways, and which of them it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// What it shows.
    pub identity: IdentityFiles,
    /// Authorities, as PEM; whoever has a certificate of one of them is served. Everybody is if absent.
    pub client_roots: Option<PathBuf>,
}

/// Which workers a gateway believes, and what it shows to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// Authorities, as PEM; a worker has a certificate of one of them.
    pub roots: PathBuf,
    /// What it shows; nothing if absent.
    pub identity: Option<IdentityFiles>,
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain, its own certificate first.
    pub certificate: PathBuf,
    /// The key of that.
    pub key: PathBuf,
}

/// Certificates, keys or names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("read {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not PEM.
    #[error("find {what} in {path}; it must be PEM")]
    Pem {
        /// Which one.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// What a file holds cannot be used.
    #[error("use {path}")]
    Unusable {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// Authorities cannot be used to check anybody.
    #[error("check certificates against {path}")]
    Roots {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// This is nothing a certificate could be for.
    #[error("`{name}` is neither the name of a machine nor an address")]
    Name {
        /// What was given.
        name: String,
    },
}

/// The credentials of a worker, which accepts connections.
#[derive(Debug)]
pub struct ServerCredentials(Kept<ServerFiles>);

/// The credentials of a gateway, or of anybody else who connects to workers.
#[derive(Debug)]
pub struct ClientCredentials {
    kept: Kept<ClientFiles>,
    server_name: Option<ServerName<'static>>,
}

impl ServerCredentials {
    /// Those in `files`.
    pub fn open(files: ServerFiles) -> Result<Self, CredentialsError> {
        Ok(Self(Kept::open(files)?))
    }

    /// Those that count for a connection made now.
    pub(crate) async fn now(&self) -> Arc<ServerConfig> {
        self.0.now().await
    }
}

impl ClientCredentials {
    /// Those in `files`. Workers have certificates for `server_name`, or each for the host in its address.
    pub fn open(files: ClientFiles, server_name: Option<&str>) -> Result<Self, CredentialsError> {
        let server_name = server_name.map(Self::name).transpose()?;
        Ok(Self { kept: Kept::open(files)?, server_name })
    }

    /// Those that count for a connection made now.
    pub(crate) async fn now(&self) -> Arc<ClientConfig> {
        self.kept.now().await
    }

    /// What the certificate of the worker at `host` has to be for.
    pub(crate) fn name_of(&self, host: &str) -> Result<ServerName<'static>, CredentialsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => Self::name(host.trim_matches(['[', ']'])),
        }
    }

    fn name(name: &str) -> Result<ServerName<'static>, CredentialsError> {
        ServerName::try_from(name.to_owned())
            .map_err(|_| CredentialsError::Name { name: name.to_owned() })
    }
}

/// Files that something is made of.
trait Source: Clone + std::fmt::Debug + Send + 'static {
    /// What is made of them.
    type Made: Send + Sync + 'static;

    fn paths(&self) -> Vec<&Path>;
    fn make(&self, held: &Contents) -> Result<Self::Made, CredentialsError>;
}

impl Source for ServerFiles {
    type Made = ServerConfig;

    fn paths(&self) -> Vec<&Path> {
        let Self { identity, client_roots } = self;
        let mut paths = vec![identity.certificate.as_path(), identity.key.as_path()];
        paths.extend(client_roots.as_deref());
        paths
    }

    fn make(&self, held: &Contents) -> Result<ServerConfig, CredentialsError> {
        let config = ServerConfig::builder_with_provider(provider());
        let config = config
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| unusable(&self.identity.certificate, source))?;
        let config = match &self.client_roots {
            None => config.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(held.roots(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = verifier
                    .build()
                    .map_err(|source| CredentialsError::Roots { path: path.clone(), source })?;
                config.with_client_cert_verifier(verifier)
            }
        };
        let (chain, key) = held.identity(&self.identity)?;
        let mut config = config
            .with_single_cert(chain, key)
            .map_err(|source| unusable(&self.identity.certificate, source))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(config)
    }
}

impl Source for ClientFiles {
    type Made = ClientConfig;

    fn paths(&self) -> Vec<&Path> {
        let Self { roots, identity } = self;
        let mut paths = vec![roots.as_path()];
        if let Some(IdentityFiles { certificate, key }) = identity {
            paths.extend([certificate.as_path(), key.as_path()]);
        }
        paths
    }

    fn make(&self, held: &Contents) -> Result<ClientConfig, CredentialsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| unusable(&self.roots, source))?
            .with_root_certificates(held.roots(&self.roots)?);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = held.identity(files)?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|source| unusable(&files.certificate, source))?
            }
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(config)
    }
}

/// What files hold.
#[derive(PartialEq, Eq)]
struct Contents(BTreeMap<PathBuf, Vec<u8>>);

impl Contents {
    fn read(paths: &[&Path]) -> Result<Self, CredentialsError> {
        let mut contents = BTreeMap::new();
        for path in paths {
            let bytes = std::fs::read(path)
                .map_err(|source| CredentialsError::File { path: path.to_path_buf(), source })?;
            contents.insert(path.to_path_buf(), bytes);
        }
        Ok(Self(contents))
    }

    fn of(&self, path: &Path) -> &[u8] {
        self.0.get(path).map_or(&[], Vec::as_slice)
    }

    /// All certificates in a file; there is at least one.
    fn certificates(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.of(path)).collect();
        match found {
            Ok(found) if found.is_empty() => Err(pem::Error::NoItemsFound),
            found => found,
        }
        .map_err(|source| CredentialsError::Pem {
            path: path.to_owned(),
            what: CHAIN,
            source,
        })
    }

    fn identity(
        &self,
        files: &IdentityFiles,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CredentialsError> {
        let chain = self.certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(self.of(&files.key)).map_err(|source| {
            CredentialsError::Pem { path: files.key.clone(), what: "a private key", source }
        })?;
        Ok((chain, key))
    }

    fn roots(&self, path: &Path) -> Result<RootCertStore, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(path)? {
            roots.add(certificate).map_err(|source| unusable(path, source))?;
        }
        Ok(roots)
    }
}

/// Something made of files, and made anew when they change.
struct Kept<S: Source> {
    files: S,
    state: Arc<Mutex<State<S::Made>>>,
}

struct State<M> {
    made: Arc<M>,
    /// What it was made of.
    held: Contents,
    /// What was seen last and could not be used; it is complained about once.
    refused: Option<Contents>,
    look_at: Instant,
}

impl<S: Source> Kept<S> {
    fn open(files: S) -> Result<Self, CredentialsError> {
        let held = Contents::read(&files.paths())?;
        let made = Arc::new(files.make(&held)?);
        let state = State { made, held, refused: None, look_at: Instant::now() + EVERY };
        Ok(Self { files, state: Arc::new(Mutex::new(state)) })
    }

    /// What counts now. Whoever comes first after ten seconds looks at the files; others do not wait for it.
    async fn now(&self) -> Arc<S::Made> {
        if let Some(looking) = self.look_if_due() {
            // It cannot fail but by a panic, and then nothing has changed.
            let _ = looking.await;
        }
        self.made()
    }

    /// What counts, whatever the files hold by now.
    fn made(&self) -> Arc<S::Made> {
        with(&self.state, |state| Arc::clone(&state.made))
    }

    /// Has the files looked at, if ten seconds have gone by. Must be called inside a tokio runtime.
    fn look_if_due(&self) -> Option<JoinHandle<()>> {
        let now = Instant::now();
        let is_due = with(&self.state, |state| {
            let is_due = state.look_at <= now;
            if is_due {
                state.look_at = now + EVERY;
            }
            is_due
        });
        is_due.then(|| {
            let (files, state) = (self.files.clone(), Arc::clone(&self.state));
            tokio::task::spawn_blocking(move || look(&files, &state))
        })
    }

    /// Looks at the files now, and says what is wrong with them.
    fn look(&self) -> Result<(), CredentialsError> {
        renew(&self.files, &self.state, Contents::read(&self.files.paths())?)
    }
}

impl<S: Source> std::fmt::Debug for Kept<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never what is in them.
        self.files.fmt(formatter)
    }
}

/// Looks at the files, and complains once of what cannot be used.
fn look<S: Source>(files: &S, state: &Mutex<State<S::Made>>) {
    let looked = Contents::read(&files.paths()).and_then(|held| {
        let is_known = with(state, |state| state.refused.as_ref() == Some(&held));
        if is_known { Ok(()) } else { renew(files, state, held) }
    });
    if let Err(error) = looked {
        let error: &dyn Error = &error;
        tracing::error!(error, ?files, "new credentials cannot be used; the old ones stay");
    }
}

/// What the files hold counts from now on, if it can be used.
fn renew<S: Source>(
    files: &S,
    state: &Mutex<State<S::Made>>,
    held: Contents,
) -> Result<(), CredentialsError> {
    if with(state, |state| state.held == held) {
        return Ok(());
    }
    match files.make(&held) {
        Ok(made) => {
            with(state, |state| {
                (state.made, state.held, state.refused) = (Arc::new(made), held, None);
            });
            tracing::info!(?files, "new credentials count from now on");
            Ok(())
        }
        Err(error) => {
            with(state, |state| state.refused = Some(held));
            Err(error)
        }
    }
}

fn with<M, T>(state: &Mutex<State<M>>, change: impl FnOnce(&mut State<M>) -> T) -> T {
    change(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}

fn unusable(path: &Path, source: rustls::Error) -> CredentialsError {
    CredentialsError::Unusable { path: path.to_owned(), source }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// gRPC is HTTP/2 and nothing else.
pub(crate) const HTTP2: &[u8] = b"h2";
const CHAIN: &str = "a certificate";
/// How often files are looked at, at most.
const EVERY: Duration = Duration::from_secs(10);
