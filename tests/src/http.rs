//! Clients of the endpoints under test.

use rustls::crypto::ring;

/// What every client here is made from: no proxy, and the cryptography that the product uses.
pub fn http() -> reqwest::ClientBuilder {
    // Refused if another client was made before; it is the same one then.
    let _ = ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}
