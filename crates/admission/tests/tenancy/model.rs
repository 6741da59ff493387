//! Random administrators do random things; a few plain sentences say what they may do, apart from the table.

use std::collections::BTreeMap;

use admission::tenancy::{
    Action, Actor, Admin, AuditEntry, EndUser, Key, Organization, PriceRecord, Project, Record,
    RecordId, RegistryError, Resource, Role, Tenants as _, Terms,
};
use domain::{OrganizationId, ProjectId};
use proptest::prelude::*;

use crate::deed::{Deed, Doing, RECORDS, deeds_on};
use crate::world::World;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn nobody_reads_or_changes_what_is_not_theirs(
        steps in prop::collection::vec(any::<(u16, u16, u16)>(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(&steps));
    }
}

async fn run(steps: &[(u16, u16, u16)]) {
    let world = World::new();
    world.peopled().await;
    for (number, step) in steps.iter().enumerate() {
        let kept = Kept::of(world.kept().await);
        let (actor, deed) = kept.choose(*step);
        let lines = world.tenants.audit(0, u32::MAX).await.unwrap().len();
        let name = format!("name {number}");
        let terms = Terms::default();
        let result = Doing { registry: &world.registry, actor, terms, name }.perform(deed).await;
        let after = Kept::of(world.kept().await);
        check(&kept, actor, deed, &result);
        check_border(&kept, &after, actor);
        let written = world.tenants.audit(0, u32::MAX).await.unwrap().len() - lines;
        let changed = kept.0 != after.0;
        let is_refused = result.is_err();
        assert_eq!(written, usize::from(changed || is_refused), "{actor} {deed:?} {result:?}");
    }
    let lines = world.tenants.audit(0, u32::MAX).await.unwrap();
    let before = std::iter::once(None).chain(lines.iter().map(Some));
    assert!(lines.iter().zip(before).all(|(line, last): (&AuditEntry, _)| line.follows(last)));
}

/// The answer is one that this actor may get.
fn check(kept: &Kept, actor: Actor, deed: Deed, result: &Result<Vec<String>, RegistryError>) {
    let is_denied =
        matches!(result, Err(RegistryError::Forbidden { .. } | RegistryError::NotFound { .. }));
    let Some(role) = kept.role(actor) else {
        assert!(matches!(result, Err(RegistryError::UnknownActor { .. })), "{actor} {deed:?}");
        return;
    };
    if let (Deed::List(resource), Ok(seen)) = (deed, result) {
        let of_kind = kept.0.values().filter(|record| resource_of(record) == resource);
        let visible =
            |record: &&Record| kept.may(actor, role, Deed::To(Action::Read, id_of(record)));
        let expected: Vec<String> = of_kind.filter(visible).map(Record::id).collect();
        assert_eq!(*seen, expected, "{actor} {deed:?}");
        return;
    }
    assert_eq!(is_denied, !kept.may(actor, role, deed), "{actor} {role:?} {deed:?} {result:?}");
}

/// Whatever was done, nothing changed outside of the actor's part of the tree.
fn check_border(before: &Kept, after: &Kept, actor: Actor) {
    let changed = |(id, record): &(&String, &Record)| before.0.get(*id) != Some(*record);
    let gone = before.0.iter().filter(|(id, _)| !after.0.contains_key(*id));
    for (id, record) in after.0.iter().filter(changed).chain(gone) {
        let role = before.role(actor).expect("who is nobody changes nothing");
        let is_own = admin_of(record).is_some_and(|admin| Actor::Admin(admin.id) == actor);
        let border = match role {
            Role::PlatformAdmin => true,
            Role::OrganizationAdmin { organization } => {
                after.home(record).0 == Some(organization) && !governs(before.0.get(id), record)
            }
            Role::ProjectMember { project } => {
                let is_key = resource_of(record) == Resource::Key;
                is_key && after.home(record).1 == Some(project) || is_own
            }
            Role::Finance { .. } => is_own,
        };
        assert!(border, "{role:?} changed {id}");
    }
}

/// Whether a change of an organization is one of what bounds it.
fn governs(before: Option<&Record>, after: &Record) -> bool {
    let Record::Organization(after) = after else { return false };
    let Some(Record::Organization(before)) = before else { return true };
    (&before.policy, &before.name, before.time_zone.name())
        != (&after.policy, &after.name, after.time_zone.name())
}

/// Everything there is, by id.
struct Kept(BTreeMap<String, Record>);

impl Kept {
    fn of(records: Vec<Record>) -> Self {
        Self(records.into_iter().map(|record| (record.id(), record)).collect())
    }

    fn choose(&self, (who, what, which): (u16, u16, u16)) -> (Actor, Deed) {
        let admins: Vec<&Admin> = self.0.values().filter_map(admin_of).collect();
        let actor = Actor::Admin(pick(&admins, who).id);
        let records: Vec<&Record> = self.0.values().collect();
        let record = pick(&records, which);
        let organizations: Vec<OrganizationId> = self.all(|record| match record {
            Record::Organization(found) => Some(found.id),
            _ => None,
        });
        let projects: Vec<ProjectId> = self.all(|record| match record {
            Record::Project(found) => Some(found.id),
            _ => None,
        });
        let (organization, project) = (*pick(&organizations, which), *pick(&projects, which));
        let deed = match what % 16 {
            0 => Deed::NewOrganization,
            1 => Deed::NewProject(organization),
            2 => Deed::NewEndUser(project),
            3 | 4 => Deed::NewKey(project),
            5 => Deed::NewAdmin(Role::ProjectMember { project }),
            6 => Deed::NewAdmin(Role::OrganizationAdmin { organization }),
            7 => Deed::NewAdmin(Role::Finance { organization: Some(organization) }),
            8 => Deed::NewAdmin(Role::PlatformAdmin),
            9 => Deed::List(*pick(&RECORDS, which)),
            _ => {
                let id = id_of(record);
                Deed::To(*pick(deeds_on(id.resource()), what / 16), id)
            }
        };
        (actor, deed)
    }

    fn all<T>(&self, of: impl Fn(&Record) -> Option<T>) -> Vec<T> {
        self.0.values().filter_map(of).collect()
    }

    fn role(&self, actor: Actor) -> Option<Role> {
        let Actor::Admin(id) = actor else { return Some(Role::PlatformAdmin) };
        let admin = self.0.get(&id.to_string()).and_then(admin_of)?;
        admin.revoked_at.is_none().then_some(admin.role)
    }

    /// The organization and the project that a record is in.
    fn home(&self, record: &Record) -> (Option<OrganizationId>, Option<ProjectId>) {
        let in_project = |project: ProjectId| match self.0.get(&project.to_string()) {
            Some(Record::Project(found)) => (Some(found.organization), Some(project)),
            _ => (None, None),
        };
        match record {
            Record::Organization(Organization { id, .. }) => (Some(*id), None),
            Record::Project(Project { id, organization, .. }) => (Some(*organization), Some(*id)),
            Record::EndUser(EndUser { project, .. }) | Record::Key(Key { project, .. }) => {
                in_project(*project)
            }
            Record::Admin(Admin { role, .. }) => self.home_of(*role),
            Record::Price(PriceRecord { .. }) => (None, None),
        }
    }

    fn home_of(&self, role: Role) -> (Option<OrganizationId>, Option<ProjectId>) {
        match role {
            Role::PlatformAdmin | Role::Finance { organization: None } => (None, None),
            Role::OrganizationAdmin { organization }
            | Role::Finance { organization: Some(organization) } => (Some(organization), None),
            Role::ProjectMember { project } => match self.0.get(&project.to_string()) {
                Some(record) => self.home(record),
                None => (None, None),
            },
        }
    }

    /// The rules in plain sentences.
    fn may(&self, actor: Actor, role: Role, deed: Deed) -> bool {
        // A token's owner may see it, replace it and give it back; nobody else may replace it.
        if let Deed::To(action, RecordId::Admin(id)) = deed {
            let is_own = Actor::Admin(id) == actor;
            match action {
                Action::Rotate => return is_own,
                Action::Read | Action::Revoke if is_own => return true,
                _ => {}
            }
        }
        let (organization, project) = self.whereabouts(deed);
        match role {
            Role::PlatformAdmin => true,
            // Whatever is inside, but not what bounds the organization itself.
            Role::OrganizationAdmin { organization: own } => match deed {
                Deed::List(_) | Deed::To(Action::Read, RecordId::Price(_)) => true,
                Deed::To(Action::Govern | Action::Delete, RecordId::Organization(_))
                | Deed::NewOrganization
                | Deed::NewPrice => false,
                _ => organization == Some(own),
            },
            // Reads, but no tokens.
            Role::Finance { organization: own } => match deed {
                Deed::List(_) | Deed::To(Action::Read, RecordId::Price(_)) => true,
                Deed::To(Action::Read, RecordId::Admin(_)) => false,
                Deed::To(Action::Read, _) => own.is_none() || organization == own,
                _ => false,
            },
            // Keys of one project, but not what bounds them.
            Role::ProjectMember { project: own } => match deed {
                Deed::List(resource) => resource != Resource::Organization,
                Deed::To(Action::Read, RecordId::Price(_)) => true,
                Deed::To(Action::Read, RecordId::Organization(_) | RecordId::Admin(_)) => false,
                Deed::To(Action::Read, _) | Deed::NewKey(_) => project == Some(own),
                Deed::To(action, RecordId::Key(_)) => {
                    action != Action::Govern && project == Some(own)
                }
                _ => false,
            },
        }
    }

    fn whereabouts(&self, deed: Deed) -> (Option<OrganizationId>, Option<ProjectId>) {
        let record = match deed {
            Deed::To(_, id) => id.to_string(),
            Deed::NewProject(id) => id.to_string(),
            Deed::NewEndUser(id) | Deed::NewKey(id) => id.to_string(),
            Deed::NewAdmin(role) => return self.home_of(role),
            _ => return (None, None),
        };
        self.0.get(&record).map_or((None, None), |record| self.home(record))
    }
}

fn pick<T>(from: &[T], at: u16) -> &T {
    &from[usize::from(at) % from.len()]
}

fn admin_of(record: &Record) -> Option<&Admin> {
    if let Record::Admin(admin) = record { Some(admin) } else { None }
}

fn id_of(record: &Record) -> RecordId {
    match record {
        Record::Organization(found) => found.id.into(),
        Record::Project(found) => found.id.into(),
        Record::EndUser(found) => found.id.into(),
        Record::Key(found) => found.id.into(),
        Record::Admin(found) => found.id.into(),
        Record::Price(found) => found.id.into(),
    }
}

fn resource_of(record: &Record) -> Resource {
    id_of(record).resource()
}
