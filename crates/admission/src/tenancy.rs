//! Who exists and what they may use: records, the rules that stand at them, and the port to where
//! they are kept.

mod port;
mod records;
mod rules;

pub use port::{AuditDraft, AuditEntry, Change, Committed, Idempotency, Snapshot, Tenants};
pub use records::{
    Admin, EndUser, Key, Metadata, Organization, PriceRecord, Project, Record, RetiringDigest,
    Role, Webhook,
};
pub use rules::{
    Amount, Budget, Enforcement, Limit, LimitKind, Policy, TimeZone, UnknownTimeZone, Window,
    WindowBounds,
};
