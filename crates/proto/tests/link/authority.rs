//! Authorities that sign certificates for these tests, and the folder where both ends find them.

use std::path::{Path, PathBuf};

use proto::{ClientFiles, IdentityFiles, ServerFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// Somebody who signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for `name`.
    pub(crate) fn signs(&self, name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}

/// The files of a worker and of a gateway that know each other.
pub(crate) struct Files {
    folder: TempDir,
    pub(crate) workers: Authority,
    pub(crate) gateways: Authority,
}

impl Files {
    /// The worker's certificate is for `localhost`.
    pub(crate) fn new() -> Self {
        let (workers, gateways) = (Authority::named("workers"), Authority::named("gateways"));
        let files = Self { folder: tempfile::tempdir().unwrap(), workers, gateways };
        files.trusts("workers", &files.workers);
        files.trusts("gateways", &files.gateways);
        files.shows("worker", &files.workers.signs("localhost"));
        files.shows("gateway", &files.gateways.signs("gateway"));
        files
    }

    /// From now on `authority` is who signs for `whom`.
    pub(crate) fn trusts(&self, whom: &str, authority: &Authority) {
        self.write(&format!("{whom}.roots"), &authority.0.pem());
    }

    /// From now on this is what `who` shows.
    pub(crate) fn shows(&self, who: &str, signed: &Signed) {
        self.write(&format!("{who}.crt"), &signed.certificate);
        self.write(&format!("{who}.key"), &signed.key);
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// A worker that asks gateways for certificates.
    pub(crate) fn mutual(&self) -> ServerFiles {
        ServerFiles { client_roots: Some(self.path("gateways.roots")), ..self.one_sided() }
    }

    /// A worker that asks gateways for nothing.
    pub(crate) fn one_sided(&self) -> ServerFiles {
        ServerFiles { identity: self.identity("worker"), client_roots: None }
    }

    /// A gateway that shows a certificate.
    pub(crate) fn gateway(&self) -> ClientFiles {
        ClientFiles { identity: Some(self.identity("gateway")), ..self.nobody() }
    }

    /// A gateway that shows none.
    pub(crate) fn nobody(&self) -> ClientFiles {
        ClientFiles { roots: self.path("workers.roots"), identity: None }
    }

    pub(crate) fn identity(&self, who: &str) -> IdentityFiles {
        let file = |kind| self.path(&format!("{who}.{kind}"));
        IdentityFiles { certificate: file("crt"), key: file("key") }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }
}
