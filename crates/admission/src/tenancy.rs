//! Who exists and what they may use: records, the rules that stand at them, and the port to where
//! they are kept.

mod port;
mod records;
mod rules;
mod view;

pub use port::{AuditDraft, AuditEntry, Change, Changes, Committed, Idempotency, Tenants};
pub use records::{
    Admin, EndUser, Key, Metadata, Organization, PriceRecord, Project, Record, RetiringDigest,
    Role, Webhook,
};
pub use rules::{
    Amount, Budget, Enforcement, Limit, LimitKind, Policy, TimeZone, UnknownTimeZone, Window,
    WindowBounds,
};
pub use view::View;
