//! `tollgate admin admins`.

use admission::tenancy::{Admin, AdminRevocation, AdminRotation, AdminUpdate, NewAdmin, Role};
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use domain::{AdminId, OrganizationId, ProjectId};

use super::desk::{Desk, Listed, Shown};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List them
    List(Listed),
    /// Show one
    Show { id: AdminId },
    /// Make one; the token is shown once
    Create {
        /// A name, for people
        #[arg(long)]
        name: String,
        #[command(flatten)]
        office: Office,
    },
    /// Rename one
    Update {
        id: AdminId,
        /// A new name
        #[arg(long)]
        name: String,
    },
    /// Replace the token of one; the new one is shown once
    Rotate { id: AdminId },
    /// End one for good
    Revoke { id: AdminId },
}

/// What one may do, and where.
#[derive(Args)]
pub(super) struct Office {
    /// What it may do
    #[arg(long, value_enum)]
    role: RoleName,
    /// Where: for an organization admin, and for finance of one organization
    #[arg(long, value_name = "ID")]
    organization: Option<OrganizationId>,
    /// Where: for a project member
    #[arg(long, value_name = "ID")]
    project: Option<ProjectId>,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleName {
    /// Everything, everywhere
    PlatformAdmin,
    /// Everything inside one organization, but what bounds it
    OrganizationAdmin,
    /// Reads everything about money
    Finance,
    /// Makes and revokes keys of one project, and reads its usage
    ProjectMember,
}

impl Command {
    pub(super) async fn run(self, desk: &Desk) -> anyhow::Result<()> {
        match self {
            Self::List(listed) => desk.list::<Admin>(listed).await,
            Self::Show { id } => desk.show::<Admin>(id).await,
            Self::Create { name, office } => {
                desk.change(NewAdmin { name, role: office.role()? }).await
            }
            Self::Update { id, name } => {
                desk.change(AdminUpdate { admin: id, name: Some(name) }).await
            }
            Self::Rotate { id } => desk.change(AdminRotation { admin: id }).await,
            Self::Revoke { id } => desk.change(AdminRevocation { admin: id }).await,
        }
    }
}

impl Office {
    fn role(self) -> anyhow::Result<Role> {
        let Self { role, organization, project } = self;
        Ok(match (role, organization, project) {
            (RoleName::PlatformAdmin, None, None) => Role::PlatformAdmin,
            (RoleName::OrganizationAdmin, organization, None) => Role::OrganizationAdmin {
                organization: organization.context("name its organization with --organization")?,
            },
            (RoleName::Finance, organization, None) => Role::Finance { organization },
            (RoleName::ProjectMember, None, project) => {
                Role::ProjectMember { project: project.context("name its project with --project")? }
            }
            _ => bail!("--organization or --project does not fit this role; leave it out"),
        })
    }
}

impl Shown for Admin {
    const TITLES: &'static [&'static str] = &["STATE", "ROLE", "OF"];

    fn cells(&self) -> Vec<String> {
        let state = if self.revoked_at.is_some() { "revoked" } else { "active" };
        let of = match self.role {
            Role::PlatformAdmin | Role::Finance { organization: None } => "everything".to_owned(),
            Role::OrganizationAdmin { organization }
            | Role::Finance { organization: Some(organization) } => organization.to_string(),
            Role::ProjectMember { project } => project.to_string(),
        };
        vec![state.to_owned(), self.role.name().to_owned(), of]
    }
}
