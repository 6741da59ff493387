//! How workers are known and what is shown to them, as written.

use std::path::PathBuf;

use domain::Problems;
use proto::{ClientFiles, IdentityFiles};
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkerTls {
    /// Authorities of the certificates of workers.
    roots: PathBuf,
    /// The chain shown to workers.
    certificate: Option<PathBuf>,
    /// The key of that.
    key: Option<PathBuf>,
    /// What the certificates of all workers are for; absent means each for the host in its address.
    server_name: Option<String>,
}

/// How workers are known and what is shown to them, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerTls {
    /// Certificates, keys and authorities.
    pub files: ClientFiles,
    /// What the certificates of all workers are for; absent means each for the host in its address.
    pub server_name: Option<String>,
}

impl RawWorkerTls {
    pub(super) fn check(self, problems: &mut Problems) -> WorkerTls {
        let Self { roots, certificate, key, server_name } = self;
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(IdentityFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                problems.add("worker_tls.key", "is needed with `certificate`");
                None
            }
            (None, Some(_)) => {
                problems.add("worker_tls.certificate", "is needed with `key`");
                None
            }
        };
        WorkerTls { files: ClientFiles { roots, identity }, server_name }
    }
}

/// Checks the address of a worker that somebody wrote down: one may be reached without TLS where others are not.
pub(super) fn check_address(at: String, address: &str, has_tls: bool, problems: &mut Problems) {
    match address.split_once("://") {
        Some(("http", _)) => {}
        Some(("https", _)) if has_tls => {}
        Some(("https", _)) => {
            let message = format!(
                "`{address}` is reached over TLS; configure [worker_tls], or write it as http://host:port"
            );
            problems.add(at, message);
        }
        _ => {
            let message =
                format!("`{address}` must be written as http://host:port or https://host:port");
            problems.add(at, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_worker_link_is_told_by_name() {
        let raw = RawWorkerTls {
            roots: "roots".into(),
            certificate: Some("certificate".into()),
            key: None,
            server_name: None,
        };
        let mut problems = Problems::default();

        raw.check(&mut problems);
        check_address("workers[0].address".to_owned(), "https://a:1", false, &mut problems);
        check_address("workers[1].address".to_owned(), "a:1", true, &mut problems);
        check_address("workers[2].address".to_owned(), "https://a:1", true, &mut problems);
        check_address("workers[3].address".to_owned(), "http://a:1", true, &mut problems);

        let told = problems.into_result(()).unwrap_err().to_string();
        for at in ["worker_tls.key", "workers[0].address", "[worker_tls]", "workers[1].address"] {
            assert!(told.contains(at), "{at} is missing in: {told}");
        }
        assert!(!told.contains("workers[2]") && !told.contains("workers[3]"), "{told}");
    }
}
