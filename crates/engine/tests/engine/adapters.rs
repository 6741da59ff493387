//! Adapters in a running engine: rows of several and of none share its steps, and nothing else.

use std::path::{Path, PathBuf};

use domain::{ErrorKind, ModelDigest, ModelName, OutputRules};
use engine::{
    Engine, EngineConfig, LoadError, Model, ModelSource, Quantization, Refusal, Request, write_gguf,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    Answer, answer, answers, block_on, collect, endless, gguf, ignoring_eos, load, request, until,
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adapters").join(name)
}

/// Loads an adapter of the demo model by the name of its folder.
fn adapt(engine: &Engine, name: &str) -> ModelDigest {
    engine.load_adapter(ModelName::new(name), &folder(name)).unwrap().digest
}

/// The demo model, under a name that no adapter has.
fn base(config: EngineConfig) -> Engine {
    let model = Model::load(ModelName::new(BASE), &ModelSource::Demo, &mut |_| {}).unwrap();
    Engine::start(model, config).unwrap()
}

/// The demo model with two adapters; they and nothing, as requests ask for them.
fn adapted(config: EngineConfig) -> (Engine, [Option<ModelDigest>; 3]) {
    let engine = base(config);
    let digests = [None, Some(adapt(&engine, "demo")), Some(adapt(&engine, "demo-other"))];
    (engine, digests)
}

/// A request that tells how probable its tokens were, and is sampled or not.
fn telling(kind: u32, tokens: u32, adapter: Option<&ModelDigest>) -> Request {
    let prompt: Vec<u32> = (0..tokens).map(|at| 300 + (at * 7 + kind * 1_009) % 3_500).collect();
    let mut request = request(&prompt, 10 + kind * 3);
    request.output = OutputRules { logprobs: Some(2), ..ignoring_eos() };
    request.sampling.temperature = if kind.is_multiple_of(2) { 0.0 } else { 1.1 };
    request.sampling.seed = u64::from(kind);
    Request { adapter: adapter.cloned(), ..request }
}

/// What it says, and how sure it was.
fn said(answer: &Answer) -> (&[u32], &[domain::Logprobs]) {
    (&answer.ids, &answer.logprobs)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_sequence_says_the_same_alone_and_among_rows_of_other_adapters(
        visits in prop::collection::vec((0..4_u32, 1..150_u32, 0..3_usize), 3..16),
        prefill_chunk in prop_oneof![1..9_u32, 9..200_u32],
        max_sequences in 1..17_u32,
        compute_threads in 1..4_u32,
    ) {
        let plain = EngineConfig { compute_threads: 1, ..EngineConfig::default() };
        let (single, adapters) = adapted(plain);
        let ask = |&(kind, tokens, which): &(u32, u32, usize)| telling(kind, tokens, adapters[which].as_ref());
        let requests: Vec<Request> = visits.iter().map(ask).collect();
        let alone: Vec<Answer> =
            requests.iter().map(|request| block_on(answer(&single, request.clone()))).collect();
        let config = EngineConfig { prefill_chunk, max_sequences, compute_threads, ..EngineConfig::default() };
        let (engine, _) = adapted(config);

        let together = block_on(answers(&engine, requests));

        for (found, expected) in together.iter().zip(&alone) {
            prop_assert_eq!(said(found), said(expected));
        }
    }
}

#[test]
fn adapters_and_their_base_say_different_things() {
    let (engine, adapters) = adapted(EngineConfig::default());
    let all: Vec<Request> =
        adapters.iter().map(|adapter| telling(2, 40, adapter.as_ref())).collect();

    let all = block_on(answers(&engine, all));

    assert_ne!(all[0].ids, all[1].ids);
    assert_ne!(all[0].ids, all[2].ids);
    assert_ne!(all[1].ids, all[2].ids);
    let plain = block_on(answer(&base(EngineConfig::default()), telling(2, 40, None)));
    assert_eq!(said(&all[0]), said(&plain), "others change nothing of the base");
}

#[test]
fn what_one_adapter_cached_is_no_hit_for_another_or_for_the_base() {
    let (engine, adapters) = adapted(EngineConfig::default());
    for adapter in &adapters {
        let cold = block_on(answer(&engine, telling(2, 200, adapter.as_ref())));
        let warm = block_on(answer(&engine, telling(2, 200, adapter.as_ref())));

        assert_eq!((cold.usage.cached_tokens, warm.usage.cached_tokens), (0, 192), "{adapter:?}");
        assert_eq!(said(&warm), said(&cold));
    }
    let asked = telling(2, 200, None);
    let digests: Vec<ModelDigest> =
        engine.models().borrow().iter().map(|info| info.digest.clone()).collect();
    for digest in digests {
        let names = engine.block_names(&digest, asked.salt, &asked.prompt);
        assert_eq!(block_on(engine.count_cached(names)), 6, "each has its own");
    }
}

#[test]
fn a_continuation_with_an_adapter_says_what_the_first_engine_would_have_said() {
    let (here, adapters) = adapted(EngineConfig::default());
    let (there, same) = adapted(EngineConfig { prefill_chunk: 5, ..EngineConfig::default() });
    assert_eq!(adapters, same, "an adapter has one digest wherever it is loaded");
    let request = telling(3, 50, adapters[2].as_ref());
    let whole = block_on(answer(&here, request.clone()));
    for cut in [1, 9, 18] {
        let rest = Request { generated: whole.ids[..cut].to_vec(), ..request.clone() };
        assert_eq!(block_on(answer(&there, rest)).ids, whole.ids[cut..], "after {cut} tokens");
    }
}

#[test]
fn an_unloaded_adapter_is_there_for_those_that_have_it_and_for_nobody_new() {
    let (engine, [_, adapter, other]) = adapted(EngineConfig::default());
    let asked = Request { adapter: adapter.clone(), max_output: 60, ..telling(2, 40, None) };
    let expected = block_on(answer(&engine, Request { allowance: 60, ..asked.clone() }));
    block_on(async {
        let paused = Request { allowance: 1, ..asked.clone() };
        let mut running = engine.start_sequence(paused).await.unwrap();
        until(&engine, |state| state.paused == 1).await;

        assert!(engine.unload_adapter(&ModelName::new("demo")));
        assert!(!engine.unload_adapter(&ModelName::new("demo")), "it is gone");

        running.extend(60);
        assert_eq!(said(&collect(&mut running).await), said(&expected));
        let refused = engine.start_sequence(asked.clone()).await.unwrap_err();
        assert_eq!(refused, Refusal::NoAdapter(adapter.clone().unwrap()));
        assert_eq!(refused.kind(), ErrorKind::ModelNotFound);
        assert_eq!(names(&engine), [BASE, "demo-other"]);
        answer(&engine, telling(2, 40, other.as_ref())).await;
        assert_eq!(adapt(&engine, "demo"), adapter.unwrap(), "it may come back");
        assert_eq!(
            said(&answer(&engine, Request { allowance: 60, ..asked }).await),
            said(&expected)
        );
    });
}

fn names(engine: &Engine) -> Vec<String> {
    engine.models().borrow().iter().map(|info| info.name.to_string()).collect()
}

#[test]
fn a_name_is_one_model() {
    let engine = base(EngineConfig::default());
    let load = |name, of| engine.load_adapter(ModelName::new(name), &folder(of));
    let first = load("mine", "demo").unwrap();

    assert_eq!(load("mine", "demo").unwrap(), first, "the same again changes nothing");
    let others = [load("mine", "demo-other"), load(BASE, "demo")];

    for refused in others {
        assert!(refused.unwrap_err().to_string().contains("second model of the name"));
    }
    assert_eq!(names(&engine), [BASE, "mine"]);
}

#[test]
fn an_adapter_is_loaded_while_sequences_run() {
    let engine = base(EngineConfig::default());
    block_on(async {
        let running = engine.start_sequence(endless()).await.unwrap();
        until(&engine, |state| state.produced_tokens > 0).await;
        let adapter = adapt(&engine, "demo");
        let found = answer(&engine, telling(2, 40, Some(&adapter))).await;
        drop(running);
        let alone = answer(&engine, telling(2, 40, Some(&adapter))).await;
        assert_eq!(said(&found), said(&alone));
    });
}

#[test]
fn an_adapter_beside_a_gguf_file_says_what_it_says_beside_the_same_weights_in_a_folder() {
    let quantized = ModelSource::Quantized { folder: None, quantization: Quantization::Q8 };
    let written = tempfile::tempdir().unwrap();
    let path = written.path().join("demo.gguf");
    write_gguf(&ModelSource::Demo, Quantization::Q8, &path, &mut |_| {}).unwrap();
    let file = gguf(path);
    let [file, folder] = [file, quantized].map(|source| {
        let engine = Engine::start(load(&source), EngineConfig::default()).unwrap();
        let adapter = adapt(&engine, "demo-other");
        [None, Some(&adapter)].map(|adapter| block_on(answer(&engine, telling(2, 30, adapter))))
    });
    let apart = |at: usize| {
        let pairs = file[at].logprobs.iter().zip(&folder[at].logprobs);
        pairs.map(|(one, other)| (one.logprob - other.logprob).abs()).fold(0.0, f32::max)
    };
    assert_eq!(file[0].ids, folder[0].ids);
    assert_eq!(file[1].ids, folder[1].ids);
    // Quantized kernels round what they multiply, and heads are in another order; a strong adapter makes more of it.
    assert!(apart(1) < 10.0 * apart(0), "{} and {} without it", apart(1), apart(0));
}

/// What loading says to the adapter `demo` with other settings, or with a file made of its own.
#[expect(clippy::needless_pass_by_value, reason = "settings are made for one call")]
fn refusal(settings: Value, file: impl FnOnce(&[u8]) -> Vec<u8>) -> LoadError {
    let changed = tempfile::tempdir().unwrap();
    let config = std::fs::read(folder("demo").join(CONFIG)).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    for (name, value) in settings.as_object().unwrap() {
        config[name] = value.clone();
    }
    std::fs::write(changed.path().join(CONFIG), config.to_string()).unwrap();
    let weights = std::fs::read(folder("demo").join(WEIGHTS)).unwrap();
    std::fs::write(changed.path().join(WEIGHTS), file(&weights)).unwrap();
    let engine = base(EngineConfig { kv_blocks: Some(1), ..EngineConfig::default() });
    engine.load_adapter(ModelName::new("bad"), changed.path()).unwrap_err()
}

/// The same file with something else in its header, as long as before.
fn renamed<'a>(from: &'a str, to: &'a str) -> impl FnOnce(&[u8]) -> Vec<u8> + 'a {
    assert_eq!(from.len(), to.len());
    move |file: &[u8]| {
        let at = file.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        [&file[..at], to.as_bytes(), &file[at + to.len()..]].concat()
    }
}

#[test]
fn settings_that_change_the_arithmetic_otherwise_are_refused_by_name() {
    let settings = [
        ("peft_type", json!("IA3")),
        ("bias", json!("all")),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("use_dora", json!(true)),
        ("rank_pattern", json!({ "q_proj": 8 })),
        ("alpha_pattern", json!({ "q_proj": 8 })),
        ("layer_replication", json!([[0, 4]])),
        ("init_lora_weights", json!("pissa")),
        ("something_of_tomorrow", json!(1)),
        ("r", json!(0)),
    ];
    for (name, value) in settings {
        let refused = refusal(json!({ name: value }), <[u8]>::to_vec);
        assert_eq!(refused.kind(), ErrorKind::InvalidRequest);
        assert!(refused.to_string().contains(&format!("`{name}`")), "{refused}");
    }
}

#[test]
fn tensors_that_are_wrong_missing_or_unknown_are_refused_by_name() {
    let nothing = || json!({});
    let a = "layers.3.self_attn.v_proj.lora_A.weight";
    let b = "layers.3.self_attn.v_proj.lora_B.weight";
    let refusals = [
        (refusal(json!({ "r": 4 }), <[u8]>::to_vec), "has shape [2, 256]"),
        (refusal(nothing(), renamed(a, &a.replace("v_proj", "x_proj"))), a),
        (refusal(nothing(), renamed(b, &b.replace("v_proj", "x_proj"))), b),
        (refusal(json!({ "target_modules": ["q_proj", "lm_head"] }), <[u8]>::to_vec), "`lm_head`"),
        (refusal(json!({ "target_modules": ["up_proj"] }), <[u8]>::to_vec), "0.mlp.up_proj.lora_A"),
        (refusal(nothing(), |file| file[..file.len() / 2].to_vec()), "adapter_model.safetensors"),
        (refusal(nothing(), |_| b"no tensors".to_vec()), "adapter_model.safetensors"),
    ];
    for (refused, named) in refusals {
        assert!(refused.to_string().contains(named), "`{named}` is missing in: {refused}");
    }
    let unknown = |file: &[u8]| {
        let both = renamed(a, &a.replace("v_proj", "x_proj"))(file);
        renamed(b, &b.replace("v_proj", "x_proj"))(&both)
    };
    let refused = refusal(json!({ "layers_to_transform": [0] }), unknown).to_string();
    assert!(refused.contains("x_proj.lora_A") && refused.contains("self_attn.v_proj"), "{refused}");
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let engine = base(EngineConfig::default());
    let refused = engine.load_adapter(ModelName::new("bad"), &folder("llama-some")).unwrap_err();
    assert!(refused.to_string().contains("layers.1.self_attn.v_proj.lora_A"), "{refused}");
    let missing = engine.load_adapter(ModelName::new("bad"), Path::new("nowhere")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unavailable);
}

/// What the tests call the demo model.
const BASE: &str = "base";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
