//! Reads configuration files and writes secrets.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;

/// A configuration file as written.
pub(crate) fn read_config<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow::anyhow!("{}:{line}: {}", path.display(), error.message())
    })
}

/// Writes a file that only its owner may read; it must not exist.
pub(crate) fn write_secret(path: &Path, content: &str) -> anyhow::Result<()> {
    let doing = || format!("write {}", path.display());
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).with_context(doing)?;
    file.write_all(content.as_bytes()).with_context(doing)
}
