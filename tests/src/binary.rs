//! Finds the binary under test, and runs its short commands.

use std::ffi::OsStr;
use std::path::PathBuf;
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
    let mut command = Command::new(tollgate()?);
    let running = command.args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, running).await;
    let output = output.context("the command does not end")?.context("start tollgate")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{:?}` failed: {}\n{said}", command.as_std(), output.status);
    }
    String::from_utf8(output.stdout).context("read what the command printed")
}

const LIMIT: Duration = Duration::from_secs(30);
