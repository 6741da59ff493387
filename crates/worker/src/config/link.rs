//! Who reaches a worker, and how both sides know each other.
//!
//! Other machines are served when they show something: a certificate, or a token.

use std::net::SocketAddr;
use std::path::PathBuf;

use domain::Problems;
use proto::{ClientFiles, IdentityFiles, ServerFiles};
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    /// The chain that it shows.
    certificate: PathBuf,
    /// The key of that.
    key: PathBuf,
    /// Authorities whose certificates gateways must show; absent means that none is asked for.
    client_roots: Option<PathBuf>,
    /// Authorities of the certificates of other workers; absent means that none is reached over TLS.
    worker_roots: Option<PathBuf>,
    /// What the certificates of all workers are for; absent means each for the host in its address.
    worker_name: Option<String>,
}

/// How other workers are known, and what is shown to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Others {
    /// Certificates, keys and authorities.
    pub files: ClientFiles,
    /// What the certificates of all workers are for; absent means each for the host in its address.
    pub server_name: Option<String>,
}

impl RawTls {
    /// How this worker reaches others.
    pub(super) fn others(&self) -> Option<Others> {
        let Self { certificate, key, worker_roots, worker_name, .. } = self.clone();
        let identity = Some(IdentityFiles { certificate, key });
        let files = ClientFiles { roots: worker_roots?, identity };
        Some(Others { files, server_name: worker_name })
    }

    pub(super) fn files(self) -> ServerFiles {
        let Self { certificate, key, client_roots, .. } = self;
        ServerFiles { identity: IdentityFiles { certificate, key }, client_roots }
    }
}

/// The link between gateways and this worker, as configured.
pub(super) struct Link<'a> {
    pub(super) listen: SocketAddr,
    pub(super) has_token: bool,
    pub(super) tls: Option<&'a ServerFiles>,
    /// Where it says that it is.
    pub(super) announced: Option<&'a str>,
}

impl Link<'_> {
    pub(super) fn check(&self, problems: &mut Problems) {
        let Self { listen, has_token, tls, announced } = self;
        let knows_gateways = *has_token || tls.is_some_and(|tls| tls.client_roots.is_some());
        if !listen.ip().is_loopback() && !knows_gateways {
            let message = "any machine would be served; set it, or `tls.client_roots` to ask gateways for certificates, or listen on 127.0.0.1";
            problems.add("token_file", message);
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let right = |address: &str| address.split_once("://").is_some_and(|(is, _)| is == scheme);
        if announced.is_some_and(|address| !right(address)) {
            let with = if tls.is_some() { "with" } else { "without" };
            let message = format!("must be written as {scheme}://host:port, {with} [tls]");
            problems.add("announce.address", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(client_roots: Option<&str>) -> ServerFiles {
        let identity = IdentityFiles { certificate: "c".into(), key: "k".into() };
        ServerFiles { identity, client_roots: client_roots.map(Into::into) }
    }

    fn said(listen: &str, has_token: bool, tls: Option<&ServerFiles>) -> Option<String> {
        let mut problems = Problems::default();
        let listen = listen.parse().unwrap();
        Link { listen, has_token, tls, announced: None }.check(&mut problems);
        problems.into_result(()).err().map(|problems| problems.to_string())
    }

    #[test]
    fn other_machines_are_served_only_if_they_show_something() {
        let (mutual, one_sided) = (tls(Some("r")), tls(None));
        for (token, tls) in [(false, None), (false, Some(&one_sided))] {
            let said = said("0.0.0.0:1", token, tls).expect("it is refused");
            assert!(said.contains("token_file") && said.contains("tls.client_roots"), "{said}");
        }
        for (token, tls) in [(true, None), (true, Some(&one_sided)), (false, Some(&mutual))] {
            assert_eq!(said("0.0.0.0:1", token, tls), None);
        }
        assert_eq!(said("127.0.0.1:1", false, None), None);
    }

    #[test]
    fn a_worker_announces_itself_as_it_is_reached() {
        let secure = tls(None);
        let cases = [
            (None, "http://a:1", true),
            (None, "https://a:1", false),
            (None, "a:1", false),
            (Some(&secure), "https://a:1", true),
            (Some(&secure), "http://a:1", false),
        ];
        for (tls, address, right) in cases {
            let mut problems = Problems::default();
            let listen = "127.0.0.1:1".parse().unwrap();
            let link = Link { listen, has_token: true, tls, announced: Some(address) };
            link.check(&mut problems);
            assert_eq!(problems.into_result(()).is_ok(), right, "{address}");
        }
    }
}
