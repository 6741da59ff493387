//! What stands at a scope, in the words of requests and answers.
//!
//! A policy that an answer shows can be sent back as it is: rules keep their ids, and with them what they
//! counted. Whether it makes sense is decided where it is planned.

use admission::tenancy::{self, Patched};
use domain::{GpuTime, ModelName, RuleId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::{Dollars, Moment, Money, given};

/// What stands at a scope.
#[derive(Serialize, ToSchema)]
pub(super) struct Policy {
    /// How fast. Each limit holds by itself.
    limits: Vec<Limit>,
    /// How much. Each budget holds by itself.
    budgets: Vec<Budget>,
    /// Models that may be used; empty means all.
    #[schema(value_type = Vec<String>)]
    models: Vec<ModelName>,
    /// Nothing is admitted from this moment on.
    expires_at: Option<Moment>,
    /// Whether nothing is admitted.
    blocked: bool,
}

/// How fast a scope may go, in one respect.
#[derive(Serialize, ToSchema)]
pub(super) struct Limit {
    /// Names it.
    #[schema(value_type = String)]
    id: RuleId,
    /// In which respect.
    kind: LimitKind,
    /// The most, in the unit of the kind.
    max: u64,
    /// The only model it counts; absent means all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    model: Option<ModelName>,
}

/// How much a scope may use in a window of time.
#[derive(Serialize, ToSchema)]
pub(super) struct Budget {
    /// Names it.
    #[schema(value_type = String)]
    pub(super) id: RuleId,
    /// The most, and of what.
    pub(super) amount: Amount,
    /// How long it lasts before it starts anew.
    pub(super) window: Window,
    /// What happens at its end.
    pub(super) enforcement: Enforcement,
    /// Percentages of the amount at which somebody is told, each once a window.
    pub(super) alert_percent: Vec<u32>,
    /// The only model it counts; absent means all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub(super) model: Option<ModelName>,
}

/// An amount of something that can be used up.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Amount {
    /// Money charged.
    Money(Money),
    /// Prompt and completion tokens.
    Tokens(u64),
    /// GPU time attributed, in nanoseconds.
    GpuNanos(u64),
}

/// What a request says about what stands at a scope. What it does not name stays; lists are replaced whole,
/// and `null` empties what it stands for.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyPatch {
    /// How fast.
    #[serde(default)]
    #[schema(value_type = Option<Vec<LimitDraft>>)]
    limits: Patched<Vec<LimitDraft>>,
    /// How much.
    #[serde(default)]
    #[schema(value_type = Option<Vec<BudgetDraft>>)]
    budgets: Patched<Vec<BudgetDraft>>,
    /// Models that may be used; empty means all.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    models: Patched<Vec<ModelName>>,
    /// Nothing is admitted from this moment on. It must be to come.
    #[serde(default)]
    #[schema(value_type = Option<Moment>)]
    expires_at: Patched<Moment>,
    /// Whether nothing is admitted.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    blocked: Option<bool>,
}

/// A limit as asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LimitDraft {
    /// The limit it takes the place of; absent means a new one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    id: Option<RuleId>,
    /// In which respect.
    kind: LimitKind,
    /// The most, in the unit of the kind. Zero admits nothing.
    max: u64,
    /// The only model it counts; absent means all together.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<ModelName>,
}

/// A budget as asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BudgetDraft {
    /// The budget it takes the place of; absent means a new one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    id: Option<RuleId>,
    /// The most, and of what.
    amount: AmountDraft,
    /// How long it lasts before it starts anew; `total` if absent.
    #[serde(default)]
    window: Window,
    /// What happens at its end; `hard` if absent.
    #[serde(default)]
    enforcement: Enforcement,
    /// Percentages of the amount at which somebody is told, each once a window.
    #[serde(default)]
    alert_percent: Vec<u32>,
    /// The only model it counts; absent means all together.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<ModelName>,
}

/// An amount as asked for.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AmountDraft {
    /// Money charged.
    Money(Dollars),
    /// Prompt and completion tokens.
    Tokens(u64),
    /// GPU time attributed, in nanoseconds.
    GpuNanos(u64),
}

/// In which respect a limit bounds a scope.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum LimitKind {
    /// Requests admitted per minute.
    RequestsPerMinute,
    /// Prompt and completion tokens per minute.
    TokensPerMinute,
    /// Prompt and completion tokens per calendar day of the organization.
    TokensPerDay,
    /// Requests running at the same time.
    ConcurrentRequests,
    /// Milliseconds of GPU time per minute.
    GpuMillisPerMinute,
}

/// A stretch of calendar time, in the organization's time zone.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Window {
    /// Midnight to midnight.
    Day,
    /// Monday to Sunday.
    Week,
    /// First to last.
    Month,
    /// For ever.
    #[default]
    Total,
}

/// What happens when a budget is used up.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Enforcement {
    /// Nothing more is admitted, and running streams stop at the token.
    #[default]
    Hard,
    /// Somebody is told, and everything goes on.
    Soft,
}

impl From<tenancy::Policy> for Policy {
    fn from(policy: tenancy::Policy) -> Self {
        let tenancy::Policy { limits, budgets, models, expires_at, blocked } = policy;
        Self {
            limits: limits.into_iter().map(Limit::from).collect(),
            budgets: budgets.into_iter().map(Budget::from).collect(),
            models,
            expires_at: expires_at.map(Moment),
            blocked,
        }
    }
}

impl From<tenancy::Limit> for Limit {
    fn from(limit: tenancy::Limit) -> Self {
        let tenancy::Limit { id, kind, max, model } = limit;
        Self { id, kind: kind.into(), max, model }
    }
}

impl From<tenancy::Budget> for Budget {
    fn from(budget: tenancy::Budget) -> Self {
        let tenancy::Budget { id, amount, window, enforcement, alert_percent, model } = budget;
        let (window, enforcement) = (window.into(), enforcement.into());
        Self { id, amount: amount.into(), window, enforcement, alert_percent, model }
    }
}

impl From<tenancy::Amount> for Amount {
    fn from(amount: tenancy::Amount) -> Self {
        match amount {
            tenancy::Amount::Money(money) => Self::Money(money.into()),
            tenancy::Amount::Tokens(tokens) => Self::Tokens(tokens),
            tenancy::Amount::GpuTime(time) => Self::GpuNanos(time.nanos()),
        }
    }
}

impl From<PolicyPatch> for tenancy::PolicyPatch {
    fn from(patch: PolicyPatch) -> Self {
        let PolicyPatch { limits, budgets, models, expires_at, blocked } = patch;
        Self {
            limits: list(limits),
            budgets: list(budgets),
            models: list(models),
            expires_at: match expires_at {
                Patched::Same => Patched::Same,
                Patched::Cleared => Patched::Cleared,
                Patched::Set(Moment(moment)) => Patched::Set(moment),
            },
            blocked,
        }
    }
}

/// A list as it is to be; `null` is an empty one.
fn list<T, U: From<T>>(patched: Patched<Vec<T>>) -> Option<Vec<U>> {
    match patched {
        Patched::Same => None,
        Patched::Cleared => Some(Vec::new()),
        Patched::Set(all) => Some(all.into_iter().map(U::from).collect()),
    }
}

impl From<LimitDraft> for tenancy::LimitDraft {
    fn from(draft: LimitDraft) -> Self {
        let LimitDraft { id, kind, max, model } = draft;
        Self { id, kind: kind.into(), max, model }
    }
}

impl From<BudgetDraft> for tenancy::BudgetDraft {
    fn from(draft: BudgetDraft) -> Self {
        let BudgetDraft { id, amount, window, enforcement, alert_percent, model } = draft;
        let amount = match amount {
            AmountDraft::Money(Dollars(money)) => tenancy::Amount::Money(money),
            AmountDraft::Tokens(tokens) => tenancy::Amount::Tokens(tokens),
            AmountDraft::GpuNanos(nanos) => tenancy::Amount::GpuTime(GpuTime::from_nanos(nanos)),
        };
        let (window, enforcement) = (window.into(), enforcement.into());
        Self { id, amount, window, enforcement, alert_percent, model }
    }
}

impl From<tenancy::LimitKind> for LimitKind {
    fn from(kind: tenancy::LimitKind) -> Self {
        match kind {
            tenancy::LimitKind::RequestsPerMinute => Self::RequestsPerMinute,
            tenancy::LimitKind::TokensPerMinute => Self::TokensPerMinute,
            tenancy::LimitKind::TokensPerDay => Self::TokensPerDay,
            tenancy::LimitKind::ConcurrentRequests => Self::ConcurrentRequests,
            tenancy::LimitKind::GpuMillisPerMinute => Self::GpuMillisPerMinute,
        }
    }
}

impl From<LimitKind> for tenancy::LimitKind {
    fn from(kind: LimitKind) -> Self {
        match kind {
            LimitKind::RequestsPerMinute => Self::RequestsPerMinute,
            LimitKind::TokensPerMinute => Self::TokensPerMinute,
            LimitKind::TokensPerDay => Self::TokensPerDay,
            LimitKind::ConcurrentRequests => Self::ConcurrentRequests,
            LimitKind::GpuMillisPerMinute => Self::GpuMillisPerMinute,
        }
    }
}

impl From<tenancy::Window> for Window {
    fn from(window: tenancy::Window) -> Self {
        match window {
            tenancy::Window::Day => Self::Day,
            tenancy::Window::Week => Self::Week,
            tenancy::Window::Month => Self::Month,
            tenancy::Window::Total => Self::Total,
        }
    }
}

impl From<Window> for tenancy::Window {
    fn from(window: Window) -> Self {
        match window {
            Window::Day => Self::Day,
            Window::Week => Self::Week,
            Window::Month => Self::Month,
            Window::Total => Self::Total,
        }
    }
}

impl From<tenancy::Enforcement> for Enforcement {
    fn from(enforcement: tenancy::Enforcement) -> Self {
        match enforcement {
            tenancy::Enforcement::Hard => Self::Hard,
            tenancy::Enforcement::Soft => Self::Soft,
        }
    }
}

impl From<Enforcement> for tenancy::Enforcement {
    fn from(enforcement: Enforcement) -> Self {
        match enforcement {
            Enforcement::Hard => Self::Hard,
            Enforcement::Soft => Self::Soft,
        }
    }
}
