//! What is done to every kind of record in the same way, through the registry.

use admission::tenancy::{Changed, Kept, Listing, Parent, Request, Terms};
use axum::Json;
use domain::{OrganizationId, ProjectId};

use super::AdminApi;
use super::answer::{Answer, Page};
use super::asked::{Caller, Known};
use super::refusal::Refusal;

/// A page of the records that the caller may read.
pub(super) async fn list<K: Kept, T: From<K>>(
    api: &AdminApi,
    Caller(actor): &Caller,
    listing: &Listing,
) -> Result<Json<Page<T>>, Refusal> {
    let page = api.registry.list::<K>(*actor, listing).await?;
    let items = page.records.into_iter().map(T::from).collect();
    Ok(Json(Page { items, next: page.next }))
}

/// One record.
pub(super) async fn read<K: Kept, T: From<K>>(
    api: &AdminApi,
    Caller(actor): &Caller,
    id: K::Id,
    known: &Known,
) -> Result<Answer<T>, Refusal> {
    let record = api.registry.read::<K>(*actor, id).await?;
    Ok(Answer::read(record.version(), known, T::from(record)))
}

/// A record made in a collection.
pub(super) async fn make<R: Request, T: From<R::Record>>(
    api: &AdminApi,
    caller: &Caller,
    request: &R,
    terms: &Terms,
    collection: &str,
) -> Result<Answer<T>, Refusal> {
    let changed = change(api, caller, request, terms).await?;
    Ok(Answer::made(&changed, collection, T::from(changed.record.clone())))
}

/// A record changed.
pub(super) async fn update<R: Request, T: From<R::Record>>(
    api: &AdminApi,
    caller: &Caller,
    request: &R,
    terms: &Terms,
) -> Result<Answer<T>, Refusal> {
    let changed = change(api, caller, request, terms).await?;
    Ok(Answer::changed(&changed, T::from(changed.record.clone())))
}

/// A record removed.
pub(super) async fn remove<R: Request, T: From<R::Record>>(
    api: &AdminApi,
    caller: &Caller,
    request: &R,
    terms: &Terms,
) -> Result<Answer<T>, Refusal> {
    let changed = change(api, caller, request, terms).await?;
    Ok(Answer::removed(&changed, T::from(changed.record.clone())))
}

/// Does what is asked.
pub(super) async fn change<R: Request>(
    api: &AdminApi,
    Caller(actor): &Caller,
    request: &R,
    terms: &Terms,
) -> Result<Changed<R::Record>, Refusal> {
    Ok(api.registry.change(*actor, request, terms).await?)
}

/// What a list is asked for, whatever it lists.
pub(super) fn listing(
    limit: Option<u32>,
    after: Option<String>,
    name: Option<String>,
    within: Option<Parent>,
) -> Listing {
    let limit = limit.unwrap_or(Listing::default().limit);
    Listing { within, name, after, limit }
}

/// What a list is narrowed to. A project says its organization.
pub(super) fn parent(
    organization: Option<OrganizationId>,
    project: Option<ProjectId>,
) -> Result<Option<Parent>, Refusal> {
    match (organization, project) {
        (Some(_), Some(_)) => {
            let message = "is in one organization; leave `organization` out";
            Err(Refusal::invalid_field("project", message))
        }
        (organization, project) => {
            let organization = organization.map(Parent::Organization);
            Ok(project.map(Parent::Project).or(organization))
        }
    }
}
