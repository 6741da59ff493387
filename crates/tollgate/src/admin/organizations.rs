//! `tollgate admin organizations`.

use admission::tenancy::{
    NewOrganization, Organization, OrganizationDeletion, OrganizationUpdate, Patched, Policy,
    WebhookDraft,
};
use clap::{Args, Subcommand};
use domain::{OrganizationId, Secret};

use super::desk::{Desk, Listed, Shown};
use super::policy::{self, PolicyArguments};
use super::words::Words;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List them
    List {
        /// Only those with this name
        #[arg(long)]
        name: Option<String>,
    },
    /// Show one
    Show { id: OrganizationId },
    /// Make one
    Create {
        /// A name, for people
        #[arg(long)]
        name: String,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Change one
    Update {
        id: OrganizationId,
        /// A new name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Remove one that has nothing in it
    Delete { id: OrganizationId },
}

#[derive(Args)]
pub(super) struct Fields {
    /// The time zone of its days, weeks and months, such as Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Where its alerts are sent; the secret that signs them is made up unless it is given
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// What signs its alerts
    #[arg(long, value_name = "SECRET", requires = "webhook")]
    webhook_secret: Option<String>,
    /// Send its alerts nowhere
    #[arg(long, conflicts_with = "webhook")]
    no_webhook: bool,
    #[command(flatten)]
    policy: PolicyArguments,
    #[command(flatten)]
    words: Words,
}

impl Command {
    pub(super) async fn run(self, desk: &Desk) -> anyhow::Result<()> {
        match self {
            Self::List { name } => desk.list::<Organization>(Listed::named(name)).await,
            Self::Show { id } => desk.show::<Organization>(id).await,
            Self::Create { name, fields } => {
                let Fields { time_zone, webhook, webhook_secret, policy, words, .. } = *fields;
                let webhook = webhook
                    .map(|url| WebhookDraft { url, secret: webhook_secret.map(Secret::new) });
                let policy = policy.patch(&Policy::default());
                let metadata = words.metadata();
                desk.change(NewOrganization { name, time_zone, policy, webhook, metadata }).await
            }
            Self::Update { id, name, fields } => {
                let before: Organization = desk.read(id).await?;
                let Fields { time_zone, webhook, webhook_secret, no_webhook, policy, words } =
                    *fields;
                let webhook = match webhook {
                    Some(url) => {
                        Patched::Set(WebhookDraft { url, secret: webhook_secret.map(Secret::new) })
                    }
                    None if no_webhook => Patched::Cleared,
                    None => Patched::Same,
                };
                let update = OrganizationUpdate {
                    organization: id,
                    name,
                    time_zone,
                    policy: policy.patch(&before.policy),
                    webhook,
                    metadata: words.patch(),
                };
                desk.change_seen(update, Some(before.version)).await
            }
            Self::Delete { id } => desk.change(OrganizationDeletion { organization: id }).await,
        }
    }
}

impl Shown for Organization {
    const TITLES: &'static [&'static str] =
        &["ZONE", policy::TITLES[0], policy::TITLES[1], policy::TITLES[2]];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.time_zone.name().to_owned()];
        cells.extend(policy::cells(&self.policy));
        cells
    }
}
