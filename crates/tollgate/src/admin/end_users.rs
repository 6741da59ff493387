//! `tollgate admin end-users`.

use admission::tenancy::{EndUser, EndUserDeletion, EndUserUpdate, NewEndUser, Policy};
use clap::{Args, Subcommand};
use domain::{EndUserId, ProjectId};

use super::desk::{Desk, Listed, Shown};
use super::policy::{self, PolicyArguments};
use super::words::Words;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List them
    List(Listed),
    /// Show one
    Show { id: EndUserId },
    /// Make one
    Create {
        /// Whose user
        #[arg(long, value_name = "ID")]
        project: ProjectId,
        /// What requests and bearer tokens call this user
        #[arg(long)]
        subject: String,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Change one
    Update {
        id: EndUserId,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Remove one; what holds for every end user of the project holds for it then
    Delete { id: EndUserId },
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
            Self::List(listed) => desk.list::<EndUser>(listed).await,
            Self::Show { id } => desk.show::<EndUser>(id).await,
            Self::Create { project, subject, fields } => {
                let mut user = NewEndUser::called(subject, project);
                user.policy = fields.policy.patch(&Policy::default());
                user.metadata = fields.words.metadata();
                desk.change(user).await
            }
            Self::Update { id, fields } => {
                let before: EndUser = desk.read(id).await?;
                let mut update = EndUserUpdate::of(id);
                update.policy = fields.policy.patch(&before.policy);
                update.metadata = fields.words.patch();
                desk.change_seen(update, Some(before.version)).await
            }
            Self::Delete { id } => desk.change(EndUserDeletion { end_user: id }).await,
        }
    }
}

impl Shown for EndUser {
    const TITLES: &'static [&'static str] = &policy::TITLES;

    fn cells(&self) -> Vec<String> {
        policy::cells(&self.policy)
    }
}
