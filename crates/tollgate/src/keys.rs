//! `tollgate keys` and `tollgate limits`: on the data directory, also of a running gateway.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use gateway::{KeyRequest, KeyTable, LimitsRequest};

/// Make, list and revoke API keys
#[derive(Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Make a key; its secret is shown once
    Create(Create),
    /// List keys
    List(Place),
    /// Revoke a key; gateways refuse it within a second
    Revoke {
        #[command(flatten)]
        place: Place,
        /// The key's id (`key_...`)
        id: String,
    },
}

/// Where keys are kept, and how answers look.
#[derive(Args)]
struct Place {
    /// The data directory of the gateway
    #[arg(long, default_value = "tollgate-data", value_name = "DIR")]
    data: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Create {
    #[command(flatten)]
    place: Place,
    /// A name, for people
    #[arg(long)]
    name: String,
    /// The project it belongs to, by name; made if there is none
    #[arg(long)]
    project: Option<String>,
    /// A model it may use; repeat for more. Without any, all
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    #[command(flatten)]
    limits: LimitArguments,
}

/// What may stand at a scope. Absent means unlimited.
#[derive(Args)]
struct LimitArguments {
    /// Requests admitted per minute
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u32>,
    /// Prompt and completion tokens per minute
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u32>,
    /// Requests running at the same time
    #[arg(long, value_name = "N")]
    concurrent_requests: Option<u32>,
    /// The most that may be charged, in dollars
    #[arg(long, value_name = "AMOUNT")]
    budget_usd: Option<String>,
}

/// Make a new admin token; the one before it is worth nothing from then on
#[derive(Args)]
pub(crate) struct AdminToken {
    #[command(flatten)]
    place: Place,
}

/// Set rate limits and a budget; what is not given is lifted
#[derive(Args)]
pub(crate) struct Limits {
    #[command(flatten)]
    place: Place,
    /// An organization (`org_...`), a project (`proj_...`) or a key (`key_...`)
    scope: String,
    #[command(flatten)]
    wanted: LimitArguments,
}

impl Keys {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            KeysCommand::Create(create) => create.run().await,
            KeysCommand::List(place) => {
                let table = KeyTable(place.open().await?.list().await?);
                place.show(&table.json(), &table.to_string())
            }
            KeysCommand::Revoke { place, id } => {
                let id = place.open().await?.revoke(&id).await?;
                let json = serde_json::json!({ "id": id, "revoked": true });
                place.show(&json, &format!("revoked {id}\n"))
            }
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let Self { place, name, project, models, limits } = self;
        let limits = limits.request();
        let request = KeyRequest { name, project, models, limits };
        std::fs::create_dir_all(&place.data)
            .with_context(|| format!("make {}", place.data.display()))?;
        let (key, record) = place.open().await?.create(request).await?;
        let json = KeyTable::new_key(&key, &record);
        let id = record.scope.key;
        let text = format!("{}\n\nThis is {id}. The key is not shown again.\n", key.expose());
        place.show(&json, &text)
    }
}

impl Limits {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { place, scope, wanted } = self;
        let request = wanted.request();
        let json = serde_json::json!({ "scope": scope, "limits": request });
        let scope = place.open().await?.set_limits(&scope, request).await?;
        place.show(&json, &format!("limits of {scope} set\n"))
    }
}

impl AdminToken {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.place.check()?;
        let token = gateway::AdminToken::open(&self.place.data)?.renew()?;
        let json = serde_json::json!({ "admin_token": token.expose() });
        self.place.show(&json, &format!("{}\n\nThe token is not shown again.\n", token.expose()))
    }
}

impl LimitArguments {
    fn request(self) -> LimitsRequest {
        let Self { requests_per_minute, tokens_per_minute, concurrent_requests, budget_usd } = self;
        LimitsRequest { requests_per_minute, tokens_per_minute, concurrent_requests, budget_usd }
    }
}

impl Place {
    fn check(&self) -> anyhow::Result<()> {
        let data = self.data.display();
        ensure!(self.data.is_dir(), "there is no directory {data}; name the gateway's with --data");
        Ok(())
    }

    async fn open(&self) -> anyhow::Result<gateway::Keys> {
        self.check()?;
        Ok(gateway::Keys::open(&self.data).await?)
    }

    fn show(&self, json: &serde_json::Value, text: &str) -> anyhow::Result<()> {
        let text = if self.json { format!("{json:#}\n") } else { text.to_owned() };
        std::io::stdout().write_all(text.as_bytes()).context("print")
    }
}
