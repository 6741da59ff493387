//! Finds the binary under test, and runs its short commands.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::{root, told};

/// Where the binary is: as `TOLLGATE_BIN` says, else where cargo builds it.
pub fn tollgate() -> anyhow::Result<PathBuf> {
    let binary = told("TOLLGATE_BIN").map(PathBuf::from);
    let binary = binary.unwrap_or_else(|| root().join("target/debug/tollgate"));
    if !binary.is_file() {
        bail!("there is no binary at {}; run `cargo xtask test`", binary.display());
    }
    Ok(binary)
}

/// Runs a command of the binary that ends by itself, and returns what it printed.
pub async fn run(arguments: &[impl AsRef<OsStr>]) -> anyhow::Result<String> {
    let output = attempt(arguments).await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        bail!("`tollgate {arguments:?}` failed: {}\n{said}", output.status);
    }
    String::from_utf8(output.stdout).context("read what the command printed")
}

/// Runs a command of the binary that ends by itself, well or not.
pub async fn attempt(arguments: &[impl AsRef<OsStr>]) -> anyhow::Result<Output> {
    let mut command = Command::new(tollgate()?);
    let running = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, running).await;
    output.context("the command does not end")?.context("start tollgate")
}

const LIMIT: Duration = Duration::from_secs(30);
