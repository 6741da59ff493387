//! The HTTP client of all sources: redirects are followed by who knows which host may see what, and nobody waits forever.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;

use crate::error::{Failure, HubError};

/// A client that follows no redirects, with the certificates that the machine knows.
pub(crate) fn client() -> Result<Client, HubError> {
    let client = Client::builder()
        .tls_backend_preconfigured(tls()?)
        .redirect(Policy::none())
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(SILENCE_TIMEOUT)
        .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .build();
    client.map_err(|error| HubError::Setting { setting: "hub", problem: error.to_string() })
}

fn tls() -> Result<rustls::ClientConfig, HubError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    // A machine without any can still call loopback.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HubError::Setting { setting: "TLS", problem: error.to_string() })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// What went wrong on the way, without the address: its query may be a signature.
pub(crate) fn broken(error: reqwest::Error) -> Failure {
    Failure::passing(crate::error::chain(&error.without_url()))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may say nothing.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(1);
