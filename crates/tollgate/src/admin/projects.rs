//! `tollgate admin projects`.

use admission::tenancy::{NewProject, Policy, Project, ProjectDeletion, ProjectUpdate};
use clap::{Args, Subcommand};
use domain::{OrganizationId, ProjectId};

use super::desk::{Desk, Listed, Shown};
use super::policy::{self, PolicyArguments};
use super::words::Words;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List them
    List(Listed),
    /// Show one
    Show { id: ProjectId },
    /// Make one
    Create {
        /// Its organization; the first one if it is not given
        #[arg(long, value_name = "ID")]
        organization: Option<OrganizationId>,
        /// A name, for people
        #[arg(long)]
        name: String,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Change one
    Update {
        id: ProjectId,
        /// A new name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Remove one that has nothing in it
    Delete { id: ProjectId },
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
            Self::List(listed) => desk.list::<Project>(listed).await,
            Self::Show { id } => desk.show::<Project>(id).await,
            Self::Create { organization, name, fields } => {
                let organization = match organization {
                    Some(organization) => organization,
                    None => desk.registry().establish().await?.organization.id,
                };
                let mut project = NewProject::called(name, organization);
                project.policy = fields.policy.patch(&Policy::default());
                project.metadata = fields.words.metadata();
                desk.change(project).await
            }
            Self::Update { id, name, fields } => {
                let before: Project = desk.read(id).await?;
                let mut update = ProjectUpdate::of(id);
                update.name = name;
                update.policy = fields.policy.patch(&before.policy);
                update.metadata = fields.words.patch();
                desk.change_seen(update, Some(before.version)).await
            }
            Self::Delete { id } => desk.change(ProjectDeletion { project: id }).await,
        }
    }
}

impl Shown for Project {
    const TITLES: &'static [&'static str] = &policy::TITLES;

    fn cells(&self) -> Vec<String> {
        policy::cells(&self.policy)
    }
}
