//! Changes of what stands at a scope: limits, budgets, models, expiry, block.
//!
//! A rule keeps its id, and with it what was counted under it, when it is sent back with its id; without one
//! it is a new rule. What a rule counts never changes under one id, or figures of two kinds would mix.

use domain::{ModelName, NanoUsd, Problems, RuleId, Timestamp};
use serde::Serialize;

use super::words::{Patched, check_length};
use crate::tenancy::rules::{Amount, Budget, Enforcement, Limit, LimitKind, Policy, Window};

/// What a change says about a policy. What it does not name stays; lists are replaced whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PolicyPatch {
    /// How fast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<LimitDraft>>,
    /// How much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Vec<BudgetDraft>>,
    /// Models that may be used; empty means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<ModelName>>,
    /// Nothing is admitted from this moment on. It must be to come: what ends now is blocked.
    #[serde(skip_serializing_if = "Patched::is_same")]
    pub expires_at: Patched<Timestamp>,
    /// Whether nothing is admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<bool>,
}

/// A limit as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitDraft {
    /// The limit it takes the place of; absent means a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<RuleId>,
    /// In which respect.
    pub kind: LimitKind,
    /// The most, in the unit of the kind.
    pub max: u64,
    /// The only model it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
}

/// A budget as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetDraft {
    /// The budget it takes the place of; absent means a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<RuleId>,
    /// The most, and of what.
    pub amount: Amount,
    /// How long it lasts before it starts anew.
    pub window: Window,
    /// What happens at its end.
    pub enforcement: Enforcement,
    /// Percentages of the amount at which somebody is told.
    pub alert_percent: Vec<u32>,
    /// The only model it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
}

impl PolicyPatch {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `before` with this on it. `at` is where the policy stands in the request.
    pub(super) fn apply(
        &self,
        before: &Policy,
        now: Timestamp,
        at: &str,
        problems: &mut Problems,
    ) -> Policy {
        let mut policy = before.clone();
        let Self { limits, budgets, models, expires_at, blocked } = self;
        if let Some(drafts) = limits {
            policy.limits = apply_limits(drafts, &before.limits, &format!("{at}.limits"), problems);
        }
        if let Some(drafts) = budgets {
            let at = format!("{at}.budgets");
            policy.budgets = apply_budgets(drafts, &before.budgets, &at, problems);
        }
        if let Some(models) = models {
            policy.models = check_models(models, &format!("{at}.models"), problems);
        }
        match expires_at {
            Patched::Same => {}
            Patched::Cleared => policy.expires_at = None,
            Patched::Set(moment) => {
                if *moment <= now && before.expires_at != Some(*moment) {
                    let message = "must be later than now; to stop at once, set `blocked`";
                    problems.add(format!("{at}.expires_at"), message);
                }
                policy.expires_at = Some(*moment);
            }
        }
        policy.blocked = blocked.unwrap_or(policy.blocked);
        policy
    }
}

fn apply_limits(
    drafts: &[LimitDraft],
    before: &[Limit],
    at: &str,
    problems: &mut Problems,
) -> Vec<Limit> {
    if !check_count(drafts.len(), MAX_RULES, at, problems) {
        return Vec::new();
    }
    let mut limits: Vec<Limit> = Vec::new();
    for (place, draft) in drafts.iter().enumerate() {
        let at = format!("{at}[{place}]");
        let LimitDraft { id, kind, max, model } = draft;
        if *max > MAX_LIMIT {
            problems.add(format!("{at}.max"), format!("must be at most {MAX_LIMIT}"));
        }
        check_model(model.as_ref(), &at, problems);
        if limits.iter().any(|other| (other.kind, &other.model) == (*kind, model)) {
            let message =
                "repeats the kind and the model of a limit before it; leave one of them out";
            problems.add(&at, message);
        }
        let old = id.and_then(|id| before.iter().find(|old| old.id == id));
        let same = old.is_some_and(|old| (old.kind, &old.model) == (*kind, model));
        let taken = id.is_some_and(|id| limits.iter().any(|other| other.id == id));
        let found = Found { exists: old.is_some(), counts_the_same: same, taken };
        let id = check_id(*id, found, &at, problems);
        limits.push(Limit { id, kind: *kind, max: *max, model: model.clone() });
    }
    limits
}

fn apply_budgets(
    drafts: &[BudgetDraft],
    before: &[Budget],
    at: &str,
    problems: &mut Problems,
) -> Vec<Budget> {
    if !check_count(drafts.len(), MAX_RULES, at, problems) {
        return Vec::new();
    }
    let mut budgets: Vec<Budget> = Vec::new();
    for (place, draft) in drafts.iter().enumerate() {
        let at = format!("{at}[{place}]");
        let BudgetDraft { id, amount, window, enforcement, alert_percent, model } = draft;
        check_amount(*amount, &format!("{at}.amount"), problems);
        check_alerts(alert_percent, &format!("{at}.alert_percent"), problems);
        check_model(model.as_ref(), &at, problems);
        let old = id.and_then(|id| before.iter().find(|old| old.id == id));
        let same = old.is_some_and(|old| {
            let unit = std::mem::discriminant::<Amount>;
            (unit(&old.amount), &old.model) == (unit(amount), model)
        });
        let taken = id.is_some_and(|id| budgets.iter().any(|other| other.id == id));
        let found = Found { exists: old.is_some(), counts_the_same: same, taken };
        let mut alert_percent = alert_percent.clone();
        alert_percent.sort_unstable();
        alert_percent.dedup();
        budgets.push(Budget {
            id: check_id(*id, found, &at, problems),
            amount: *amount,
            window: *window,
            enforcement: *enforcement,
            alert_percent,
            model: model.clone(),
        });
    }
    budgets
}

/// What is known of the id that a draft names.
#[derive(Clone, Copy)]
struct Found {
    exists: bool,
    counts_the_same: bool,
    /// An earlier draft of the list names it too.
    taken: bool,
}

fn check_id(id: Option<RuleId>, found: Found, at: &str, problems: &mut Problems) -> RuleId {
    let Some(id) = id else { return RuleId::generate() };
    let message = match found {
        Found { taken: true, .. } => format!("`{id}` is named twice; name each rule once"),
        Found { exists: false, .. } => {
            format!("no rule in this list is called `{id}`; leave the id out for a new rule")
        }
        Found { counts_the_same: false, .. } => {
            format!("`{id}` counts something else; leave the id out for a new rule")
        }
        _ => return id,
    };
    problems.add(format!("{at}.id"), message);
    id
}

fn check_amount(amount: Amount, at: &str, problems: &mut Problems) {
    let units = match amount {
        Amount::Money(money) => {
            if money < NanoUsd::ZERO {
                problems.add(at, "must not be negative");
            }
            money.nanos().unsigned_abs()
        }
        Amount::Tokens(tokens) => tokens,
        Amount::GpuTime(time) => time.nanos(),
    };
    if units > MAX_AMOUNT {
        let most = "a billion dollars, 10^18 tokens or 10^9 seconds of GPU time";
        problems.add(at, format!("must be at most {most}; leave the budget out for no bound"));
    }
}

fn check_alerts(percents: &[u32], at: &str, problems: &mut Problems) {
    if !check_count(percents.len(), MAX_ALERTS, at, problems) {
        return;
    }
    for (place, percent) in percents.iter().enumerate() {
        if !(1..=MAX_ALERT_PERCENT).contains(percent) {
            let message = format!("must be a percentage from 1 to {MAX_ALERT_PERCENT}");
            problems.add(format!("{at}[{place}]"), message);
        }
    }
}

fn check_models(models: &[ModelName], at: &str, problems: &mut Problems) -> Vec<ModelName> {
    if !check_count(models.len(), MAX_MODELS, at, problems) {
        return Vec::new();
    }
    let mut kept: Vec<ModelName> = Vec::new();
    for (place, model) in models.iter().enumerate() {
        check_model_name(model, &format!("{at}[{place}]"), problems);
        if !kept.contains(model) {
            kept.push(model.clone());
        }
    }
    kept
}

fn check_model(model: Option<&ModelName>, at: &str, problems: &mut Problems) {
    if let Some(model) = model {
        check_model_name(model, &format!("{at}.model"), problems);
    }
}

/// Notes what no model can be called. Whether one is called so is not asked: it may come later.
pub(super) fn check_model_name(model: &ModelName, at: &str, problems: &mut Problems) {
    if model.as_str().trim().is_empty() {
        problems.add(at, "must not be empty; name a model as clients do");
    }
    check_length(model.as_str(), MAX_MODEL_CHARACTERS, at, problems);
}

/// Whether a list is short enough to be looked at.
fn check_count(has: usize, max: usize, at: &str, problems: &mut Problems) -> bool {
    if has > max {
        problems.add(at, format!("has {has} entries; at most {max} are kept"));
    }
    has <= max
}

const MAX_RULES: usize = 64;
const MAX_MODELS: usize = 256;
const MAX_ALERTS: usize = 16;
const MAX_ALERT_PERCENT: u32 = 1_000;
const MAX_MODEL_CHARACTERS: usize = 256;
/// Far beyond any use, and far from where counters overflow, also in nanoseconds.
const MAX_LIMIT: u64 = 1_000_000_000_000;
const MAX_AMOUNT: u64 = 1_000_000_000_000_000_000;
