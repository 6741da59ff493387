//! What an installation begins with.

use admission::tenancy::{Actor, Admin, Listing, Organization, Project, Role};

use crate::world::World;

#[tokio::test]
async fn an_installation_begins_with_an_organization_a_project_and_an_admin() {
    let world = World::new();

    let made = world.registry.establish().await.unwrap();

    let (admin, token) = made.admin.expect("the first run makes an admin");
    assert_eq!(
        (made.organization.name.as_str(), made.project.name.as_str()),
        ("default", "default")
    );
    assert_eq!(
        (made.project.organization, admin.role),
        (made.organization.id, Role::PlatformAdmin)
    );
    let kept: Admin = world.record(admin.id).await.unwrap();
    assert_eq!(kept.digest, world.pepper.digest(&token));
}

#[tokio::test]
async fn establishing_again_makes_nothing_and_tells_no_token() {
    let world = World::new();
    let first = world.registry.establish().await.unwrap();
    let before = world.kept().await;

    let again = world.registry.establish().await.unwrap();

    assert_eq!(
        (again.organization.id, again.project.id),
        (first.organization.id, first.project.id)
    );
    assert!(again.admin.is_none());
    assert_eq!(world.kept().await, before);
}

#[tokio::test]
async fn a_project_is_found_by_name_or_made_in_the_first_organization() {
    let world = World::new();
    let acme = world.organization("acme").await;
    world.organization("globex").await;

    let made = world.registry.project_named("search").await.unwrap();
    let found = world.registry.project_named(" search ").await.unwrap();

    assert_eq!((made.organization, made.id), (acme.id, found.id));
    let projects = world.registry.list::<Project>(Actor::Local, &Listing::default()).await.unwrap();
    assert_eq!(projects.records.len(), 1);
    let all = world.registry.list::<Organization>(Actor::Local, &Listing::default()).await.unwrap();
    assert_eq!(all.records.len(), 2);
}
