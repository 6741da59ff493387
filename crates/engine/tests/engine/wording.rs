//! Rules about tokens: what ends an output, what it may be of, and what it may not contain.

use domain::{FinishReason, Format, OutputRules};
use engine::{Engine, EngineConfig, Refusal, Request};

use crate::support::{Answer, answer, block_on, ignoring_eos, request, start};

const PROMPT: &[u32] = &[4088, 280, 198];
const LENGTH: u32 = 24;

fn ask(engine: &Engine, output: OutputRules) -> Answer {
    block_on(answer(engine, Request { output, ..request(PROMPT, LENGTH) }))
}

#[test]
fn a_stop_token_of_the_client_ends_an_output_and_is_no_part_of_it() {
    let engine = start(EngineConfig::default());
    let plain = ask(&engine, ignoring_eos());
    let stop = plain.ids[9];
    let first = plain.ids.iter().position(|id| *id == stop).unwrap();
    let stopping = OutputRules { stop_token_ids: [stop].into(), ..ignoring_eos() };

    let stopped = ask(&engine, stopping.clone());
    let late = ask(&engine, OutputRules { min_tokens: LENGTH - 4, ..stopping });

    assert_eq!((&stopped.ids[..], stopped.reason), (&plain.ids[..first], FinishReason::Stop));
    assert_eq!(stopped.usage.completion_tokens as usize, first);
    assert!(late.ids.len() as u32 >= LENGTH - 4 && late.ids[..first] == plain.ids[..first]);
    assert!(!late.ids.contains(&stop), "it is not drawn before it may end");
}

#[test]
fn an_output_is_of_allowed_tokens_alone() {
    let engine = start(EngineConfig::default());
    let plain = ask(&engine, ignoring_eos());
    let allowed: Vec<u32> = (300..340).collect();
    let rules =
        OutputRules { allowed_token_ids: Some(allowed.clone().into()), ..OutputRules::default() };

    let held = ask(&engine, rules.clone());

    assert!(held.ids.iter().all(|id| allowed.contains(id)), "{:?}", held.ids);
    assert_ne!(held.ids, plain.ids);
    assert_eq!(held.reason, FinishReason::Length, "what ends a turn is not allowed");
}

#[test]
fn a_bad_word_is_never_completed() {
    let engine = start(EngineConfig::default());
    let plain = ask(&engine, ignoring_eos());
    let bad = vec![plain.ids[3..6].to_vec(), vec![plain.ids[10]]];
    let contains = |ids: &[u32], word: &[u32]| ids.windows(word.len()).any(|window| window == word);

    let clean = ask(&engine, OutputRules { bad_words: bad.clone().into(), ..ignoring_eos() });

    assert!(bad.iter().all(|word| contains(&plain.ids, word) && !contains(&clean.ids, word)));
    assert_eq!(clean.ids[..5], plain.ids[..5], "up to its last token it is no bad word");
    assert_eq!(clean.ids.len() as u32, LENGTH);
}

#[test]
fn an_output_ends_where_its_rules_leave_nothing() {
    let engine = start(EngineConfig::default());
    let rules = OutputRules {
        allowed_token_ids: Some([300, 301].into()),
        bad_words: [vec![300], vec![301, 301]].into(),
        ..OutputRules::default()
    };

    let ended = ask(&engine, rules);

    assert_eq!((&ended.ids[..], ended.reason), (&[301][..], FinishReason::Stop));
}

#[test]
fn rules_that_no_engine_can_keep_to_are_refused() {
    let engine = start(EngineConfig::default());
    let vocabulary = engine.info().vocabulary;
    let plain = OutputRules::default;
    for output in [
        OutputRules { stop_token_ids: [vocabulary].into(), ..plain() },
        OutputRules { allowed_token_ids: Some([vocabulary].into()), ..plain() },
        OutputRules { allowed_token_ids: Some([].into()), ..plain() },
        OutputRules { bad_words: [vec![1, vocabulary]].into(), ..plain() },
        OutputRules { bad_words: [vec![1]].into(), format: Format::JsonObject, ..plain() },
    ] {
        let refused = engine.submit(Request { output, ..request(PROMPT, 4) });
        assert!(matches!(refused, Err(Refusal::Invalid(_))));
    }
}

#[test]
fn a_stop_token_of_the_client_ends_a_sentence_of_a_format_too() {
    let engine = start(EngineConfig::default());
    let format = Format::Regex("ab{30}c".into());
    let ask = |stop_token_ids: &[u32]| {
        let rules = OutputRules {
            format: format.clone(),
            stop_token_ids: stop_token_ids.into(),
            ..OutputRules::default()
        };
        block_on(async {
            let request = Request { output: rules, ..request(PROMPT, 60) };
            let mut sequence = engine.start_sequence(request).await.unwrap();
            crate::support::collect(&mut sequence).await
        })
    };
    let whole = ask(&[]);
    let stop = whole.ids[2];
    let first = whole.ids.iter().position(|id| *id == stop).unwrap();

    let stopped = ask(&[stop]);

    assert_eq!((&stopped.ids[..], stopped.reason), (&whole.ids[..first], FinishReason::Stop));
}
