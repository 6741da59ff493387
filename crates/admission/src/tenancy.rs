//! Who exists and what they may use: records, the rules that stand at them, the port to where they are
//! kept, and the [`Registry`] through which administrators read and change them.

mod audit;
mod kept;
mod memory;
mod permissions;
mod port;
mod records;
mod registry;
mod rules;
mod view;

pub use audit::{AuditDraft, AuditEntry};
pub use kept::{Kept, RecordId};
pub use memory::MemoryTenants;
pub use permissions::{Action, Actor, Place, Resource};
pub use port::{Change, Changes, Committed, Idempotency, Tenants};
pub use records::{
    Admin, EndUser, Key, Metadata, Organization, PriceRecord, Project, Record, RetiringDigest,
    Role, Webhook,
};
pub use registry::{
    AdminRevocation, AdminRotation, AdminUpdate, AuditPage, BudgetDraft, Changed, Desk,
    EndUserDeletion, EndUserUpdate, Established, Fate, KeyRevocation, KeyRotation, KeyUpdate,
    LimitDraft, Listing, MetadataPatch, NewAdmin, NewEndUser, NewKey, NewOrganization, NewPrice,
    NewProject, OrganizationDeletion, OrganizationUpdate, Page, Parent, Patched, Planned,
    PolicyPatch, PriceDeletion, ProjectDeletion, ProjectUpdate, Registry, RegistryError, Request,
    Standing, Terms, WebhookDraft,
};
pub use rules::{
    Amount, Budget, Enforcement, Limit, LimitKind, Policy, TimeZone, UnknownTimeZone, Window,
    WindowBounds,
};
pub use view::View;
