//! Identity providers, as written and as meant.

use admission::bearer::{Issuer, TokenAlgorithm, TokenKeys, TokenProject};
use domain::Problems;
use serde::Deserialize;

/// An identity provider whose tokens are believed, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIssuer {
    /// The `iss` claim of its tokens.
    issuer: String,
    /// Accepted values of the `aud` claim.
    audiences: Vec<String>,
    /// Accepted algorithms.
    #[serde(default = "default_algorithms")]
    algorithms: Vec<TokenAlgorithm>,
    /// Where its key set is published.
    jwks_url: Option<String>,
    /// The key set itself, as JSON text; instead of `jwks_url`.
    jwks: Option<String>,
    /// The project that all of its tokens are for.
    project: Option<String>,
    /// The claim that names the project; instead of `project`.
    project_claim: Option<String>,
    /// The claim that names the end user.
    user_claim: Option<String>,
}

/// What they mean, or everything that is wrong with them.
pub(super) fn check(raw: Vec<RawIssuer>, problems: &mut Problems) -> Vec<Issuer> {
    let check = |(at, raw): (usize, RawIssuer)| raw.check(&format!("issuers[{at}]"), problems);
    raw.into_iter().enumerate().filter_map(check).collect()
}

impl RawIssuer {
    fn check(self, at: &str, problems: &mut Problems) -> Option<Issuer> {
        let Self {
            issuer,
            audiences,
            algorithms,
            jwks_url,
            jwks,
            project,
            project_claim,
            user_claim,
        } = self;
        let mut refuse =
            |field: &str, message: &str| problems.add(format!("{at}.{field}"), message);
        if issuer.is_empty() {
            refuse("issuer", "must be the `iss` claim of its tokens");
        }
        if audiences.is_empty() {
            refuse(
                "audiences",
                "must name at least one: a token for somebody else must not count here",
            );
        }
        if algorithms.is_empty() {
            refuse("algorithms", "must name at least one");
        }
        let keys = match (jwks_url, jwks) {
            (Some(url), None) if is_private(&url) => Some(TokenKeys::Fetched(url)),
            (Some(_), None) => {
                refuse(
                    "jwks_url",
                    "must be https://..., or http:// on loopback: who changes keys is believed",
                );
                None
            }
            (None, Some(text)) => Some(TokenKeys::Fixed(text)),
            _ => {
                refuse("jwks_url", "must be set, or `jwks`, and not both");
                None
            }
        };
        let project = match (project, project_claim) {
            (Some(id), None) => match id.parse() {
                Ok(id) => Some(TokenProject::Fixed(id)),
                Err(error) => {
                    refuse("project", &format!("{error}"));
                    None
                }
            },
            (None, Some(claim)) => Some(TokenProject::Claim(claim)),
            _ => {
                refuse("project", "must be set, or `project_claim`, and not both");
                None
            }
        };
        Some(Issuer {
            name: issuer,
            audiences,
            algorithms,
            keys: keys?,
            project: project?,
            user_claim,
        })
    }
}

/// Whether nobody between can change what is fetched from there.
fn is_private(url: &str) -> bool {
    let loopback =
        ["http://127.0.0.1:", "http://127.0.0.1/", "http://localhost:", "http://localhost/"];
    url.starts_with("https://") || loopback.iter().any(|start| url.starts_with(start))
}

fn default_algorithms() -> Vec<TokenAlgorithm> {
    vec![TokenAlgorithm::RS256, TokenAlgorithm::ES256, TokenAlgorithm::EdDSA]
}
