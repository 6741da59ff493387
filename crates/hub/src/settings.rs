//! Where models are kept and which hub is asked: what was written, else what the environment says, else a default.
//!
//! The environment's names are those that other clients of a hub know, so a machine that is set up for them needs nothing.

use std::path::{Path, PathBuf};

use domain::Secret;
use reqwest::Url;

use crate::error::HubError;
use crate::patience::Patience;

/// What was written, in a configuration or on a command line.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Where models are kept.
    pub folder: Option<PathBuf>,
    /// The hub's address.
    pub endpoint: Option<String>,
    /// File that holds the hub's token.
    pub token_file: Option<PathBuf>,
}

/// How models are pulled.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where models are kept that are pulled to no folder in particular.
    pub folder: PathBuf,
    /// The hub of `hf://`.
    pub endpoint: Url,
    /// What is shown to that hub, and to nobody else.
    pub token: Option<Secret<String>>,
    /// Files that are fetched at a time.
    pub parallel: usize,
    /// How often a source is asked again.
    pub patience: Patience,
    /// What the environment says of object stores and of who we are there, as names and values.
    pub stores: Vec<(String, Secret<String>)>,
}

impl Settings {
    /// What was written, completed by `variable` (the environment) and defaults; `folder` is the default of the
    /// folder.
    pub fn read(
        written: Written,
        folder: PathBuf,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, HubError> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let endpoint = written.endpoint.or_else(|| variable("HF_ENDPOINT"));
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let token = match written.token_file {
            Some(file) => Some(read_token(&file)?),
            None => match variable("HF_TOKEN") {
                Some(token) => Some(Secret::new(token.trim().to_owned())),
                None => token_file(variable)
                    .filter(|file| file.is_file())
                    .map(|file| read_token(&file))
                    .transpose()?,
            },
        };
        let kept = written.folder.or_else(|| variable("TOLLGATE_MODELS").map(PathBuf::from));
        Ok(Self {
            folder: kept.unwrap_or(folder),
            endpoint: endpoint_of(&endpoint)?,
            token,
            parallel: DEFAULT_PARALLEL,
            patience: Patience::default(),
            stores: Vec::new(),
        })
    }

    /// The same with the process's environment.
    pub fn from_environment(written: Written, folder: PathBuf) -> Result<Self, HubError> {
        #[expect(clippy::disallowed_methods, reason = "this is configuration")]
        let settings = Self::read(written, folder, |name| std::env::var(name).ok())?;
        let variables = std::env::vars_os();
        let variables = variables.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let of_stores = |name: &str| STORES.iter().any(|start| name.starts_with(start));
        let stores = variables.filter(|(name, _)| of_stores(name));
        Ok(Self {
            stores: stores.map(|(name, value)| (name, Secret::new(value))).collect(),
            ..settings
        })
    }
}

fn endpoint_of(written: &str) -> Result<Url, HubError> {
    let wrong = |problem: String| HubError::Setting { setting: "endpoint", problem };
    let url = Url::parse(written).map_err(|error| wrong(error.to_string()))?;
    let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
    let has_secrets =
        !url.username().is_empty() || url.password().is_some() || url.query().is_some();
    if !is_web || has_secrets {
        return Err(wrong("write https:// and a host, without a user or a query".to_owned()));
    }
    Ok(url)
}

/// Where other clients of a hub keep its token.
fn token_file(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let named = variable("HF_TOKEN_PATH").map(PathBuf::from);
    let home = variable("HF_HOME").map(|home| Path::new(&home).join("token"));
    let usual = || variable("HOME").map(|home| Path::new(&home).join(".cache/huggingface/token"));
    named.or(home).or_else(usual)
}

fn read_token(file: &Path) -> Result<Secret<String>, HubError> {
    let text =
        std::fs::read_to_string(file).map_err(crate::error::disk("read the token in", file))?;
    let token = text.trim();
    let plain = |byte: u8| byte.is_ascii_graphic();
    if token.is_empty() || !token.bytes().all(plain) {
        let problem = format!("there is no token in {}", file.display());
        return Err(HubError::Setting { setting: "token_file", problem });
    }
    Ok(Secret::new(token.to_owned()))
}

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// How the variables begin that the clients of object stores know.
const STORES: &[&str] = &["AWS_", "GOOGLE_", "SERVICE_ACCOUNT", "AZURE_", "MSI_", "IDENTITY_"];
const DEFAULT_PARALLEL: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(written: Written, variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(written, "data/models".into(), variable)
    }

    #[test]
    fn what_was_written_comes_before_the_environment_and_that_before_defaults() {
        let written = Written { endpoint: Some("https://a.example".into()), ..Written::default() };
        let variables = [("HF_ENDPOINT", "https://b.example"), ("TOLLGATE_MODELS", "/m")];

        let both = read(written, &variables).unwrap();
        let neither = read(Written::default(), &[("HF_ENDPOINT", "")]).unwrap();

        assert_eq!(both.endpoint.as_str(), "https://a.example/");
        assert_eq!(both.folder, Path::new("/m"));
        assert_eq!(neither.endpoint.as_str(), "https://huggingface.co/");
        assert_eq!(neither.folder, Path::new("data/models"));
        assert!(neither.token.is_none());
    }

    #[test]
    fn a_token_is_in_the_environment_or_in_a_file_and_is_not_printed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();

        let file = read(Written::default(), &[("HF_HOME", home)]).unwrap();
        let variable = read(Written::default(), &[("HF_HOME", home), ("HF_TOKEN", "hf_variable")]);
        let variable = variable.unwrap();

        assert_eq!(file.token.as_ref().unwrap().expose(), "hf_file");
        assert_eq!(variable.token.as_ref().unwrap().expose(), "hf_variable");
        assert!(!format!("{file:?}{variable:?}").contains("hf_"));
    }

    #[test]
    fn a_token_file_that_is_named_must_be_there() {
        let written = Written { token_file: Some("none/such".into()), ..Written::default() };

        assert!(read(written, &[("HF_TOKEN", "x")]).is_err());
    }
}
