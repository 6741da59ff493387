//! What a gateway shows to its clients, from files that change.

use std::sync::Arc;
use std::time::Duration;

use proto::ServerIdentity;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::Files;
use crate::ten_seconds_pass;

#[tokio::test]
async fn a_certificate_that_was_renewed_is_shown_after_some_seconds() {
    let files = Files::new();
    let identity = Arc::new(ServerIdentity::open(files.identity("worker")).unwrap());
    let old = shown(&files, &identity).await;

    files.shows("worker", &files.workers.signs("localhost"));
    assert_eq!(shown(&files, &identity).await, old, "files are not looked at all the time");
    ten_seconds_pass().await;

    let renewed = async { while shown(&files, &identity).await == old {} };
    tokio::time::timeout(LIMIT, renewed).await.expect("the new one is shown");
}

#[tokio::test]
async fn files_that_do_not_belong_together_change_nothing_and_are_told() {
    let files = Files::new();
    let identity = Arc::new(ServerIdentity::open(files.identity("worker")).unwrap());
    let old = shown(&files, &identity).await;

    files.write("worker.key", &files.read("gateway.key"));

    for _ in 0..2 {
        let refused = identity.look().unwrap_err().to_string();
        assert!(refused.contains("worker.crt"), "{refused}");
    }
    assert_eq!(shown(&files, &identity).await, old);
}

/// What a client is shown that believes in the authority of workers.
async fn shown(files: &Files, identity: &Arc<ServerIdentity>) -> CertificateDer<'static> {
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(identity) as _);
    let mut roots = RootCertStore::empty();
    let authority = files.read("workers.roots");
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from("localhost").unwrap();
    let (connected, accepted) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect(name, near),
        TlsAcceptor::from(Arc::new(server)).accept(far),
    );
    accepted.unwrap();
    let (_, session) = connected.as_ref().unwrap().get_ref();
    session.peer_certificates().unwrap()[0].clone()
}

const LIMIT: Duration = Duration::from_secs(20);
