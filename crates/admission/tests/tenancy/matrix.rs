//! The whole matrix of roles, actions and resources, as the registry behaves, against a file.

use std::fmt::Write as _;
use std::path::Path;

use admission::tenancy::{
    Action, Actor, Kept as _, RecordId, RegistryError, Resource, Role, Terms,
};

use crate::deed::{Deed, Doing, RECORDS, deeds_on};
use crate::world::{People, World};

#[tokio::test]
async fn who_may_do_what_is_as_the_file_says() {
    let world = World::new();
    let people = world.peopled().await;
    let before = world.kept().await;

    let matrix = matrix(&world, &people).await;

    assert_eq!(world.kept().await, before, "a dry run changes nothing");
    let actual = Path::new(env!("CARGO_TARGET_TMPDIR")).join("permissions.txt");
    std::fs::write(&actual, &matrix).unwrap();
    let different = matrix.lines().zip(EXPECTED.lines()).find(|(is, was)| is != was);
    assert!(
        matrix == EXPECTED,
        "permissions changed, first in {different:?}; if that is meant, copy {} over permissions.txt",
        actual.display()
    );
}

async fn matrix(world: &World, people: &People) -> String {
    let admins = people.admins.iter().map(|(name, id)| (*name, Actor::Admin(*id)));
    let actors: Vec<(&str, Actor)> = [("local", Actor::Local)].into_iter().chain(admins).collect();
    let mut matrix = String::new();
    write!(matrix, "{:<34}", "").unwrap();
    for (name, _) in &actors {
        write!(matrix, "{name:>15}").unwrap();
    }
    matrix.push('\n');
    for (heading, deeds) in sections(people) {
        write!(matrix, "\n{heading}\n").unwrap();
        for (label, deed) in deeds {
            write!(matrix, "  {label:<32}").unwrap();
            for (_, actor) in &actors {
                let verdict = verdict(world, *actor, deed).await;
                write!(matrix, "{verdict:>15}").unwrap();
            }
            matrix.push('\n');
        }
    }
    matrix
}

/// `yes`, `no`, or `-` for what does not exist for the actor; for lists, how many.
async fn verdict(world: &World, actor: Actor, deed: Deed) -> String {
    let terms = Terms { dry_run: true, ..Terms::default() };
    let doing = Doing { registry: &world.registry, actor, terms, name: "new".to_owned() };
    match (doing.perform(deed).await, deed) {
        (Err(RegistryError::Forbidden { .. }), _) => "no".to_owned(),
        (Err(RegistryError::NotFound { .. }), _) => "-".to_owned(),
        (Ok(seen), Deed::List(_)) => seen.len().to_string(),
        // What is in the way of a deletion is told to whoever may delete.
        (Ok(_) | Err(RegistryError::Conflict { .. }), _) => "yes".to_owned(),
        (Err(error), _) => panic!("{deed:?}: {error}"),
    }
}

type Section = (String, Vec<(String, Deed)>);

fn sections(people: &People) -> Vec<Section> {
    let mut sections = vec![platform()];
    for organization in [&people.acme, &people.globex] {
        let (id, name) = (organization.id, &organization.name);
        let mut deeds = on(id.into());
        deeds.push(("create project".to_owned(), Deed::NewProject(id)));
        for (label, role) in [
            ("create organization admin", Role::OrganizationAdmin { organization: id }),
            ("create finance", Role::Finance { organization: Some(id) }),
        ] {
            deeds.push((label.to_owned(), Deed::NewAdmin(role)));
        }
        sections.push((format!("organization {name}"), deeds));
    }
    for (at, project) in people.projects.iter().enumerate() {
        let mut deeds = on(project.id.into());
        deeds.push(("create key".to_owned(), Deed::NewKey(project.id)));
        deeds.push(("create end user".to_owned(), Deed::NewEndUser(project.id)));
        let member = Role::ProjectMember { project: project.id };
        deeds.push(("create project member".to_owned(), Deed::NewAdmin(member)));
        sections.push((format!("project {}", project.name), deeds));
        sections.push((format!("key of {}", project.name), on(people.keys[at].id.into())));
        let user = people.end_users[at].id;
        sections.push((format!("end user of {}", project.name), on(user.into())));
    }
    for (name, id) in &people.admins {
        sections.push((format!("token of {name}"), on((*id).into())));
    }
    sections.push(("price".to_owned(), on(people.price.id().into())));
    sections
}

fn platform() -> Section {
    let mut deeds = vec![
        ("create organization".to_owned(), Deed::NewOrganization),
        ("create price".to_owned(), Deed::NewPrice),
        ("create platform admin".to_owned(), Deed::NewAdmin(Role::PlatformAdmin)),
        (
            "create finance everywhere".to_owned(),
            Deed::NewAdmin(Role::Finance { organization: None }),
        ),
    ];
    deeds.extend(RECORDS.map(|resource| (format!("list {resource}"), Deed::List(resource))));
    deeds.extend([
        ("list audit log".to_owned(), Deed::With(Action::List, Resource::Audit)),
        ("read usage".to_owned(), Deed::With(Action::Read, Resource::Usage)),
        ("read status".to_owned(), Deed::With(Action::Read, Resource::Status)),
        ("price worker".to_owned(), Deed::With(Action::Govern, Resource::Worker)),
        ("reload configuration".to_owned(), Deed::With(Action::Govern, Resource::Configuration)),
        ("read ledger".to_owned(), Deed::With(Action::Read, Resource::Ledger)),
    ]);
    ("platform".to_owned(), deeds)
}

fn on(id: RecordId) -> Vec<(String, Deed)> {
    let deeds = deeds_on(id.resource()).iter();
    deeds.map(|action| (action.name().to_owned(), Deed::To(*action, id))).collect()
}

const EXPECTED: &str = include_str!("permissions.txt");
