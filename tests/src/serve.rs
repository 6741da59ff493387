//! `tollgate serve`: the whole product in one process, in a folder of its own.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Admin, Api, Process, http, run};

/// A ready `tollgate serve` on free ports. Killed, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Serve {
    data: TempDir,
    extra: Vec<String>,
    process: Process,
    first_run: FirstRun,
    http: reqwest::Client,
}

/// A key made by `tollgate admin keys create`.
#[derive(Clone, Debug)]
pub struct Key {
    /// What names the key to `tollgate admin keys revoke`.
    pub id: String,
    /// What a client sends.
    pub api_key: String,
    /// The project it belongs to.
    pub project: String,
    /// The organization that one belongs to.
    pub organization: String,
}

/// What a stopped server leaves behind.
#[derive(Debug)]
pub struct Left {
    /// Its folder; removed when dropped.
    pub data: TempDir,
    /// The key of the first run.
    pub api_key: String,
    /// The administrator's token.
    pub admin_token: String,
}

/// What the first run wrote down.
#[derive(Clone, Debug)]
struct FirstRun {
    endpoint: String,
    admin_endpoint: String,
    api_key: String,
    admin_token: String,
}

impl Serve {
    /// Starts a fresh server and waits until it is ready.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Like [`Serve::start`], with further arguments.
    pub async fn start_with(extra: &[&str]) -> anyhow::Result<Self> {
        let data = TempDir::with_prefix("tollgate-").context("create a folder")?;
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let mut process = spawn(data.path(), FREE, FREE, &extra)?;
        let file = data.path().join("first-run.json");
        let first_run =
            process.until("write first-run.json", START_LIMIT, async || first_run(&file)).await?;
        let http = http().build().context("build a client")?;

        let mut serve = Self { data, extra, process, first_run, http };
        serve.ready().await?;
        Ok(serve)
    }

    /// Where clients are served: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.first_run.endpoint
    }

    /// What `OpenAI` clients want as their base URL.
    pub fn base_url(&self) -> String {
        format!("{}/v1", self.endpoint())
    }

    /// Where the admin API is served.
    pub fn admin_endpoint(&self) -> &str {
        &self.first_run.admin_endpoint
    }

    /// The key of the first run.
    pub fn api_key(&self) -> &str {
        &self.first_run.api_key
    }

    /// The administrator's token.
    pub fn admin_token(&self) -> &str {
        &self.first_run.admin_token
    }

    /// The folder that holds all of the server's state.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The process: its id, what it said, signals to it.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything it said, for the message of a failing test.
    pub fn story(&self) -> String {
        self.process.story()
    }

    /// A client whose connections are kept, as those of real ones.
    pub const fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Waits until the server says that it is ready.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let url = format!("{}/readyz", self.endpoint());
        let http = &self.http;
        let look = async || is_ready(http, &url).await.then_some(());
        self.process.until("become ready", START_LIMIT, look).await
    }

    /// Asks the server to stop, as Ctrl-C does, and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.stop().await
    }

    /// Ends the server at once, as a machine that loses its power.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// Stops the server if it runs, and starts it with the same folder, on the same ports.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.stop().await?;
        let listen = address(&self.first_run.endpoint);
        let admin_listen = address(&self.first_run.admin_endpoint);
        self.process = spawn(self.data.path(), listen, admin_listen, &self.extra)?;
        self.ready().await
    }

    /// Creates a key by the command line, and waits until the server knows it; `options` are what
    /// the command takes, such as `["--limit", "requests-per-minute=1"]`.
    pub async fn create_key(&self, name: &str, options: &[&str]) -> anyhow::Result<Key> {
        let key = create_key(self.data.path(), name, options).await?;
        self.api().with_key(&key.api_key).known().await?;
        Ok(key)
    }

    /// Sets the limits of an organization, a project or a key, and waits until the server knows them.
    pub async fn set_limits(&self, scope: &str, options: &[&str]) -> anyhow::Result<()> {
        let data = self.data.path().display().to_string();
        let kind = match scope.split('_').next() {
            Some("org") => "organizations",
            Some("proj") => "projects",
            _ => "keys",
        };
        let mut arguments = vec!["admin", "--data", &data, kind, "update", scope];
        arguments.extend(options);
        run(&arguments).await.context("set limits")?;
        // Servers learn of changes in their order: who knows this key knows the limits.
        self.create_key("marker", &[]).await.map(drop)
    }

    /// The server as the owner of the first key sees it.
    pub fn api(&self) -> Api {
        Api::new(self.endpoint(), self.api_key())
    }

    /// The server as its administrator sees it.
    pub fn admin(&self) -> Admin {
        Admin::new(self.admin_endpoint(), self.admin_token())
    }

    /// Stops the server and leaves its folder to others, with the first run's keys.
    pub async fn leave(mut self) -> anyhow::Result<Left> {
        self.stop().await?;
        let FirstRun { api_key, admin_token, .. } = self.first_run;
        Ok(Left { data: self.data, api_key, admin_token })
    }

    /// Revokes a key by the command line.
    pub async fn revoke_key(&self, id: &str) -> anyhow::Result<()> {
        let data = self.data.path().display().to_string();
        run(&["admin", "--data", &data, "keys", "revoke", id]).await.context("revoke a key")?;
        Ok(())
    }
}

/// Creates a key in the folder `data` by the command line.
pub async fn create_key(data: &Path, name: &str, options: &[&str]) -> anyhow::Result<Key> {
    let data = data.display().to_string();
    let mut arguments = vec!["admin", "--data", &data, "keys", "create", "--name", name, "--json"];
    arguments.extend(options);
    let printed = run(&arguments).await.context("create a key")?;
    let key = serde_json::from_str(&printed).ok().and_then(|key| {
        Some(Key {
            id: text(&key, "id")?,
            api_key: text(&key, "api_key")?,
            project: text(&key, "project")?,
            organization: text(&key, "organization")?,
        })
    });
    key.with_context(|| format!("find a key in {printed}"))
}

fn spawn(
    data: &Path,
    listen: &str,
    admin_listen: &str,
    extra: &[String],
) -> anyhow::Result<Process> {
    let data = data.display().to_string();
    let mut arguments = vec!["serve", "--data", &data];
    arguments.extend(["--listen", listen, "--admin-listen", admin_listen]);
    arguments.extend(extra.iter().map(String::as_str));
    Process::start(&arguments)
}

/// `None` as long as the file is missing or only half written.
fn first_run(file: &Path) -> Option<FirstRun> {
    let written = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    Some(FirstRun {
        endpoint: text(&written, "endpoint")?,
        admin_endpoint: text(&written, "admin_endpoint")?,
        api_key: text(&written, "api_key")?,
        admin_token: text(&written, "admin_token")?,
    })
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(ToOwned::to_owned)
}

pub(crate) async fn is_ready(http: &reqwest::Client, url: &str) -> bool {
    let answer = http.get(url).timeout(Duration::from_secs(1)).send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

fn address(endpoint: &str) -> &str {
    endpoint.strip_prefix("http://").unwrap_or(endpoint)
}

const FREE: &str = "127.0.0.1:0";

/// An unoptimised binary on a busy machine loads the demo model within seconds.
const START_LIMIT: Duration = Duration::from_mins(1);
