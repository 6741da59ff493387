//! Limits and budgets: which ids they keep, and what is refused.

use std::time::Duration;

use admission::tenancy::{
    Amount, BudgetDraft, Enforcement, LimitDraft, LimitKind, NewOrganization, NewProject, Patched,
    PolicyPatch, ProjectUpdate, RegistryError, WebhookDraft, Window,
};
use domain::{ModelName, NanoUsd, RuleId, Secret};
use proptest::prelude::*;

use crate::world::{START, World, places};

fn budget(id: Option<RuleId>, amount: Amount) -> BudgetDraft {
    BudgetDraft {
        id,
        amount,
        window: Window::Month,
        enforcement: Enforcement::Hard,
        alert_percent: vec![100, 80, 80],
        model: None,
    }
}

fn limit(id: Option<RuleId>, kind: LimitKind, max: u64) -> LimitDraft {
    LimitDraft { id, kind, max, model: None }
}

fn dollars(amount: i64) -> Amount {
    Amount::Money(NanoUsd::from_dollars(amount))
}

#[tokio::test]
async fn a_rule_that_is_sent_back_with_its_id_keeps_it() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let first = PolicyPatch {
        limits: Some(vec![limit(None, LimitKind::RequestsPerMinute, 10)]),
        budgets: Some(vec![budget(None, dollars(5))]),
        ..PolicyPatch::default()
    };
    let made = world.done(&ProjectUpdate { policy: first, ..ProjectUpdate::of(project.id) }).await;
    let (old_limit, old_budget) =
        (made.record.policy.limits[0].id, made.record.policy.budgets[0].id);

    let second = PolicyPatch {
        limits: Some(vec![
            limit(None, LimitKind::TokensPerMinute, 1),
            limit(Some(old_limit), LimitKind::RequestsPerMinute, 99),
        ]),
        budgets: Some(vec![budget(Some(old_budget), dollars(7)), budget(None, dollars(1))]),
        ..PolicyPatch::default()
    };
    let made = world.done(&ProjectUpdate { policy: second, ..ProjectUpdate::of(project.id) }).await;

    let policy = made.record.policy;
    assert_eq!((policy.limits[1].id, policy.limits[1].max), (old_limit, 99));
    assert_eq!((policy.budgets[0].id, policy.budgets[0].amount), (old_budget, dollars(7)));
    assert_eq!(policy.budgets[0].alert_percent, [80, 100]);
    assert!(policy.limits[0].id != old_limit && policy.budgets[1].id != old_budget);
}

#[tokio::test]
async fn an_id_that_is_unknown_or_counts_something_else_is_refused() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let first = PolicyPatch {
        limits: Some(vec![limit(None, LimitKind::RequestsPerMinute, 10)]),
        budgets: Some(vec![budget(None, dollars(5)), budget(None, dollars(6))]),
        ..PolicyPatch::default()
    };
    let made = world.done(&ProjectUpdate { policy: first, ..ProjectUpdate::of(project.id) }).await;
    let (of_limit, of_budget) =
        (Some(made.record.policy.limits[0].id), Some(made.record.policy.budgets[0].id));
    let other = made.record.policy.budgets[1].id;

    let for_model =
        BudgetDraft { model: Some(ModelName::new("m")), ..budget(Some(other), dollars(6)) };
    let second = PolicyPatch {
        limits: Some(vec![
            limit(of_limit, LimitKind::TokensPerMinute, 1),
            limit(of_budget, LimitKind::RequestsPerMinute, 1),
        ]),
        budgets: Some(vec![
            budget(of_budget, Amount::Tokens(1)),
            budget(of_budget, dollars(1)),
            for_model,
            budget(Some(RuleId::generate()), dollars(1)),
        ]),
        ..PolicyPatch::default()
    };
    let refused =
        world.refused(&ProjectUpdate { policy: second, ..ProjectUpdate::of(project.id) }).await;

    let expected = [
        "policy.limits[0].id",
        "policy.limits[1].id",
        "policy.budgets[0].id",
        "policy.budgets[1].id",
        "policy.budgets[2].id",
        "policy.budgets[3].id",
    ];
    assert_eq!(places(&refused), expected);
}

#[tokio::test]
async fn every_problem_is_told_at_once_with_its_place() {
    let world = World::new();
    let rules = PolicyPatch {
        limits: Some(vec![
            limit(None, LimitKind::TokensPerDay, u64::MAX),
            limit(None, LimitKind::TokensPerDay, 1),
        ]),
        budgets: Some(vec![BudgetDraft {
            alert_percent: vec![0, 80, 5_000],
            ..budget(None, Amount::Money(NanoUsd::from_nanos(-1)))
        }]),
        models: Some(vec![ModelName::new("m"), ModelName::new(" ")]),
        expires_at: Patched::Set(START),
        blocked: None,
    };
    let words = [("w".repeat(200), "v".repeat(2_000))];
    let webhook = WebhookDraft {
        url: "http://example.com".to_owned(),
        secret: Some(Secret::new("short".to_owned())),
    };
    let request = NewOrganization {
        name: " \n".to_owned(),
        time_zone: Some("Mars/Olympus".to_owned()),
        policy: rules,
        webhook: Some(webhook),
        metadata: words.clone().into_iter().collect(),
    };

    let refused = world.refused(&request).await;

    let word = format!("metadata.{}", words[0].0);
    let expected = [
        "name",
        "time_zone",
        "policy.limits[0].max",
        "policy.limits[1]",
        "policy.budgets[0].amount",
        "policy.budgets[0].alert_percent[0]",
        "policy.budgets[0].alert_percent[2]",
        "policy.models[1]",
        "policy.expires_at",
        "webhook.url",
        "webhook.secret",
        &word,
        &word,
    ];
    assert_eq!(places(&refused), expected);
    assert!(world.kept().await.is_empty());
}

#[tokio::test]
async fn an_update_leaves_what_it_does_not_name() {
    let world = World::new();
    let acme = world.organization("acme").await;
    let policy = PolicyPatch {
        limits: Some(vec![limit(None, LimitKind::RequestsPerMinute, 10)]),
        models: Some(vec![ModelName::new("a"), ModelName::new("b"), ModelName::new("a")]),
        expires_at: Patched::Set(START.plus(Duration::from_secs(1))),
        ..PolicyPatch::default()
    };
    let metadata = [("team", "x"), ("cost centre", "7")];
    let metadata = metadata.map(|(word, value)| (word.to_owned(), value.to_owned()));
    let request = NewProject {
        policy: policy.clone(),
        each_end_user: policy,
        metadata: metadata.into_iter().collect(),
        ..NewProject::called("search", acme.id)
    };
    let before = world.done(&request).await.record;

    let words = [("team".to_owned(), None), ("owner".to_owned(), Some("ann".to_owned()))];
    let update = ProjectUpdate {
        policy: PolicyPatch {
            expires_at: Patched::Cleared,
            blocked: Some(true),
            ..PolicyPatch::default()
        },
        metadata: words.into_iter().collect(),
        ..ProjectUpdate::of(before.id)
    };
    let after = world.done(&update).await.record;

    assert_eq!(after.policy.models, [ModelName::new("a"), ModelName::new("b")]);
    assert_eq!((after.policy.blocked, after.policy.expires_at), (true, None));
    assert_eq!(after.policy.limits, before.policy.limits);
    assert_eq!((&after.name, &after.each_end_user), (&before.name, &before.each_end_user));
    let words: Vec<(&str, &str)> =
        after.metadata.iter().map(|(word, value)| (word.as_str(), value.as_str())).collect();
    assert_eq!(words, [("cost centre", "7"), ("owner", "ann")]);
}

#[tokio::test]
async fn a_list_that_is_too_long_is_refused_as_a_whole() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let many = vec![limit(None, LimitKind::RequestsPerMinute, 1); 65];
    let policy = PolicyPatch { limits: Some(many), ..PolicyPatch::default() };

    let refused = world.refused(&ProjectUpdate { policy, ..ProjectUpdate::of(project.id) }).await;

    assert_eq!(places(&refused), ["policy.limits"]);
    assert!(matches!(refused, RegistryError::Invalid(_)));
}

proptest! {
    #[test]
    fn ids_of_rules_come_from_the_policy_or_are_new(
        first in prop::collection::vec(0_u8..4, 0..5),
        // Which old rule a draft names, if any; and what it counts.
        second in prop::collection::vec((prop::option::of(0_usize..6), 0_u8..4), 0..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(keep_ids(&first, &second));
    }
}

async fn keep_ids(first: &[u8], second: &[(Option<usize>, u8)]) {
    let world = World::new();
    let project = world.project_of_acme().await;
    let amount = |unit: u8| if unit.is_multiple_of(2) { dollars(1) } else { Amount::Tokens(1) };
    let update = |drafts| {
        let policy = PolicyPatch { budgets: Some(drafts), ..PolicyPatch::default() };
        ProjectUpdate { policy, ..ProjectUpdate::of(project.id) }
    };
    let drafts = first.iter().map(|unit| budget(None, amount(*unit))).collect();
    let old = world.done(&update(drafts)).await.record.policy.budgets;

    let strange = RuleId::generate();
    let id = |at: Option<usize>| at.map(|at| old.get(at).map_or(strange, |old| old.id));
    let drafts: Vec<BudgetDraft> =
        second.iter().map(|(at, unit)| budget(id(*at), amount(*unit))).collect();
    let request = update(drafts.clone());
    let terms = admission::tenancy::Terms::default();
    let result = world.registry.change(admission::tenancy::Actor::Local, &request, &terms).await;

    let fits = |draft: &BudgetDraft| {
        let unit = std::mem::discriminant::<Amount>;
        let Some(id) = draft.id else { return true };
        let same = drafts.iter().filter(|other| other.id == Some(id)).count() == 1;
        let before = old.iter().find(|old| old.id == id);
        same && before.is_some_and(|old| unit(&old.amount) == unit(&draft.amount))
    };
    assert_eq!(result.is_ok(), drafts.iter().all(fits));
    let Ok(changed) = result else { return };
    for (draft, kept) in drafts.iter().zip(&changed.record.policy.budgets) {
        let is_new = old.iter().all(|old| old.id != kept.id);
        assert!(draft.id.map_or(is_new, |id| id == kept.id));
    }
}
