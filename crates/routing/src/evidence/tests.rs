use std::sync::Arc;

use domain::{CacheSalt, ModelDigest, OutputRules, ProjectId, RequestId, Sampling, Share};

use super::*;

fn start(generated: &[u32]) -> Start {
    let tenant = ProjectId::generate();
    Start {
        request: RequestId::generate(),
        model: ModelDigest::new("abc"),
        prompt: Arc::from([1]),
        generated: generated.to_vec(),
        max_output: 10,
        allowance: 8,
        sampling: Sampling::greedy(),
        output: OutputRules::default(),
        share: Share::of(tenant),
        salt: CacheSalt::of(tenant),
    }
}

fn told(logprob: f32) -> Logprobs {
    Logprobs { logprob, top: Vec::new() }
}

#[test]
fn lies_are_told_from_truths() {
    let start = start(&[5, 6, 7]);
    #[expect(clippy::type_complexity, reason = "a table of one test")]
    let cases: [(u32, &[u32], Result<&[u32], Lie>); 7] = [
        (3, &[8, 9], Ok(&[8, 9])),
        (1, &[6, 7, 8], Ok(&[8])),
        (0, &[5, 6], Ok(&[])),
        (4, &[8], Err(Lie::Gap { known: 3, first: 4 })),
        (1, &[9, 7, 8], Err(Lie::Contradiction { at: 1 })),
        (3, &[8, 100], Err(Lie::UnknownToken { id: 100, vocabulary: 100 })),
        (3, &[1; 6], Err(Lie::TooMuch)),
    ];
    for (first, ids, expected) in cases {
        let found = fresh(&start, 100, first, (ids.to_vec(), Vec::new()));
        assert_eq!(found.map(|(ids, _)| ids), expected.map(<[u32]>::to_vec), "{first} {ids:?}");
    }
}

#[test]
fn log_probabilities_are_as_many_as_were_asked_for_and_below_zero() {
    let mut start = start(&[]);
    let unasked = fresh(&start, 100, 0, (vec![1], vec![told(-1.0)]));
    assert_eq!(unasked, Err(Lie::Logprobs { told: 1, tokens: 1 }));

    start.output.logprobs = Some(0);
    assert!(fresh(&start, 100, 0, (vec![1], vec![told(-1.0)])).is_ok());
    let cases = [vec![], vec![told(f32::NAN)], vec![told(2.0)], vec![told(-1.0), told(-1.0)]];
    for logprobs in cases {
        assert!(fresh(&start, 100, 0, (vec![1], logprobs.clone())).is_err(), "{logprobs:?}");
    }
}

#[test]
fn an_end_needs_a_reason() {
    let usage = Usage::default();
    let ends = |generated: &[u32], asked, reason| {
        ending(&start(generated), (start(&[]).max_output, asked), reason, &usage)
    };
    assert!(ends(&[1], None, FinishReason::Stop).is_ok());
    assert!(ends(&[1; 10], None, FinishReason::Length).is_ok());
    assert!(ends(&[1], None, FinishReason::Length).is_err());
    assert!(ends(&[1], None, FinishReason::Cancelled).is_err());
    assert!(ends(&[1], Some(FinishReason::Budget), FinishReason::Budget).is_ok());
}

#[test]
fn nobody_spends_more_time_than_passed() {
    let forever = GpuTime::from_nanos(u64::MAX);
    let times = Times {
        queue: forever,
        prefill: forever,
        decode: forever,
        recompute: forever,
        saved: forever,
    };
    let (usage, clamped) =
        bounded(&Usage { gpu: forever, times, ..Usage::default() }, Duration::from_secs(2));

    let most = GpuTime::from_nanos(3_000_000_000);
    assert_eq!((usage.gpu, usage.times.prefill, usage.times.decode), (most, most, GpuTime::ZERO));
    assert!(clamped > GpuTime::ZERO);
}
