//! What every [`Tier`] must do, as tests to run against each.
//!
//! `instantiate!(open)` makes one test per behaviour; `open()` gives a tier that keeps answers of up
//! to [`LARGEST_ANSWER_BYTES`]. Tests use projects of their own, so tiers may share what is behind.

use cache::{CacheKey, CachedAnswer, Tier};
use domain::{
    FinishReason, Job, JobParts, KeyId, ModelDigest, ModelName, NanoUsd, OrganizationId, OwnBound,
    Price, ProjectId, RequestId, Sampling, Scope,
};

/// The limit that tiers under test are opened with.
pub(crate) const LARGEST_ANSWER_BYTES: usize = 64 * 1024;

/// The key of a request that differs from others of `project` by its `prompt`.
pub(crate) fn fresh_key(project: ProjectId, prompt: u32) -> CacheKey {
    let scope = Scope {
        organization: OrganizationId::from_u128(1),
        project,
        user: None,
        key: KeyId::from_u128(1),
    };
    let job = Job::new(JobParts {
        request: RequestId::from_u128(1),
        model: ModelName::new("demo"),
        digest: ModelDigest::new("00"),
        context_length: 100,
        prompt: [prompt].into(),
        max_output: None,
        choices: 1,
        sampling: Sampling::greedy(),
        output: domain::OutputRules::default(),
        stop: Vec::new(),
        share: domain::Share::of(project),
        reproducible: true,
        price: Price::GpuTime { per_hour: NanoUsd::ZERO, markup_percent: 100 },
        bound: OwnBound::default(),
    });
    CacheKey::of(&scope, &job.expect("the job fits")).expect("greedy is reproducible")
}

/// A complete answer.
pub(crate) fn answer(text: &str) -> CachedAnswer {
    CachedAnswer {
        text: text.to_owned(),
        finish: FinishReason::Stop,
        prompt_tokens: 1,
        completion_tokens: 2,
        reasoning_tokens: 1,
    }
}

/// A key that was never used is a miss.
pub(crate) async fn what_was_never_stored_is_not_found(tier: impl Tier) {
    let key = fresh_key(ProjectId::generate(), 1);

    assert_eq!(tier.find(&key).await, None);
}

/// Every field comes back, whatever the text is made of.
pub(crate) async fn what_was_stored_is_found_unchanged(tier: impl Tier) {
    let project = ProjectId::generate();
    let texts = ["", "plain", "\0\r\n\u{7f}", "\"{}\\", "żółw 🐢 \u{202e}"];

    for (prompt, text) in (0..).zip(texts) {
        let stored = CachedAnswer {
            finish: FinishReason::Length,
            prompt_tokens: u32::MAX,
            completion_tokens: 0,
            reasoning_tokens: u32::MAX,
            ..answer(text)
        };
        tier.store(&fresh_key(project, prompt), &stored).await;
        assert_eq!(tier.find(&fresh_key(project, prompt)).await, Some(stored), "{text:?}");
    }
}

/// The last one wins.
pub(crate) async fn storing_again_replaces(tier: impl Tier) {
    let key = fresh_key(ProjectId::generate(), 1);

    tier.store(&key, &answer("first")).await;
    tier.store(&key, &answer("second")).await;

    assert_eq!(tier.find(&key).await, Some(answer("second")));
}

/// The same request of another project, and another request of the same project, are misses.
pub(crate) async fn an_answer_is_found_under_its_own_key_alone(tier: impl Tier) {
    let (ours, theirs) = (ProjectId::generate(), ProjectId::generate());

    tier.store(&fresh_key(ours, 1), &answer("ours")).await;

    assert_eq!(tier.find(&fresh_key(theirs, 1)).await, None);
    assert_eq!(tier.find(&fresh_key(ours, 2)).await, None);
    assert_eq!(tier.find(&fresh_key(ours, 1)).await, Some(answer("ours")));
}

/// The largest answer is kept, one byte more is not.
pub(crate) async fn an_answer_above_the_limit_is_not_kept(tier: impl Tier) {
    let project = ProjectId::generate();
    let (largest, larger) = (fresh_key(project, 1), fresh_key(project, 2));

    tier.store(&largest, &answer(&"x".repeat(LARGEST_ANSWER_BYTES))).await;
    tier.store(&larger, &answer(&"x".repeat(LARGEST_ANSWER_BYTES + 1))).await;

    assert!(tier.find(&largest).await.is_some());
    assert!(tier.find(&larger).await.is_none());
}

/// Many at once do not mix up each other's answers.
pub(crate) async fn concurrent_requests_get_their_own_answers(tier: impl Tier) {
    let (tier, project) = (&tier, ProjectId::generate());
    // A tier may turn others away while its first request connects.
    tier.store(&fresh_key(project, 0), &answer("answer 0")).await;

    let exchanges = (0..100).map(|prompt| async move {
        let (key, stored) = (fresh_key(project, prompt), answer(&format!("answer {prompt}")));
        tier.store(&key, &stored).await;
        (tier.find(&key).await, Some(stored))
    });

    for (found, stored) in futures_util::future::join_all(exchanges).await {
        assert_eq!(found, stored);
    }
}

/// One test for each behaviour above, against the tiers that `$open` makes.
macro_rules! instantiate {
    ($open:path) => {
        $crate::cache_conformance::instantiate!($open =>
            what_was_never_stored_is_not_found
            what_was_stored_is_found_unchanged
            storing_again_replaces
            an_answer_is_found_under_its_own_key_alone
            an_answer_above_the_limit_is_not_kept
            concurrent_requests_get_their_own_answers
        );
    };
    ($open:path => $($behaviour:ident)*) => {
        $(
            #[tokio::test]
            async fn $behaviour() {
                $crate::cache_conformance::$behaviour($open()).await;
            }
        )*
    };
}
pub(crate) use instantiate;
