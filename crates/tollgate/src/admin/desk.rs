//! Where commands meet the registry: asks, and prints what came of it.

use admission::tenancy::{
    Actor, Changed, Fate, Kept, Listing, Parent, Registry, Request, Terms as RegistryTerms,
};
use anyhow::Result;
use clap::Args;
use domain::{OrganizationId, ProjectId};
use gateway::Installation;
use serde_json::Value;

use crate::print::{say, say_json, table};

/// How changes are made, and how answers look.
#[derive(Args)]
pub(super) struct Terms {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Only say what would be
    #[arg(long, global = true)]
    dry_run: bool,
    /// Change the record only if it is still at this version
    #[arg(long, global = true, value_name = "VERSION")]
    if_version: Option<u64>,
    /// What this change is called; called so again within a day, it is not done again
    #[arg(long, global = true, value_name = "TEXT")]
    idempotency_key: Option<String>,
}

/// Which records are listed.
#[derive(Args)]
pub(super) struct Listed {
    /// Only those of this organization
    #[arg(long, value_name = "ID", conflicts_with = "project")]
    organization: Option<OrganizationId>,
    /// Only those of this project
    #[arg(long, value_name = "ID")]
    project: Option<ProjectId>,
    /// Only those with this name
    #[arg(long)]
    name: Option<String>,
}

impl Listed {
    /// All of this name, or all there are.
    pub(super) const fn named(name: Option<String>) -> Self {
        Self { organization: None, project: None, name }
    }
}

/// A kind of record as a row of a table, and as JSON.
pub(super) trait Shown: Kept {
    /// The columns after id and name.
    const TITLES: &'static [&'static str];

    /// What is in them.
    fn cells(&self) -> Vec<String>;

    /// What the JSON calls a new secret.
    const SECRET: &'static str = "token";
}

/// A command at work.
pub(super) struct Desk {
    pub(super) installation: Installation,
    terms: Terms,
}

impl Desk {
    pub(super) const fn new(installation: Installation, terms: Terms) -> Self {
        Self { installation, terms }
    }

    pub(super) const fn registry(&self) -> &Registry {
        self.installation.registry()
    }

    pub(super) const fn wants_json(&self) -> bool {
        self.terms.json
    }

    pub(super) const fn is_dry_run(&self) -> bool {
        self.terms.dry_run
    }

    /// Makes a change, and prints the record as it is then.
    pub(super) async fn change<R>(&self, request: R) -> Result<()>
    where
        R: Request,
        R::Record: Shown,
    {
        self.change_seen(request, None).await
    }

    /// Makes a change that was drafted from version `seen` of the record.
    pub(super) async fn change_seen<R>(&self, request: R, seen: Option<u64>) -> Result<()>
    where
        R: Request,
        R::Record: Shown,
    {
        let Terms { dry_run, if_version, idempotency_key, .. } = &self.terms;
        let terms = RegistryTerms {
            expected_version: if_version.or(seen),
            idempotency_key: idempotency_key.clone(),
            dry_run: *dry_run,
        };
        let changed = self.registry().change(Actor::Local, &request, &terms).await?;
        self.show_changed(&changed).await
    }

    /// Prints one record.
    pub(super) async fn show<K: Shown>(&self, id: K::Id) -> Result<()> {
        let record: K = self.read(id).await?;
        if self.terms.json {
            return say_json(&self.json(&record).await?);
        }
        say(&rows(std::slice::from_ref(&record)))
    }

    pub(super) async fn read<K: Kept>(&self, id: K::Id) -> Result<K> {
        Ok(self.registry().read(Actor::Local, id).await?)
    }

    /// Prints every record that was asked for.
    pub(super) async fn list<K: Shown>(&self, listed: Listed) -> Result<()> {
        let Listed { organization, project, name } = listed;
        let organization = organization.map(Parent::Organization);
        let within = project.map(Parent::Project).or(organization);
        let mut listing = Listing { within, name, after: None, limit: Listing::MAX_LIMIT };
        let mut records: Vec<K> = Vec::new();
        loop {
            let page = self.registry().list(Actor::Local, &listing).await?;
            records.extend(page.records);
            let Some(next) = page.next else { break };
            listing.after = Some(next);
        }
        if !self.terms.json {
            return say(&rows(&records));
        }
        let mut all = Vec::new();
        for record in &records {
            all.push(self.json(record).await?);
        }
        say_json(&Value::Array(all))
    }

    async fn show_changed<K: Shown>(&self, changed: &Changed<K>) -> Result<()> {
        let Changed { record, secret, fate } = changed;
        if self.terms.json {
            let mut json = self.json(record).await?;
            if let Some(secret) = secret {
                json[K::SECRET] = secret.expose().into();
            }
            return say_json(&json);
        }
        if let Some(secret) = secret {
            say(&format!("{}\n\nThis secret is not shown again.\n\n", secret.expose()))?;
        }
        say(match fate {
            Fate::Done => "",
            Fate::Unchanged => "nothing to change\n",
            Fate::Replayed => "done before, under the same idempotency key\n",
            Fate::Planned => "a dry run; nothing was changed\n",
        })?;
        say(&rows(std::slice::from_ref(record)))
    }

    /// A record as JSON, without what is kept of secrets.
    async fn json<K: Shown>(&self, record: &K) -> Result<Value> {
        let mut json = serde_json::to_value(record)?;
        if let Some(fields) = json.as_object_mut() {
            for private in ["digest", "retiring"] {
                if K::PREFIX != PRICE {
                    fields.remove(private);
                }
            }
            if let Some(webhook) = fields.get_mut("webhook").and_then(Value::as_object_mut) {
                webhook.remove("secret");
            }
        }
        let project = json["project"].as_str().and_then(|project| project.parse().ok());
        if let Some(project) = project {
            let project: Option<admission::tenancy::Project> = self.read(project).await.ok();
            json["organization"] = serde_json::to_value(project.map(|found| found.organization))?;
        }
        Ok(json)
    }
}

fn rows<K: Shown>(records: &[K]) -> String {
    let mut titles = vec!["ID", "NAME"];
    titles.extend(K::TITLES);
    let row = |record: &K| {
        let mut row = vec![record.id().to_string(), record.name().to_owned()];
        row.extend(record.cells());
        row
    };
    table(&titles, &records.iter().map(row).collect::<Vec<_>>())
}

/// The digest of a price is a model's, and no secret.
const PRICE: &str = <admission::tenancy::PriceRecord as Kept>::PREFIX;
