//! What a server shows to clients that need no certificate, for whoever makes its TLS.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::{Contents, CredentialsError, IdentityFiles, Kept, Source, provider, unusable};

/// A certificate chain and its key, as the files have them.
///
/// Handshakes are not kept waiting for files: whoever comes first after ten seconds has them looked at, and what is found
/// counts for those that come after.
#[derive(Debug)]
pub struct ServerIdentity(Kept<IdentityFiles>);

impl ServerIdentity {
    /// Those in `files`.
    pub fn open(files: IdentityFiles) -> Result<Self, CredentialsError> {
        Ok(Self(Kept::open(files)?))
    }

    /// Looks at the files now. What they hold counts from now on; if it cannot be used, nothing changes. Blocks as long
    /// as reading them does.
    pub fn look(&self) -> Result<(), CredentialsError> {
        self.0.look()
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Whoever is first does not wait for it.
        let _ = self.0.look_if_due();
        Some(self.0.made())
    }
}

impl Source for IdentityFiles {
    type Made = CertifiedKey;

    fn paths(&self) -> Vec<&Path> {
        vec![&self.certificate, &self.key]
    }

    fn make(&self, held: &Contents) -> Result<CertifiedKey, CredentialsError> {
        let (chain, key) = held.identity(self)?;
        CertifiedKey::from_der(chain, key, &provider())
            .map_err(|source| unusable(&self.certificate, source))
    }
}
