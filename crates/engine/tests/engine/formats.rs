//! Outputs in a format: valid, the same wherever they are computed and continued, and no trouble to others.

#![expect(clippy::print_stdout, reason = "figures, for whoever runs it with --no-capture")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{ErrorKind, FinishReason, Format, OutputRules, ProjectId, Sampling, Share};
use engine::{Engine, EngineConfig, Event, Failure, Refusal, Request};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Answer, answer, answers, block_on, collect, demo_text, endless, golden, request, start, until,
};

const PROMPT: &[u32] = &[4088, 280, 198];

pub(crate) fn schema(schema: &Value) -> Format {
    Format::JsonSchema(schema.to_string().into())
}

pub(crate) fn formatted(format: Format, max_output: u32) -> Request {
    let output = OutputRules { format, ..OutputRules::default() };
    Request { output, ..request(PROMPT, max_output) }
}

pub(crate) fn sampled(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed, ..Sampling::greedy() }
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "größe in cm": { "type": "integer", "minimum": 0, "maximum": 300 },
            "tags": { "type": "array", "items": { "enum": ["red", "green", "naïve 🙂"] }, "maxItems": 3 },
            "kind": { "const": "a rather long constant that is forced" }
        },
        "required": ["name", "größe in cm", "tags", "kind"],
        "additionalProperties": false
    })
}

/// One format of every kind.
fn formats() -> Vec<Format> {
    vec![
        schema(&person()),
        Format::JsonObject,
        Format::Regex("(ab|ba){2,5}-[0-9]{3} ü+!".into()),
        Format::Choice(Arc::from(["yes", "no", "yes, but (not) now.*"].map(str::to_owned))),
        Format::Grammar(
            "start: item (\", \" item)* \".\"\nitem: /[a-z]{3,8}/ \"=\" /[0-9]+/".into(),
        ),
    ]
}

fn refusal(engine: &Engine, format: Format) -> Option<Refusal> {
    block_on(engine.start_sequence(formatted(format, 4))).err()
}

/// Asks for all of `requests`, some at a time.
pub(crate) fn all_answers(engine: &Engine, requests: &[Request]) -> Vec<Answer> {
    let some = requests.chunks(50).map(|some| block_on(answers(engine, some.to_vec())));
    some.flatten().collect()
}

#[test]
fn where_memory_is_short_formats_wait_and_say_the_same() {
    let roomy = start(EngineConfig::default());
    let narrow = start(EngineConfig { format_bytes: 500_000, ..EngineConfig::default() });
    let request = |tenant: u128, seed| Request {
        share: Share::of(ProjectId::from_u128(tenant)),
        sampling: sampled(seed),
        ..formatted(schema(&person()), 200)
    };
    let mut requests: Vec<Request> =
        (0..12).map(|seed| request(1 + u128::from(seed % 3), seed)).collect();
    requests.push(self::request(PROMPT, 20));

    let expected = all_answers(&roomy, &requests);
    let answers = all_answers(&narrow, &requests);

    for (answer, expected) in answers.iter().zip(&expected) {
        assert_eq!((&answer.ids, answer.reason), (&expected.ids, expected.reason));
    }
}

#[test]
fn a_sentence_of_every_kind_of_format_ends_by_itself() {
    let engine = start(EngineConfig::default());
    let say = |format: &Format, seed| {
        let request = Request { sampling: sampled(seed), ..formatted(format.clone(), 200) };
        let answer = block_on(answer(&engine, request));
        assert_eq!(answer.reason, FinishReason::Stop, "{}", demo_text(&answer.ids));
        demo_text(&answer.ids)
    };
    for seed in 0..3 {
        let [person, object, expression, choice, grammar] =
            formats().map_each(|format| say(format, seed));
        let person: Value = serde_json::from_str(&person).unwrap();
        assert_eq!(person["kind"], "a rather long constant that is forced");
        assert!(serde_json::from_str::<Value>(&object).unwrap().is_object());
        assert!(expression.starts_with(['a', 'b']) && expression.ends_with("ü!"), "{expression}");
        assert!(["yes", "no", "yes, but (not) now.*"].contains(&choice.as_str()), "{choice}");
        assert!(grammar.contains('=') && grammar.ends_with('.'), "{grammar}");
    }
}

/// `map` into an array, for five formats.
trait MapEach {
    fn map_each<T: std::fmt::Debug>(&self, map: impl FnMut(&Format) -> T) -> [T; 5];
}

impl MapEach for Vec<Format> {
    fn map_each<T: std::fmt::Debug>(&self, map: impl FnMut(&Format) -> T) -> [T; 5] {
        self.iter().map(map).collect::<Vec<T>>().try_into().unwrap()
    }
}

/// Requests in formats and without, greedy and sampled, with log-probabilities and without.
fn mixed(seed: u64) -> Vec<Request> {
    let mut requests = Vec::new();
    for index in 0..14_u64 {
        let format = formats().into_iter().nth((seed + index) as usize % 7).unwrap_or_default();
        let prompt = PROMPT.repeat(1 + ((seed + index) % 40) as usize);
        let mut request = Request { prompt: prompt.into(), ..formatted(format, 70) };
        request.output.min_tokens = (index % 3) as u32 * 5;
        request.output.ignore_eos = index % 5 == 4;
        request.output.logprobs = (index % 4 == 1).then_some(index as u32);
        if index % 2 == 0 {
            request.sampling = Sampling {
                repetition_penalty: 1.1,
                top_p: 0.95,
                logit_bias: vec![(13, 1.5), (270, -2.0)],
                ..sampled(seed + index)
            };
        }
        requests.push(request);
    }
    requests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn a_format_says_the_same_alone_in_a_batch_and_in_any_chunks(
        seed in 0..1_000_u64,
        prefill_chunk in prop_oneof![1..9_u32, 9..500_u32],
        step_tokens in 17..300_u32,
        max_sequences in 1..17_u32,
        compute_threads in 1..4_u32,
    ) {
        let requests = mixed(seed);
        let plain = EngineConfig { compute_threads: 1, ..EngineConfig::default() };
        let cut = EngineConfig {
            prefill_chunk, step_tokens, max_sequences, compute_threads, ..EngineConfig::default()
        };
        let (plain, cut) = (start(plain), start(cut));
        let together = block_on(answers(&cut, requests.clone()));
        for (request, together) in requests.into_iter().zip(together) {
            let alone = block_on(answer(&plain, request));
            prop_assert_eq!(&together.ids, &alone.ids);
            prop_assert_eq!(&together.logprobs, &alone.logprobs);
            prop_assert_eq!(together.reason, alone.reason);
        }
    }
}

#[test]
fn who_waits_is_admitted_when_an_output_ends_between_two_steps() {
    let engine = start(EngineConfig { max_sequences: 1, ..EngineConfig::default() });
    let choice = || Format::Choice(["yes".to_owned(), "no".to_owned()].into());
    let requests = (0..20).map(|_| formatted(choice(), 20)).collect();

    let answers = block_on(answers(&engine, requests));

    assert!(answers.iter().all(|answer| answer.reason == FinishReason::Stop));
}

#[test]
fn a_continuation_at_every_token_says_the_same_in_every_format() {
    let here = start(EngineConfig::default());
    let there = start(EngineConfig { prefill_chunk: 5, ..EngineConfig::default() });
    for (index, format) in formats().into_iter().chain([Format::Text]).enumerate() {
        for (sampling, logprobs) in
            [(Sampling::greedy(), None), (sampled(3 + index as u64), Some(4))]
        {
            let mut request = Request { sampling, ..formatted(format.clone(), 60) };
            request.output.logprobs = logprobs;
            let whole = block_on(answer(&here, request.clone()));
            assert_eq!(whole.logprobs.len(), if logprobs.is_some() { whole.ids.len() } else { 0 });

            for cut in 0..=whole.ids.len() {
                let generated = whole.ids[..cut].to_vec();
                let rest = block_on(answer(&there, Request { generated, ..request.clone() }));

                assert_eq!(rest.ids, whole.ids[cut..], "continued after {cut} tokens");
                assert_eq!(rest.reason, whole.reason, "continued after {cut} tokens");
                if logprobs.is_some() {
                    assert_eq!(
                        rest.logprobs,
                        whole.logprobs[cut..],
                        "continued after {cut} tokens"
                    );
                }
            }
        }
    }
}

#[test]
fn a_forced_run_stops_at_every_length_and_every_allowance() {
    let engine = start(EngineConfig::default());
    let whole = block_on(answer(&engine, formatted(schema(&person()), 200)));
    assert_eq!(whole.reason, FinishReason::Stop);
    for length in 1..=whole.ids.len() {
        let short = block_on(answer(&engine, formatted(schema(&person()), length as u32)));
        assert_eq!(short.ids, whole.ids[..length]);
        let ended =
            if length == whole.ids.len() { FinishReason::Stop } else { FinishReason::Length };
        assert_eq!(short.reason, ended, "{length} tokens");

        let paid = Request { allowance: length as u32, ..formatted(schema(&person()), 200) };
        let paid = block_on(async {
            let mut sequence = engine.start_sequence(paid).await.unwrap();
            let mut got = Vec::new();
            while got.len() < length {
                let Some(Event::Tokens { ids, .. }) = sequence.next().await else {
                    panic!("it ended after {} of {length} tokens", got.len());
                };
                got.extend(ids);
            }
            assert_eq!(got.len(), length, "not one token more than was paid for");
            sequence.extend(200);
            got.extend(collect(&mut sequence).await.ids);
            got
        });
        assert_eq!(paid, whole.ids);
    }
}

#[test]
fn log_probabilities_are_the_models_own() {
    let engine = start(EngineConfig::default());
    let plain = Request { max_output: 12, allowance: 12, ..endless() };
    let mut told = plain.clone();
    told.output.logprobs = Some(20);
    let mut none_of_the_others = told.clone();
    none_of_the_others.output.logprobs = Some(0);

    let told = block_on(answer(&engine, told));
    let bare = block_on(answer(&engine, none_of_the_others));

    assert_eq!(told.ids, block_on(answer(&engine, plain.clone())).ids);
    for (index, (id, logprobs)) in told.ids.iter().zip(&told.logprobs).enumerate() {
        assert_eq!(logprobs.top[0], (*id, logprobs.logprob), "greedy takes the most probable one");
        assert_eq!(logprobs.top.len(), 20);
        assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
        let mass: f64 = logprobs.top.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
        assert!(mass > 0.2 && mass <= 1.000_001, "{mass}");
        assert_eq!(bare.logprobs[index].logprob, logprobs.logprob);
        assert!(bare.logprobs[index].top.is_empty());
    }
    // Bias and temperature change what is drawn, not what is told of the first token.
    let mut bent = plain;
    bent.output.logprobs = Some(20);
    bent.sampling = Sampling { logit_bias: vec![(told.ids[0], -100.0)], ..sampled(1) };
    let bent = block_on(answer(&engine, bent));
    assert_ne!(bent.ids[0], told.ids[0]);
    assert_eq!(bent.logprobs[0].top, told.logprobs[0].top);
    let mut greedy = endless();
    greedy.output.logprobs = Some(21);
    assert!(matches!(engine.submit(greedy), Err(Refusal::Invalid(_))));
}

#[test]
fn a_stop_token_waits_for_min_tokens_or_is_ignored() {
    let engine = start(EngineConfig::default());
    let case = golden().into_iter().find(|case| case.finish_reason == "stop").unwrap();
    let length = case.completion().len() as u32;
    let ask = |output| {
        let request = Request { output, ..request(&case.prompt_token_ids, length + 12) };
        block_on(answer(&engine, request))
    };

    let plain = ask(OutputRules::default());
    let late = ask(OutputRules { min_tokens: length + 4, ..OutputRules::default() });
    let enough = ask(OutputRules { min_tokens: length, ..OutputRules::default() });
    let ignored = ask(OutputRules { ignore_eos: true, ..OutputRules::default() });

    let stops = &engine.info().stop_tokens;
    assert_eq!((plain.ids.len() as u32, plain.reason), (length, FinishReason::Stop));
    assert_eq!(enough.ids, plain.ids);
    assert!(late.ids.len() as u32 >= length + 4 && late.ids[..length as usize] == plain.ids);
    assert!(!late.ids.iter().any(|id| stops.contains(id)));
    assert_eq!((ignored.ids.len() as u32, ignored.reason), (length + 12, FinishReason::Length));
    assert!(stops.contains(&ignored.ids[length as usize]), "it is part of the output");
}

#[test]
fn a_format_that_cannot_be_compiled_is_refused_and_says_why() {
    let engine = start(EngineConfig::default());
    let deep = "(".repeat(100) + "a" + &")".repeat(100);
    let wrong = [
        Format::JsonSchema("{".into()),
        Format::JsonSchema("[]".into()),
        schema(&json!({ "type": "string", "uniqueItems": true, "not": {} })),
        schema(&json!({ "type": "integer", "minimum": 3, "maximum": 2 })),
        schema(&json!({ "x-guidance": { "lenient": true } })),
        schema(&json!({ "$ref": "https://example.com/other.json" })),
        schema(&json!({ "properties": { "a": { "pattern": [] } } })),
        Format::Regex("(a".into()),
        Format::Regex(deep.into()),
        Format::Regex("a(?=b)".into()),
        Format::Choice(Arc::from([])),
        Format::Choice(Arc::from(["x".repeat(200_000)])),
        Format::Grammar("start: missing".into()),
        Format::Grammar("start: %json { \"x-guidance\": { \"lenient\": true } }".into()),
        Format::Grammar("start: %json { \"x-guidance\": 7 }".into()),
        Format::Grammar(
            "start: a\na: %json { \"properties\": { \"b\": { \"maxLength\": -1 } } }".into(),
        ),
        Format::Grammar("start: \"a\" start".into()),
    ];
    for format in wrong {
        let refusal = refusal(&engine, format.clone());
        let Some(Refusal::Format(reason)) = &refusal else { panic!("{format:?}: {refusal:?}") };
        println!("{reason}");
        assert_eq!(refusal.unwrap().kind(), ErrorKind::InvalidRequest);
    }
    assert_eq!(refusal(&engine, formats()[0].clone()), None, "others are still compiled");
}

#[test]
fn a_grammar_without_a_way_out_fails_its_own_sequence_alone() {
    let engine = start(EngineConfig::default());
    let mut neighbour = request(PROMPT, 60);
    neighbour.output.ignore_eos = true;
    let expected = block_on(answer(&engine, neighbour.clone()));
    let endless = Format::Grammar("start: /[xy]/ more\nmore: \"z\" more".into());

    let (end, beside) = block_on(async {
        let mut beside = engine.start_sequence(neighbour).await.unwrap();
        let mut lost = engine.start_sequence(formatted(endless, 50)).await.unwrap();
        let end = loop {
            match lost.next().await.expect("it ends with an event that says so") {
                Event::Tokens { .. } => {}
                end => break end,
            }
        };
        (end, collect(&mut beside).await)
    });

    let Event::Failed { failure: Failure::Format(reason), .. } = end else { panic!("{end:?}") };
    println!("{reason}");
    assert_eq!(beside.ids, expected.ids);
    let state = block_on(until(&engine, |state| state.running == 0));
    assert_eq!(state.free_blocks, state.total_blocks);
    assert_eq!(state.accounts.owned(), state.accounts.wall);
}

#[test]
fn what_is_no_beginning_of_a_sentence_is_not_continued() {
    let engine = start(EngineConfig::default());
    let strange = Request { generated: vec![280], ..formatted(schema(&person()), 50) };
    let end = block_on(async { engine.start_sequence(strange).await.unwrap().next().await });
    assert!(matches!(end, Some(Event::Failed { failure: Failure::Elsewhere, .. })), "{end:?}");
}

/// Text that looks somewhat like what a format is written in.
fn scribble() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => "[a-z(){}\\[\\]|*+?.,:\"/\\\\^$0-9 ]{1,6}",
        1 => any::<char>().prop_map(String::from),
        2 => prop::sample::select(PIECES).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// A valid format with something cut out, doubled or put in.
fn mutilated() -> impl Strategy<Value = String> {
    let valid = prop::sample::select(VALID).prop_map(str::to_owned);
    (valid, any::<prop::sample::Index>(), 0..12_usize, scribble()).prop_map(
        |(text, at, cut, more)| {
            let chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len());
            let rest = (at + cut).min(chars.len());
            chars[..at]
                .iter()
                .copied()
                .chain(more.chars())
                .chain(chars[rest..].iter().copied())
                .collect()
        },
    )
}

/// A small JSON value of keywords and strange values.
fn strange_schema() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        prop::sample::select(PIECES).prop_map(Value::from),
        "\\PC{0,120}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(5, 40, 6, |inner| {
        let keyword = prop_oneof![4 => prop::sample::select(KEYWORDS).prop_map(str::to_owned), 1 => "\\PC{0,4}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((keyword, inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    });
    value.prop_map(|value| value.to_string())
}

#[test]
fn no_text_at_all_makes_compiling_panic_or_hang() {
    let engine = start(EngineConfig::default());
    let text = prop_oneof![scribble(), mutilated(), strange_schema()];
    let format = (text, 0..4_u8).prop_map(|(text, kind)| match kind {
        0 => Format::Regex(text.into()),
        1 => Format::Grammar(text.into()),
        2 => Format::Choice(Arc::from([text.clone(), text + "!"])),
        _ => Format::JsonSchema(text.into()),
    });
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        ProptestConfig { cases: FUZZED, failure_persistence: None, ..ProptestConfig::default() },
        proptest::test_runner::TestRng::from_seed(
            proptest::test_runner::RngAlgorithm::ChaCha,
            &[7; 32],
        ),
    );
    let (usable, longest) = (std::cell::Cell::new(0_u32), std::cell::Cell::new(Duration::ZERO));
    let outcome = runner.run(&format, |format| {
        let began = Instant::now();
        let started = block_on(engine.start_sequence(formatted(format, 6)));
        longest.set(longest.get().max(began.elapsed()));
        match started {
            Ok(mut sequence) => {
                usable.set(usable.get() + 1);
                let end = block_on(async {
                    loop {
                        match sequence.next().await.expect("an end") {
                            Event::Tokens { .. } => {}
                            end => break end,
                        }
                    }
                });
                let fine = match &end {
                    Event::Failed { failure, .. } => matches!(failure, Failure::Format(_)),
                    _ => true,
                };
                prop_assert!(fine && !end_is_panic(&end), "{end:?}");
            }
            Err(refusal) => prop_assert!(
                matches!(&refusal, Refusal::Format(reason) if !reason.contains(PANICKED) && !reason.contains("too long")),
                "{refusal:?}"
            ),
        }
        Ok(())
    });
    println!("{} of {FUZZED} usable, the slowest took {:?}", usable.get(), longest.get());
    outcome.unwrap();
}

fn end_is_panic(end: &Event) -> bool {
    matches!(end, Event::Failed { failure: Failure::Format(reason), .. } if reason.contains(PANICKED))
}

/// What is said when the library has panicked.
const PANICKED: &str = "cannot be compiled";
const FUZZED: u32 = 1_500;

const PIECES: &[&str] = &[
    "start: ",
    "\n",
    "%json {",
    "%ignore",
    "%import common.",
    "(?i:",
    "{1,3}",
    "{999999}",
    "[^\\s]",
    "\\p{L}",
    "\\x00",
    "$ref",
    "#/$defs/a",
    "#",
    "type",
    "object",
    "string",
    "array",
    "date-time",
    "^(a|b)*$",
    "é🙂",
    "|",
    "~3",
    "&",
    "!",
    "<|im_end|>",
    "max_tokens",
    "[capture=\"x\"]",
    "stop=\"\"",
    "(.*)*",
    "a{0,1000}",
    "regex",
    "lazy",
    "@grammar",
    "_",
];

const VALID: &[&str] = &[
    "start: item (\", \" item)* \".\"\nitem: /[a-z]{3,8}/ \"=\" /[0-9]+/",
    "start: a | b\na: \"x\" a \"y\" | \"z\"\nB: /[^é]+/i\nb: B %json { \"type\": \"integer\" }",
    "start[capture=\"all\", max_tokens=3]: /(.|\\n)*/ <|im_end|>\n%ignore /\\s+/",
    "(?i:ab|[^\\x00-\\x1f\"]{2,5})+(\\d{1,3}|\\w*)?ü\\u{1F600}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^x+$\"},\"b\":{\"$ref\":\"#/$defs/n\"}},\"required\":[\"a\"],\"$defs\":{\"n\":{\"anyOf\":[{\"type\":\"integer\",\"multipleOf\":3,\"minimum\":-7},{\"type\":\"array\",\"prefixItems\":[{\"const\":\"é\"}],\"items\":{\"enum\":[1,\"b\",null]},\"minItems\":1}]}},\"additionalProperties\":{\"allOf\":[{\"type\":\"number\",\"maximum\":2.5},{\"minimum\":0.25}]}}",
];

const KEYWORDS: &[&str] = &[
    "type",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "$defs",
    "definitions",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "multipleOf",
    "minProperties",
    "maxProperties",
    "not",
    "if",
    "uniqueItems",
    "$id",
    "$schema",
    "a",
];

/// Formats that are written to take long, or to nest deep.
fn hostile() -> Vec<Format> {
    let regex = |text: String| Format::Regex(text.into());
    let grammar = |text: String| Format::Grammar(text.into());
    let options: Vec<Value> = (0..6)
        .map(|number| json!({ "properties": { (format!("p{number}")): { "type": "string" } } }))
        .collect();
    let product: Vec<Value> = (0..12).map(|_| json!({ "anyOf": options })).collect();
    let chain: Vec<String> =
        (0..4_000).map(|rule| format!("r{rule}: \"x\" r{}", rule + 1)).collect();
    let chain = chain.join("\n");
    let definitions: serde_json::Map<String, Value> = (0..1_500)
        .map(|number| (format!("d{number}"), json!({ "$ref": format!("#/$defs/d{}", number + 1) })))
        .collect();
    let nested = (0..60).fold(json!({}), |inner, _| json!({ "type": "array", "items": inner }));
    vec![
        schema(&json!({ "allOf": product })),
        schema(&json!({ "type": "array", "minItems": u64::MAX / 2 })),
        schema(
            &json!({ "type": "array", "items": { "type": "boolean" }, "minItems": 90_000, "maxItems": 100_000 }),
        ),
        schema(&json!({ "type": "string", "minLength": 1_000_000_000 })),
        schema(
            &json!({ "type": "string", "pattern": "^(a|b|ab)*c{5000}(.{1000}x){1000}$", "minLength": 70 }),
        ),
        schema(&json!({ "type": "object", "minProperties": 4_000_000 })),
        schema(
            &json!({ "type": "number", "multipleOf": 1e-300, "minimum": -1e300, "maximum": 1e300 }),
        ),
        schema(&json!({ "type": "integer", "multipleOf": 9_007_199_254_740_991_u64 })),
        schema(&json!({ "$ref": "#" })),
        schema(
            &json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
        ),
        schema(&json!({ "$defs": definitions, "$ref": "#/$defs/d0" })),
        schema(
            &json!({ "enum": (0..9_000).map(|number| format!("w{number}")).collect::<Vec<_>>() }),
        ),
        schema(&nested),
        regex("((((a{1000}){1000}){1000}){1000}){1000}".to_owned()),
        regex("[^a]{1,100000}b{1,100000}(.*x){100}".to_owned()),
        regex("(.*a){30}(.*b){30}.*(x+x+)+y".to_owned()),
        regex(format!("a{}", "?".repeat(100_000))),
        regex(format!("a{}", "*".repeat(100_000))),
        regex("a|".repeat(60_000)),
        regex("\\p{L}{1,2000}\\w{1,2000}".to_owned()),
        regex(format!("({}){{0,999}}", "a?".repeat(2_000))),
        grammar("start: start start | \"a\" | \"a\" start | start \"a\"".to_owned()),
        grammar("start: a a a a a a a a\na: | \"x\" a | a \"x\"".to_owned()),
        grammar(format!("start: r0\n{chain}\nr4000: \"y\"")),
        grammar(format!("start: A\nA: {}/x/", "~".repeat(100_000))),
        grammar(format!("start: {}\"x\"", "!".repeat(100_000))),
        grammar(format!("start: \"x\"{}", "+".repeat(100_000))),
        grammar(format!("start: \"x\"{}", "?".repeat(100_000))),
        grammar(format!("start: {}", "\"x\" | ".repeat(10_000) + "\"y\"")),
        grammar(format!("start: {}", "\"x\" ".repeat(20_000))),
        grammar("start: \"x\"~1000000".to_owned()),
        grammar("start: (\"x\" | \"y\")~1..100000".to_owned()),
        grammar(format!("start: A\nA: {}/x/", "/y/ & ".repeat(10_000))),
        grammar("start: A\nA: B\nB: A".to_owned()),
        grammar(format!("start: %json {{\"enum\":[{}1]}}", "1,".repeat(50_000))),
        grammar(format!(
            "start: A\n{}",
            (0..4_000).map(|n| format!("A{n}: /x{n}.*/")).collect::<Vec<_>>().join("\n")
        )),
    ]
}

#[test]
fn a_hostile_format_is_refused_or_followed_and_holds_nobody_up() {
    let engine = start(EngineConfig::default());
    let mut neighbour = request(PROMPT, 30);
    neighbour.output.ignore_eos = true;
    for format in hostile() {
        let shown: String = format!("{format:?}").chars().take(60).collect();
        let began = Instant::now();
        let outcome = match block_on(engine.start_sequence(formatted(format, 12))) {
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::Format(_)), "{shown}: {refusal:?}");
                format!("{refusal}")
            }
            Ok(mut sequence) => {
                let compiled = began.elapsed();
                let end = block_on(async {
                    loop {
                        match sequence.next().await.expect("an end") {
                            Event::Tokens { .. } => {}
                            end => break end,
                        }
                    }
                });
                assert!(!end_is_panic(&end), "{shown}");
                format!("compiled in {compiled:?}; {end:?}")
            }
        };
        println!("{:?} {shown} {}", began.elapsed(), outcome.chars().take(150).collect::<String>());
        assert!(!outcome.contains(PANICKED), "{shown}");
        assert_eq!(block_on(answer(&engine, neighbour.clone())).ids.len(), 30);
    }
}
