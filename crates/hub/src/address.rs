//! What was written as the place of a model: a repository of a hub, a prefix in an object store, or a folder.
//!
//! `hf://org/name`, `hf://org/name@revision`, `hf://org/name/folder/file.gguf@revision`; `https://host/org/name`, which
//! is a repository of the hub at that host; `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, each
//! perhaps up to one `.gguf` file; `file:///path`, or a path. Addresses hold no secrets.

use std::path::{Path, PathBuf};

use reqwest::Url;

use crate::error::HubError;

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(crate) place: Place,
    /// One file that is wanted, instead of a folder with everything; its path within the place.
    pub(crate) file: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Hub { hub: Option<Url>, repository: String, revision: Option<String> },
    Store { kind: StoreKind, bucket: String, prefix: String },
    Folder(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Amazon,
    Google,
    Azure,
}

impl StoreKind {
    pub(crate) const fn scheme(self) -> &'static str {
        match self {
            Self::Amazon => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }
}

impl Address {
    /// Reads what was written. What has no `scheme://` is a path.
    pub fn parse(written: &str) -> Result<Self, HubError> {
        let wrong = |problem: String| HubError::Address { address: shown(written), problem };
        let Some((scheme, rest)) = written.split_once("://") else {
            return Self::of_path(Path::new(written)).map_err(wrong);
        };
        match scheme {
            "hf" => hub(None, rest).map_err(wrong),
            "https" | "http" => web(written).map_err(wrong),
            "s3" => store(StoreKind::Amazon, rest).map_err(wrong),
            "gs" => store(StoreKind::Google, rest).map_err(wrong),
            "az" => store(StoreKind::Azure, rest).map_err(wrong),
            "file" => match Url::parse(written).ok().and_then(|url| url.to_file_path().ok()) {
                Some(path) => Self::of_path(&path).map_err(wrong),
                None => Err(wrong("write `file:///` and an absolute path".to_owned())),
            },
            other => Err(wrong(format!(
                "`{other}` is not known; write hf://, https://, s3://, gs://, az://, file:/// or a path"
            ))),
        }
    }

    fn of_path(path: &Path) -> Result<Self, String> {
        if path.as_os_str().is_empty() {
            return Err("it is empty".to_owned());
        }
        if !is_gguf(&path.to_string_lossy()) {
            return Ok(Self { place: Place::Folder(path.to_owned()), file: None });
        }
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { place: Place::Folder(folder), file })
    }

    /// The same model at another revision, a branch, a tag or a commit. Only hubs have them.
    pub fn at(mut self, other: String) -> Result<Self, HubError> {
        match &mut self.place {
            Place::Hub { revision, .. } => {
                check_revision(&other)
                    .map_err(|problem| HubError::Setting { setting: "revision", problem })?;
                *revision = Some(other);
                Ok(self)
            }
            _ => Err(HubError::Setting {
                setting: "revision",
                problem: "only models of a hub have revisions".to_owned(),
            }),
        }
    }

    /// Where it is on this machine, if it need not be fetched.
    pub fn local(&self) -> Option<PathBuf> {
        let Place::Folder(folder) = &self.place else { return None };
        Some(self.file.as_ref().map_or_else(|| folder.clone(), |file| folder.join(file)))
    }

    /// What to call the model if nobody says: the last part of its address.
    pub fn name(&self) -> String {
        let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().map(str::to_owned);
        let name = match (&self.file, &self.place) {
            (Some(file), _) => last(file.trim_end_matches(".gguf")),
            (None, Place::Hub { repository, .. }) => last(repository),
            (None, Place::Store { bucket, prefix, .. }) => {
                last(if prefix.is_empty() { bucket } else { prefix })
            }
            (None, Place::Folder(folder)) => {
                folder.file_name().map(|name| name.to_string_lossy().into_owned())
            }
        };
        name.unwrap_or_default()
    }
}

fn hub(hub: Option<Url>, rest: &str) -> Result<Address, String> {
    let (path, revision) = match rest.split_once('@') {
        Some((path, revision)) => (path, Some(revision.to_owned())),
        None => (rest, None),
    };
    if let Some(revision) = &revision {
        check_revision(revision)?;
    }
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let [organization, name, file @ ..] = parts.as_slice() else {
        return Err("write hf://organization/name".to_owned());
    };
    if ![*organization, *name].into_iter().all(is_plain_name) {
        return Err("organization and name are letters, digits, `-`, `_` and `.`".to_owned());
    }
    let file = file.join("/");
    let place = Place::Hub { hub, repository: format!("{organization}/{name}"), revision };
    Ok(Address { place, file: named_file(&file)? })
}

/// A repository's page: `https://host/org/name`, or `.../tree/revision`, or `.../resolve/revision/file`.
fn web(written: &str) -> Result<Address, String> {
    let mut url = Url::parse(written).map_err(|error| error.to_string())?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("it must have no user, password or query; tokens are in HF_TOKEN".to_owned());
    }
    let path = url.path().trim_start_matches('/').to_owned();
    url.set_path("");
    let parts: Vec<&str> = path.splitn(5, '/').collect();
    match parts.as_slice() {
        [organization, name, "tree" | "resolve" | "blob", revision, file @ ..] => {
            let file = file.first().map(|file| format!("/{file}")).unwrap_or_default();
            hub(Some(url), &format!("{organization}/{name}{file}@{revision}"))
        }
        _ => hub(Some(url), &path),
    }
}

fn store(kind: StoreKind, rest: &str) -> Result<Address, String> {
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() || !is_plain_name(bucket) {
        return Err(format!("write {}://bucket/prefix", kind.scheme()));
    }
    let path = path.trim_matches('/');
    if !path.is_empty() && !is_plain_path(path) {
        return Err("its prefix has an empty part, or one that is `.` or `..`".to_owned());
    }
    let (prefix, file) = match path.rsplit_once('/') {
        Some((prefix, file)) if is_gguf(file) => (prefix, Some(file)),
        None if is_gguf(path) => ("", Some(path)),
        _ => (path, None),
    };
    let place = Place::Store { kind, bucket: bucket.to_owned(), prefix: prefix.to_owned() };
    Ok(Address { place, file: file.map(str::to_owned) })
}

fn named_file(file: &str) -> Result<Option<String>, String> {
    if file.is_empty() {
        return Ok(None);
    }
    if !is_gguf(file) || !is_plain_path(file) {
        return Err(format!("`{file}` is no .gguf file, and only one of those can be named"));
    }
    Ok(Some(file.to_owned()))
}

fn check_revision(revision: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./+".contains(&byte);
    if revision.is_empty() || !revision.bytes().all(plain) || !is_plain_path(revision) {
        return Err(format!("`{revision}` is no revision: a branch, a tag or a commit"));
    }
    Ok(())
}

fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)
}

/// Whether a path from elsewhere stays in the folder it is put in.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    !path.contains(['\\', '\0']) && path.split('/').all(part)
}

pub(crate) fn is_gguf(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// What was written, without what may be a secret.
fn shown(written: &str) -> String {
    let Some((scheme, rest)) = written.split_once("://") else { return written.to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
    let slash = if rest.contains('/') { "/" } else { "" };
    let host = if scheme.starts_with("http") { host.rsplit('@').next() } else { Some(host) };
    format!("{scheme}://{}{slash}{path}", host.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(written: &str) -> Address {
        Address::parse(written).unwrap_or_else(|error| panic!("{error}"))
    }

    fn of_hub(address: &Address) -> (Option<&str>, &str, Option<&str>) {
        match &address.place {
            Place::Hub { hub, repository, revision } => {
                (hub.as_ref().map(Url::as_str), repository, revision.as_deref())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_repository_may_have_a_revision_and_a_file() {
        let plain = parse("hf://acme/tiny-0.6B");
        let full = parse("hf://acme/tiny/q/tiny-q4.gguf@refs/pr/3");

        assert_eq!(of_hub(&plain), (None, "acme/tiny-0.6B", None));
        assert_eq!(plain.name(), "tiny-0.6B");
        assert_eq!(of_hub(&full), (None, "acme/tiny", Some("refs/pr/3")));
        assert_eq!(full.file.as_deref(), Some("q/tiny-q4.gguf"));
        assert_eq!(full.name(), "tiny-q4");
    }

    #[test]
    fn a_page_of_a_hub_is_a_repository_there() {
        let page = parse("https://hub.example:8443/acme/tiny/tree/v1");
        let file = parse("https://hub.example/acme/tiny/resolve/main/q4.gguf");

        assert_eq!(of_hub(&page), (Some("https://hub.example:8443/"), "acme/tiny", Some("v1")));
        assert_eq!(file.file.as_deref(), Some("q4.gguf"));
    }

    #[test]
    fn a_store_has_a_bucket_and_a_prefix() {
        let store = |kind, bucket: &str, prefix: &str| Place::Store {
            kind,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };

        assert_eq!(parse("s3://b/a/m/").place, store(StoreKind::Amazon, "b", "a/m"));
        assert_eq!(parse("gs://b").place, store(StoreKind::Google, "b", ""));
        let file = parse("az://b/m/x.gguf");
        assert_eq!(
            (file.place, file.file),
            (store(StoreKind::Azure, "b", "m"), Some("x.gguf".into()))
        );
    }

    #[test]
    fn a_path_needs_no_scheme() {
        assert_eq!(parse("/models/a").local(), Some("/models/a".into()));
        assert_eq!(parse("file:///models/a.gguf").local(), Some("/models/a.gguf".into()));
    }

    #[test]
    fn what_is_no_address_is_told_without_its_secrets() {
        for wrong in [
            "ftp://host/model",
            "hf://acme",
            "hf://acme/tiny/weights.bin",
            "hf://acme/../x",
            "hf://acme/tiny@",
            "hf://acme/tiny@a..b/../c",
            "s3://",
            "s3://b/a/../c",
            "file://relative",
            "",
            "https://user:hunter2@hub.example/acme/tiny",
            "https://hub.example/acme/tiny?token=hunter2",
        ] {
            let told = Address::parse(wrong).expect_err(wrong).to_string();
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
