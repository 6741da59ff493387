//! Limits, budgets and the rest of what stands at a scope, as arguments.
//!
//! A budget or limit that is given again with another amount takes the place of the one before, and what was
//! counted under that goes on counting.

use admission::tenancy::{
    Amount, Budget, BudgetDraft, Enforcement, Limit, LimitDraft, LimitKind, Patched, Policy,
    PolicyPatch, Window,
};
use clap::Args;
use domain::{GpuTime, ModelName, NanoUsd, Timestamp};

use crate::print::{moment, parse_moment};

/// What stands at a scope. What is not given stays as it is.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Args, Clone, Default)]
pub(super) struct PolicyArguments {
    /// A limit, such as `requests-per-minute=60`; repeat for more. All of them replace the limits before.
    /// Kinds: requests-per-minute, tokens-per-minute, tokens-per-day, concurrent-requests,
    /// gpu-millis-per-minute. `,model=NAME` limits one model alone
    #[arg(long = "limit", value_name = "KIND=MAX", value_parser = parse_limit)]
    limits: Vec<LimitDraft>,
    /// Lift every limit
    #[arg(long, conflicts_with = "limits")]
    no_limits: bool,
    /// A budget, such as `usd=12.50`, `tokens=1000000,window=day` or `gpu-seconds=3600,window=month,soft`;
    /// repeat for more. All of them replace the budgets before. Further: `alert=80` (a percentage at which
    /// the organization's webhook is told; repeat for more), `model=NAME`
    #[arg(long = "budget", value_name = "UNIT=AMOUNT", value_parser = parse_budget)]
    budgets: Vec<BudgetDraft>,
    /// Lift every budget
    #[arg(long, conflicts_with = "budgets")]
    no_budgets: bool,
    /// A model that may be used; repeat for more
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// Allow every model
    #[arg(long, conflicts_with = "models")]
    all_models: bool,
    /// Admit nothing from then on: a date, or a moment such as 2026-11-01T00:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    expires: Option<Timestamp>,
    /// Never expire
    #[arg(long, conflicts_with = "expires")]
    no_expiry: bool,
    /// Admit nothing
    #[arg(long)]
    block: bool,
    /// Admit again
    #[arg(long, conflicts_with = "block")]
    unblock: bool,
}

impl PolicyArguments {
    /// What they say of a policy that was `before`.
    pub(super) fn patch(self, before: &Policy) -> PolicyPatch {
        let Self {
            mut limits,
            no_limits,
            mut budgets,
            no_budgets,
            models,
            all_models,
            expires,
            no_expiry,
            block,
            unblock,
        } = self;
        for limit in &mut limits {
            let same = |old: &&Limit| (old.kind, &old.model) == (limit.kind, &limit.model);
            limit.id = before.limits.iter().find(same).map(|old| old.id);
        }
        let mut left: Vec<&Budget> = before.budgets.iter().collect();
        for budget in &mut budgets {
            let unit = std::mem::discriminant::<Amount>;
            let same = |old: &&Budget| {
                (unit(&old.amount), old.window, &old.model)
                    == (unit(&budget.amount), budget.window, &budget.model)
            };
            let found = left.iter().position(same);
            budget.id = found.map(|at| left.remove(at).id);
        }
        let models: Vec<ModelName> = models.into_iter().map(ModelName::new).collect();
        PolicyPatch {
            limits: (no_limits || !limits.is_empty()).then_some(limits),
            budgets: (no_budgets || !budgets.is_empty()).then_some(budgets),
            models: (all_models || !models.is_empty()).then_some(models),
            expires_at: match (expires, no_expiry) {
                (Some(at), _) => Patched::Set(at),
                (None, true) => Patched::Cleared,
                (None, false) => Patched::Same,
            },
            blocked: (block || unblock).then_some(block),
        }
    }
}

/// Titles of [`cells`].
pub(super) const TITLES: [&str; 3] = ["STATE", "BUDGETS", "LIMITS"];

/// What stands there, in a few words each.
pub(super) fn cells(policy: &Policy) -> Vec<String> {
    let state = match (policy.blocked, policy.expires_at) {
        (true, _) => "blocked".to_owned(),
        (false, Some(at)) => format!("until {}", moment(at)),
        (false, None) => "active".to_owned(),
    };
    let budgets = policy.budgets.iter().map(|budget| {
        let window = match budget.window {
            Window::Day => " a day",
            Window::Week => " a week",
            Window::Month => " a month",
            Window::Total => "",
        };
        let soft = if budget.enforcement == Enforcement::Soft { " (soft)" } else { "" };
        format!("{}{window}{soft}{}", budget.amount, of_model(budget.model.as_ref()))
    });
    let limits = policy
        .limits
        .iter()
        .map(|limit| format!("{} {}{}", limit.max, limit.kind, of_model(limit.model.as_ref())));
    vec![state, words(budgets), words(limits)]
}

fn words(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn of_model(model: Option<&ModelName>) -> String {
    model.map(|model| format!(" of {}", model.as_str())).unwrap_or_default()
}

fn parse_limit(text: &str) -> Result<LimitDraft, String> {
    let (first, rest) =
        text.split_once(',').map_or((text, None), |(first, rest)| (first, Some(rest)));
    let Some((kind, max)) = first.split_once('=') else {
        return Err("must be KIND=MAX, such as requests-per-minute=60".to_owned());
    };
    let Some((_, kind)) = LIMIT_KINDS.iter().find(|(name, _)| *name == kind) else {
        let names: Vec<&str> = LIMIT_KINDS.iter().map(|(name, _)| *name).collect();
        return Err(format!("`{kind}` is no kind of limit; there are {}", names.join(", ")));
    };
    let max = max.parse().map_err(|_| format!("`{max}` must be a whole number"))?;
    let mut draft = LimitDraft { id: None, kind: *kind, max, model: None };
    for word in rest.into_iter().flat_map(|rest| rest.split(',')) {
        match word.split_once('=') {
            Some(("model", model)) => draft.model = Some(ModelName::new(model)),
            _ => return Err(format!("`{word}` means nothing here; only model=NAME may follow")),
        }
    }
    Ok(draft)
}

fn parse_budget(text: &str) -> Result<BudgetDraft, String> {
    let mut words = text.split(',');
    let first = words.next().unwrap_or_default();
    let Some((unit, amount)) = first.split_once('=') else {
        return Err("must be UNIT=AMOUNT, such as usd=12.50".to_owned());
    };
    let mut draft = BudgetDraft {
        id: None,
        amount: parse_amount(unit, amount)?,
        window: Window::Total,
        enforcement: Enforcement::Hard,
        alert_percent: Vec::new(),
        model: None,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("hard", "") => draft.enforcement = Enforcement::Hard,
            ("soft", "") => draft.enforcement = Enforcement::Soft,
            ("window", name) => draft.window = parse_window(name)?,
            ("model", name) => draft.model = Some(ModelName::new(name)),
            ("alert", percent) => draft.alert_percent.push(
                percent
                    .parse()
                    .map_err(|_| format!("`{percent}` must be a percentage, such as 80"))?,
            ),
            _ => {
                let known = "window=day|week|month|total, soft, hard, alert=PERCENT or model=NAME";
                return Err(format!("`{word}` means nothing here; {known} may follow"));
            }
        }
    }
    Ok(draft)
}

fn parse_amount(unit: &str, amount: &str) -> Result<Amount, String> {
    let decimal = || {
        let parsed = NanoUsd::parse_dollars(amount);
        parsed.ok_or_else(|| format!("`{amount}` must be an amount such as 12.50"))
    };
    match unit {
        "usd" => decimal().map(Amount::Money),
        "tokens" => {
            let tokens =
                amount.parse().map_err(|_| format!("`{amount}` must be a whole number"))?;
            Ok(Amount::Tokens(tokens))
        }
        // Nano-dollars of a dollar, nanoseconds of a second.
        "gpu-seconds" => decimal().map(|amount| {
            Amount::GpuTime(GpuTime::from_nanos(u64::try_from(amount.nanos()).unwrap_or_default()))
        }),
        _ => Err(format!("`{unit}` is no unit of a budget; there are usd, tokens and gpu-seconds")),
    }
}

fn parse_window(name: &str) -> Result<Window, String> {
    match name {
        "day" => Ok(Window::Day),
        "week" => Ok(Window::Week),
        "month" => Ok(Window::Month),
        "total" => Ok(Window::Total),
        _ => Err(format!("`{name}` is no window; there are day, week, month and total")),
    }
}

const LIMIT_KINDS: [(&str, LimitKind); 5] = [
    ("requests-per-minute", LimitKind::RequestsPerMinute),
    ("tokens-per-minute", LimitKind::TokensPerMinute),
    ("tokens-per-day", LimitKind::TokensPerDay),
    ("concurrent-requests", LimitKind::ConcurrentRequests),
    ("gpu-millis-per-minute", LimitKind::GpuMillisPerMinute),
];

#[cfg(test)]
mod tests {
    use domain::RuleId;

    use super::*;

    fn patch(limits: &[&str], budgets: &[&str], before: &Policy) -> PolicyPatch {
        let arguments = PolicyArguments {
            limits: limits.iter().map(|text| parse_limit(text).unwrap()).collect(),
            budgets: budgets.iter().map(|text| parse_budget(text).unwrap()).collect(),
            ..PolicyArguments::default()
        };
        arguments.patch(before)
    }

    #[test]
    fn a_budget_may_say_everything_that_a_budget_has() {
        let draft = parse_budget("tokens=1000,window=week,soft,alert=50,alert=90,model=m").unwrap();

        assert_eq!(draft.amount, Amount::Tokens(1000));
        assert_eq!((draft.window, draft.enforcement), (Window::Week, Enforcement::Soft));
        assert_eq!(draft.alert_percent, [50, 90]);
        assert_eq!(draft.model, Some(ModelName::new("m")));
    }

    #[test]
    fn a_budget_that_is_raised_keeps_its_count_and_another_window_counts_anew() {
        let id = RuleId::generate();
        let old = parse_budget("usd=1,window=day").unwrap();
        let BudgetDraft { amount, window, enforcement, alert_percent, model, .. } = old;
        let budget = Budget { id, amount, window, enforcement, alert_percent, model };
        let before = Policy { budgets: vec![budget], ..Policy::default() };

        let raised = patch(&[], &["usd=2,window=day", "usd=9,window=month"], &before);

        let ids: Vec<_> = raised.budgets.unwrap().iter().map(|draft| draft.id).collect();
        assert_eq!(ids, [Some(id), None]);
        assert_eq!(raised.limits, None, "what is not given stays");
    }

    #[test]
    fn nonsense_is_refused_with_what_there_is() {
        for (text, word) in [
            ("lots", "UNIT=AMOUNT"),
            ("usd=lots", "12.50"),
            ("usd=-1", "-1"),
            ("euro=1", "gpu-seconds"),
            ("usd=1,window=year", "month"),
            ("usd=1,often", "alert"),
        ] {
            let message = parse_budget(text).unwrap_err();
            assert!(message.contains(word), "{text}: {message}");
        }
        assert!(parse_limit("speed=1").unwrap_err().contains("tokens-per-day"));
        assert!(parse_limit("requests-per-minute=-1").unwrap_err().contains("-1"));
    }
}
