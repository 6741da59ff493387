//! Requests to test with: fixed ones, and any.

use domain::{
    Job, JobParts, KeyId, ModelDigest, ModelName, NanoUsd, OrganizationId, OutputRules, OwnBound,
    Price, ProjectId, RequestId, Sampling, Scope, Share,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::CacheKey;

/// A caller in project `project`.
pub(crate) fn scope(project: u128) -> Scope {
    Scope {
        organization: OrganizationId::from_u128(1),
        project: ProjectId::from_u128(project),
        user: None,
        key: KeyId::from_u128(1),
    }
}

/// A short greedy request.
pub(crate) fn greedy_parts() -> JobParts {
    JobParts {
        request: RequestId::from_u128(1),
        model: ModelName::new("demo"),
        digest: ModelDigest::new("00"),
        context_length: 100,
        prompt: vec![1, 2, 3].into(),
        max_output: Some(10),
        choices: 1,
        sampling: Sampling::greedy(),
        output: OutputRules::default(),
        stop: Vec::new(),
        share: Share::of(ProjectId::from_u128(1)),
        reproducible: true,
        price: Price::GpuTime { per_hour: NanoUsd::ZERO, markup_percent: 100 },
        bound: OwnBound::default(),
    }
}

/// The key of a short greedy request of project `project`.
pub(crate) fn sample_key(project: u128) -> CacheKey {
    CacheKey::of(&scope(project), &Job::new(greedy_parts()).unwrap()).unwrap()
}

/// Any caller.
pub(crate) fn any_scope() -> impl Strategy<Value = Scope> {
    any::<[u128; 3]>().prop_map(|[organization, project, key]| Scope {
        organization: OrganizationId::from_u128(organization),
        project: ProjectId::from_u128(project),
        user: None,
        key: KeyId::from_u128(key),
    })
}

/// Any reproducible request, with at least one stop string and one biased token.
pub(crate) fn any_parts() -> impl Strategy<Value = JobParts> {
    let texts = vec(".{0,4}", 1..4);
    ("[0-9a-f]{2,8}", vec(any::<u32>(), 1..20), 1..1000_u32, any_sampling(), texts).prop_map(
        |(digest, prompt, max_output, sampling, stop)| JobParts {
            digest: ModelDigest::new(digest),
            context_length: 10_000,
            prompt: prompt.into(),
            max_output: Some(max_output),
            sampling,
            stop,
            ..greedy_parts()
        },
    )
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(0.0_f32), 0.1..1.5_f32];
    let cut_offs = (0.0..0.5_f32, 0..100_u32, 0.0..0.5_f32);
    let penalties = (0.5..1.5_f32, -2.0..1.5_f32, -2.0..1.5_f32);
    let logit_bias = vec((any::<u32>(), -100.0..99.0_f32), 1..4);
    (temperature, cut_offs, penalties, logit_bias, any::<u64>()).prop_map(
        |(temperature, cut_offs, penalties, logit_bias, seed)| Sampling {
            temperature,
            top_p: cut_offs.0,
            top_k: cut_offs.1,
            min_p: cut_offs.2,
            repetition_penalty: penalties.0,
            presence_penalty: penalties.1,
            frequency_penalty: penalties.2,
            logit_bias,
            seed,
        },
    )
}
