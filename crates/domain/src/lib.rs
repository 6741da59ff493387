//! The nouns every other crate speaks: ids, money, usage, jobs, failures, time.
//!
//! Nothing here does I/O, waits, or knows of HTTP, gRPC, Redis, SQL or tensors. If two of those
//! worlds need to know each other, the missing thing is a noun here.

mod clock;
mod error;
mod id;
mod job;
mod loading;
mod model;
mod money;
mod output;
mod prefix;
mod problems;
mod sampling;
mod scope;
mod secret;
mod share;
mod usage;
mod worker;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error::{ErrorKind, with_causes};
pub use id::{
    AdminId, EndUserId, GatewayId, HoldId, Id, IdError, IdKind, IncarnationId, KeyId,
    OrganizationId, PriceId, ProjectId, RequestId, RuleId, kind,
};
pub use job::{Job, JobError, JobParts, OwnBound};
pub use loading::{LoadKind, LoadOrder};
pub use model::{ModelDigest, ModelFiles, ModelInfo, ModelKind, ModelName};
pub use money::{NanoUsd, Price, PricePerMillion};
pub use output::{Format, Logprobs, OutputRules, Reasoning, TextRules};
pub use prefix::{BlockHash, BlockNames, CacheSalt};
pub use problems::{Problem, Problems};
pub use sampling::Sampling;
pub use scope::{Level, Scope, ScopeId};
pub use secret::Secret;
pub use share::{Priority, Share};
pub use usage::{Charge, FinishReason, GpuTime, Times, Usage, Work};
pub use worker::{Accounts, Capacity, Rent, Stage};
