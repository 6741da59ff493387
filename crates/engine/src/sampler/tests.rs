use proptest::prelude::*;

use super::*;

fn sampling(change: impl FnOnce(&mut Sampling)) -> Sampling {
    let mut sampling = Sampling { temperature: 1.0, ..Sampling::greedy() };
    change(&mut sampling);
    sampling
}

fn drawn(sampling: &Sampling, logits: &[f32], positions: u32) -> Vec<u32> {
    let sampler = Sampler::new(sampling.clone(), &[], &[]);
    (0..positions)
        .map(|position| sampler.sample(&mut logits.to_vec(), position, Limits::default()).unwrap())
        .collect()
}

/// The tokens that may be drawn, by the plainest reading of the documentation.
fn allowed(sampling: &Sampling, logits: &[f32]) -> Vec<u32> {
    let (_, max) = largest(logits);
    let mut order: Vec<(u32, f32)> = (0..)
        .zip(logits)
        .map(|(id, logit)| (id, ((logit - max) / sampling.temperature).exp()))
        .filter(|(_, weight)| *weight >= sampling.min_p && *weight > 0.0)
        .collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let total: f64 = order.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let mut mass = 0.0;
    let mut kept = Vec::new();
    for (id, weight) in order {
        kept.push(id);
        mass += f64::from(weight);
        if sampling.top_p < 1.0 && mass >= total * f64::from(sampling.top_p) * (1.0 - 1e-9) {
            break;
        }
    }
    kept.sort_unstable();
    kept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn only_tokens_that_every_filter_keeps_are_candidates(
        logits in prop::collection::vec(-8.0..8.0_f32, 1..400),
        temperature in 0.1..2.0_f32,
        top_p in prop_oneof![Just(1.0), 0.0..1.0_f32],
        top_k in 0..50_u32,
        min_p in prop_oneof![Just(0.0), 0.0..1.0_f32],
    ) {
        let sampling = sampling(|s| {
            (s.temperature, s.top_p, s.top_k, s.min_p) = (temperature, top_p, top_k, min_p);
        });
        let sampler = Sampler::new(sampling.clone(), &[], &[]);

        let (best, max) = largest(&logits);
        let mut weights = logits.clone();
        weigh(&mut weights, max, sampler.sampling.temperature);
        let mut ids: Vec<u32> =
            sampler.candidates(&weights).iter().map(|candidate| candidate.id).collect();
        ids.sort_unstable();

        prop_assert_eq!(&ids, &allowed(&sampling, &logits));
        prop_assert!(ids.contains(&best), "the most probable token always stays");
    }
}

#[test]
fn greedy_takes_the_largest_logit_and_the_first_of_equals() {
    let sampler = Sampler::new(Sampling::greedy(), &[], &[]);
    assert_eq!(sampler.sample(&mut [1.0, 5.0, 5.0, -2.0], 0, Limits::default()), Ok(1));
}

#[test]
fn one_seed_draws_the_same_and_another_differs() {
    let logits: Vec<f32> = (0..64).map(|id| (id % 7) as f32 * 0.3).collect();
    let first = drawn(&sampling(|s| s.seed = 1), &logits, 100);
    assert_eq!(first, drawn(&sampling(|s| s.seed = 1), &logits, 100));
    assert_ne!(first, drawn(&sampling(|s| s.seed = 2), &logits, 100));
}

#[test]
fn draws_follow_the_probabilities() {
    let probabilities = [0.5_f32, 0.25, 0.125, 0.0625, 0.0625];
    let logits: Vec<f32> = probabilities.iter().map(|p| p.ln() + 3.0).collect();
    let draws = drawn(&sampling(|s| s.seed = 11), &logits, 20_000);

    let mut chi_squared = 0.0;
    for (id, probability) in (0_u32..).zip(probabilities) {
        let expected = 20_000.0 * f64::from(probability);
        let count = draws.iter().filter(|&&drawn| drawn == id).count() as f64;
        chi_squared += (count - expected).powi(2) / expected;
    }
    // 99.9 % quantile for four degrees of freedom.
    assert!(chi_squared < 18.47, "chi squared {chi_squared}");
}

#[test]
fn penalties_hit_the_tokens_they_are_about() {
    let penalties = sampling(|s| {
        (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) = (2.0, 0.5, 0.25);
    });
    let mut sampler = Sampler::new(penalties, &[0, 1], &[1, 2]);
    sampler.note(2);

    let mut logits = [4.0, 4.0, -4.0, 4.0];
    sampler.adjust(&mut logits);

    // 0 is in the prompt only; 1 once in the output; 2 twice in the output; 3 nowhere.
    assert_eq!(logits, [2.0, 2.0 - 0.25 - 0.5, -8.0 - 0.5 - 0.5, 4.0]);
}

#[test]
fn a_bias_of_one_hundred_decides_and_of_minus_one_hundred_bans() {
    let push = Sampling { logit_bias: vec![(3, 100.0)], ..Sampling::greedy() };
    let ban = Sampling { logit_bias: vec![(1, -100.0)], ..Sampling::greedy() };
    let logits = [1.0, 9.0, 2.0, 0.0];
    assert_eq!(
        Sampler::new(push, &[], &[]).sample(&mut logits.to_vec(), 0, Limits::default()),
        Ok(3)
    );
    assert_eq!(
        Sampler::new(ban, &[], &[]).sample(&mut logits.to_vec(), 0, Limits::default()),
        Ok(2)
    );
}

#[test]
fn logits_that_are_no_numbers_are_a_failure() {
    let sampler = Sampler::new(Sampling::greedy(), &[], &[]);
    let failure = Err(Failure::NotANumber { position: 5 });
    assert_eq!(sampler.sample(&mut [0.0, f32::NAN], 5, Limits::default()), failure);
    assert_eq!(sampler.sample(&mut [0.0, f32::INFINITY], 5, Limits::default()), failure);
    assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY; 2], 5, Limits::default()), failure);
}

#[test]
fn what_is_banned_is_not_drawn() {
    let banned = Limits { banned: &[1], ..Limits::default() };
    let greedy = Sampler::new(Sampling::greedy(), &[], &[]);
    assert_eq!(greedy.sample(&mut [1.0, 5.0, 4.0], 0, banned), Ok(2));
    let hot = Sampler::new(Sampling { temperature: 5.0, ..Sampling::greedy() }, &[], &[]);
    for position in 0..200 {
        assert_ne!(hot.sample(&mut [1.0, 5.0, 4.0], position, banned), Ok(1));
    }
}

#[test]
fn only_what_is_allowed_is_drawn() {
    let greedy = Sampler::new(Sampling::greedy(), &[], &[]);
    for (only, expected) in [(vec![0, 3], 3), (vec![2], 2), (vec![0], 0), (vec![0, 1, 2, 3], 1)] {
        let limits = Limits { only: Some(&only), ..Limits::default() };
        assert_eq!(greedy.sample(&mut [1.0, 5.0, 4.0, 3.0], 0, limits), Ok(expected), "{only:?}");
    }
    let hot = Sampler::new(Sampling { temperature: 2.0, ..Sampling::greedy() }, &[], &[]);
    let limits = Limits { only: Some(&[0, 2]), ..Limits::default() };
    for position in 0..200 {
        assert_ne!(hot.sample(&mut [1.0, 5.0, 4.0], position, limits), Ok(1));
    }
}

#[test]
fn log_probabilities_are_those_of_the_logits() {
    let told = logprobs(&[1.0, 3.0, 2.0, 3.0], 2, 3);
    let total = (1.0_f64.exp() + 2.0 * 3.0_f64.exp() + 2.0_f64.exp()).ln();
    assert_eq!(told.logprob, (2.0 - total) as f32);
    let best = (3.0 - total) as f32;
    assert_eq!(told.top, [(1, best), (3, best), (2, told.logprob)]);
    assert!(logprobs(&[0.0; 4], 0, 0).top.is_empty());
    assert_eq!(logprobs(&[0.0; 4], 0, 20).top.len(), 4);
}
