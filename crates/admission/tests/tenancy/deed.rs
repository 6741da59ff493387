//! Everything an administrator can do, as data.

use std::time::Duration;

use admission::tenancy::{
    Action, Actor, Admin, AdminRevocation, AdminRotation, AdminUpdate, EndUser, EndUserDeletion,
    EndUserUpdate, Kept, Key, KeyRevocation, KeyRotation, KeyUpdate, Listing, NewAdmin, NewEndUser,
    NewKey, NewOrganization, NewPrice, NewProject, Organization, OrganizationDeletion,
    OrganizationUpdate, PolicyPatch, PriceDeletion, PriceRecord, Project, ProjectDeletion,
    ProjectUpdate, RecordId, Registry, RegistryError, Request, Resource, Role, Terms,
};
use domain::{ModelName, NanoUsd, OrganizationId, Price, ProjectId};

/// Something to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    /// To a record.
    To(Action, RecordId),
    NewOrganization,
    NewProject(OrganizationId),
    NewEndUser(ProjectId),
    NewKey(ProjectId),
    NewAdmin(Role),
    NewPrice,
    /// To look which ones there are.
    List(Resource),
    /// With what is no record.
    With(Action, Resource),
}

/// How deeds are done.
pub(crate) struct Doing<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) actor: Actor,
    pub(crate) terms: Terms,
    /// What new things are called, and old ones renamed to.
    pub(crate) name: String,
}

impl Doing<'_> {
    /// Does it; the ids of what was made, changed or seen.
    pub(crate) async fn perform(&self, deed: Deed) -> Result<Vec<String>, RegistryError> {
        let name = self.name.clone();
        match deed {
            Deed::To(action, id) => self.perform_on(action, id).await,
            Deed::NewOrganization => {
                self.change(NewOrganization { name, ..NewOrganization::default() }).await
            }
            Deed::NewProject(organization) => {
                self.change(NewProject::called(name, organization)).await
            }
            Deed::NewEndUser(project) => self.change(NewEndUser::called(name, project)).await,
            Deed::NewKey(project) => self.change(NewKey::called(name, project)).await,
            Deed::NewAdmin(role) => self.change(NewAdmin { name, role }).await,
            Deed::NewPrice => {
                let (model, digest, effective_from) = (ModelName::new(name), None, None);
                let per_hour = NanoUsd::from_dollars(1);
                let price = Price::GpuTime { per_hour, markup_percent: 100 };
                self.change(NewPrice { model, digest, effective_from, price }).await
            }
            Deed::List(resource) => self.list(resource).await,
            Deed::With(Action::List, Resource::Audit) => {
                self.registry.audit(self.actor, 0, 1).await.map(|_| Vec::new())
            }
            Deed::With(action, Resource::Usage) => {
                let confined = self.registry.confine(self.actor, action, Resource::Usage, None);
                confined.await.map(|_| Vec::new())
            }
            Deed::With(action, resource) => {
                self.registry.authorize(self.actor, action, resource).await.map(|()| Vec::new())
            }
        }
    }

    async fn perform_on(&self, action: Action, id: RecordId) -> Result<Vec<String>, RegistryError> {
        let name = Some(self.name.clone());
        let policy = PolicyPatch { blocked: Some(true), ..PolicyPatch::default() };
        let metadata = [("note".to_owned(), name.clone())].into_iter().collect();
        match (action, id) {
            (Action::Read, RecordId::Organization(id)) => self.read::<Organization>(id).await,
            (Action::Read, RecordId::Project(id)) => self.read::<Project>(id).await,
            (Action::Read, RecordId::EndUser(id)) => self.read::<EndUser>(id).await,
            (Action::Read, RecordId::Key(id)) => self.read::<Key>(id).await,
            (Action::Read, RecordId::Admin(id)) => self.read::<Admin>(id).await,
            (Action::Read, RecordId::Price(id)) => self.read::<PriceRecord>(id).await,
            (Action::Update, RecordId::Organization(id)) => {
                self.change(OrganizationUpdate { metadata, ..OrganizationUpdate::of(id) }).await
            }
            (Action::Govern, RecordId::Organization(id)) => {
                self.change(OrganizationUpdate { policy, ..OrganizationUpdate::of(id) }).await
            }
            (Action::Delete, RecordId::Organization(organization)) => {
                self.change(OrganizationDeletion { organization }).await
            }
            (Action::Update, RecordId::Project(id)) => {
                self.change(ProjectUpdate { metadata, ..ProjectUpdate::of(id) }).await
            }
            (Action::Govern, RecordId::Project(id)) => {
                self.change(ProjectUpdate { policy, ..ProjectUpdate::of(id) }).await
            }
            (Action::Delete, RecordId::Project(project)) => {
                self.change(ProjectDeletion { project }).await
            }
            (Action::Update, RecordId::EndUser(id)) => {
                self.change(EndUserUpdate { metadata, ..EndUserUpdate::of(id) }).await
            }
            (Action::Govern, RecordId::EndUser(id)) => {
                self.change(EndUserUpdate { policy, ..EndUserUpdate::of(id) }).await
            }
            (Action::Delete, RecordId::EndUser(end_user)) => {
                self.change(EndUserDeletion { end_user }).await
            }
            (Action::Update, RecordId::Key(id)) => {
                self.change(KeyUpdate { name, ..KeyUpdate::of(id) }).await
            }
            (Action::Govern, RecordId::Key(id)) => {
                self.change(KeyUpdate { policy, ..KeyUpdate::of(id) }).await
            }
            (Action::Rotate, RecordId::Key(id)) => {
                self.change(KeyRotation { grace: Duration::ZERO, ..KeyRotation::of(id) }).await
            }
            (Action::Revoke, RecordId::Key(key)) => self.change(KeyRevocation { key }).await,
            (Action::Update, RecordId::Admin(admin)) => {
                self.change(AdminUpdate { admin, name }).await
            }
            (Action::Rotate, RecordId::Admin(admin)) => self.change(AdminRotation { admin }).await,
            (Action::Revoke, RecordId::Admin(admin)) => {
                self.change(AdminRevocation { admin }).await
            }
            (Action::Delete, RecordId::Price(price)) => self.change(PriceDeletion { price }).await,
            (action, id) => panic!("nobody can {} {id}", action.name()),
        }
    }

    async fn change<R: Request>(&self, request: R) -> Result<Vec<String>, RegistryError> {
        let changed = self.registry.change(self.actor, &request, &self.terms).await?;
        Ok(vec![changed.record.id().to_string()])
    }

    async fn read<K: Kept>(&self, id: K::Id) -> Result<Vec<String>, RegistryError> {
        let found = self.registry.read::<K>(self.actor, id).await?;
        Ok(vec![found.id().to_string()])
    }

    async fn list(&self, resource: Resource) -> Result<Vec<String>, RegistryError> {
        match resource {
            Resource::Organization => self.ids::<Organization>().await,
            Resource::Project => self.ids::<Project>().await,
            Resource::EndUser => self.ids::<EndUser>().await,
            Resource::Key => self.ids::<Key>().await,
            Resource::Admin => self.ids::<Admin>().await,
            Resource::Price => self.ids::<PriceRecord>().await,
            other => panic!("there is no list of {other}"),
        }
    }

    async fn ids<K: Kept>(&self) -> Result<Vec<String>, RegistryError> {
        let page = self.registry.list::<K>(self.actor, &Listing::default()).await?;
        Ok(page.records.iter().map(|record| record.id().to_string()).collect())
    }
}

/// What can be done to a record of this kind.
pub(crate) const fn deeds_on(resource: Resource) -> &'static [Action] {
    match resource {
        Resource::Organization | Resource::Project | Resource::EndUser => {
            &[Action::Read, Action::Update, Action::Govern, Action::Delete]
        }
        Resource::Key => {
            &[Action::Read, Action::Update, Action::Govern, Action::Rotate, Action::Revoke]
        }
        Resource::Admin => &[Action::Read, Action::Update, Action::Rotate, Action::Revoke],
        Resource::Price => &[Action::Read, Action::Delete],
        _ => &[],
    }
}

/// The kinds of records.
pub(crate) const RECORDS: [Resource; 6] = [
    Resource::Organization,
    Resource::Project,
    Resource::EndUser,
    Resource::Key,
    Resource::Admin,
    Resource::Price,
];
