//! `tollgate admin keys`.

use std::time::Duration;

use admission::tenancy::{Key, KeyRevocation, KeyRotation, KeyUpdate, NewKey, Policy};
use clap::{Args, Subcommand};
use domain::{KeyId, ProjectId};

use super::desk::{Desk, Listed, Shown};
use super::policy::{self, PolicyArguments};
use super::words::Words;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List them
    List(Listed),
    /// Show one
    Show { id: KeyId },
    /// Make one; its secret is shown once
    Create {
        /// A name, for people
        #[arg(long)]
        name: String,
        /// Its project: an id, or a name in the first organization, made if there is none
        #[arg(long, default_value = "default")]
        project: String,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Change one
    Update {
        id: KeyId,
        /// A new name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Replace the secret of one; the new one is shown once
    Rotate {
        id: KeyId,
        /// For how many seconds the old secret is still good
        #[arg(long, value_name = "SECONDS")]
        grace: Option<u64>,
        /// What this rotation is called; called so again, nothing changes
        #[arg(long, value_name = "TEXT")]
        rotation_id: Option<String>,
    },
    /// End one for good; gateways refuse it within a second
    Revoke { id: KeyId },
}

#[derive(Args)]
pub(super) struct Fields {
    #[command(flatten)]
    policy: PolicyArguments,
    #[command(flatten)]
    words: Words,
}

impl Command {
    pub(super) async fn run(self, desk: &Desk) -> anyhow::Result<()> {
        match self {
            Self::List(listed) => desk.list::<Key>(listed).await,
            Self::Show { id } => desk.show::<Key>(id).await,
            Self::Create { name, project, fields } => {
                let project = match project.parse::<ProjectId>() {
                    Ok(id) => id,
                    Err(_) => desk.registry().project_named(&project).await?.id,
                };
                let mut key = NewKey::called(name, project);
                key.policy = fields.policy.patch(&Policy::default());
                key.metadata = fields.words.metadata();
                desk.change(key).await
            }
            Self::Update { id, name, fields } => {
                let before: Key = desk.read(id).await?;
                let mut update = KeyUpdate::of(id);
                update.name = name;
                update.policy = fields.policy.patch(&before.policy);
                update.metadata = fields.words.patch();
                desk.change_seen(update, Some(before.version)).await
            }
            Self::Rotate { id, grace, rotation_id } => {
                let grace = grace.map_or(KeyRotation::DEFAULT_GRACE, Duration::from_secs);
                desk.change(KeyRotation { key: id, rotation: rotation_id, grace }).await
            }
            Self::Revoke { id } => desk.change(KeyRevocation { key: id }).await,
        }
    }
}

impl Shown for Key {
    const TITLES: &'static [&'static str] = &policy::TITLES;
    const SECRET: &'static str = "api_key";

    fn cells(&self) -> Vec<String> {
        let mut cells = policy::cells(&self.policy);
        if self.revoked_at.is_some() {
            "revoked".clone_into(&mut cells[0]);
        }
        cells
    }
}
