//! Calls to others: identity providers for their keys, organizations with news of their budgets.
//!
//! Every call has a deadline and a bound on what is read. Redirects are not followed: whoever is asked was
//! configured, and nobody else is.

use std::time::Duration;

use admission::StoreError;
use admission::bearer::KeySets;
use async_trait::async_trait;

/// A client for both.
#[derive(Clone)]
pub(crate) struct Outside {
    client: reqwest::Client,
}

impl Outside {
    pub(crate) fn new() -> Result<Self, StoreError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(DEADLINE)
            .build()
            .map_err(|error| StoreError::new("make a client for calls to others", error))?;
        Ok(Self { client })
    }

    /// Sends JSON; whether it was taken.
    pub(crate) async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Result<(), StoreError> {
        let mut request = self.client.post(url).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = request.body(body).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status);
        answer.map(drop).map_err(|error| StoreError::new("call webhook", error.without_url()))
    }
}

#[async_trait]
impl KeySets for Outside {
    async fn fetch(&self, url: &str) -> Result<String, StoreError> {
        let doing = |error| StoreError::new("fetch key set", error);
        let answer = self.client.get(url).send().await;
        let mut answer = answer.and_then(reqwest::Response::error_for_status).map_err(doing)?;
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(doing)? {
            if text.len() + chunk.len() > MAX_KEY_SET_BYTES {
                return Err(StoreError::new("fetch key set", "it is larger than any key set"));
            }
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).map_err(|error| StoreError::new("fetch key set", error))
    }
}

/// Certificates as the machine knows them.
fn tls() -> Result<rustls::ClientConfig, StoreError> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    // A machine without any can still call loopback.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::new("choose TLS versions", error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

const DEADLINE: Duration = Duration::from_secs(10);
const MAX_KEY_SET_BYTES: usize = 1 << 20;
