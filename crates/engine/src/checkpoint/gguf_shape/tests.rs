//! What is read of metadata, left to its default, or refused.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;

use super::*;

/// The entries of a small model of this architecture.
fn entries(architecture: &str) -> HashMap<String, Value> {
    let counts = [
        ("block_count", 3),
        ("context_length", 8192),
        ("embedding_length", 4608),
        ("feed_forward_length", 96),
        ("attention.head_count", 32),
        ("attention.key_length", 128),
    ];
    let mut entries: HashMap<String, Value> =
        counts.map(|(name, count)| (format!("{architecture}.{name}"), Value::U32(count))).into();
    entries.insert(ARCHITECTURE.to_owned(), Value::String(architecture.to_owned()));
    let epsilon = format!("{architecture}.attention.layer_norm_rms_epsilon");
    entries.insert(epsilon, Value::F32(1e-6));
    entries
}

fn with(architecture: &str, more: &[(&str, Value)]) -> HashMap<String, Value> {
    let mut entries = entries(architecture);
    for (name, value) in more {
        entries.insert(format!("{architecture}.{name}"), value.clone());
    }
    entries
}

fn facts(rope: RopeTensors) -> TensorFacts {
    TensorFacts { vocabulary: 96, tied: true, biases: false, mixtures: vec![0, 2], rope }
}

fn read(entries: HashMap<String, Value>, rope: RopeTensors) -> Result<Shape, LoadError> {
    ShapeReader::new(&Metadata::new(entries))?.shape(facts(rope))
}

fn shape(architecture: &str, more: &[(&str, Value)]) -> Shape {
    read(with(architecture, more), RopeTensors::default()).unwrap()
}

fn problem(architecture: &str, more: &[(&str, Value)], rope: RopeTensors) -> String {
    read(with(architecture, more), rope).unwrap_err().to_string()
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

#[test]
fn the_largest_gemmas_have_scales_of_their_own() {
    let scale = |architecture, layers: usize, hidden: u32| {
        let counts = [
            ("block_count", Value::U32(layers as u32)),
            ("embedding_length", Value::U32(hidden)),
            ("attention.sliding_window", Value::U32(1024)),
        ];
        let scale = shape(architecture, &counts).query_scale;
        (scale.powi(-2)).round()
    };
    assert_eq!(scale("gemma2", 42, 4608), 128.0);
    assert_eq!(scale("gemma2", GEMMA2_27B_LAYERS, 4608), 144.0);
    assert_eq!(scale("gemma3", 48, 5376), 128.0);
    assert_eq!(scale("gemma3", GEMMA3_27B_LAYERS, 5376), 168.0);
    assert_eq!(shape("llama", &[("attention.scale", Value::F32(0.25))]).query_scale, 0.25);
}

#[test]
fn gemma_2_has_windows_and_softcaps_where_its_file_says_nothing() {
    let gemma = shape("gemma2", &[]);
    assert_eq!(gemma.windows, [Some(4096), None, Some(4096)]);
    assert_eq!((gemma.attention_softcap, gemma.logit_softcap), (Some(50.0), Some(30.0)));
    let squeezed_otherwise = shape("gemma2", &[("attn_logit_softcapping", Value::F32(0.0))]);
    assert_eq!(squeezed_otherwise.attention_softcap, None);
}

#[test]
fn an_entry_of_the_architecture_that_is_not_understood_is_refused_by_name() {
    for name in [
        "attention.clamp_kqv",
        "rope.scaling.yarn_log_multiplier",
        "rope.dimension_sections",
        "logit_scale",
        "expert_shared_count",
    ] {
        let problem = problem("llama", &[(name, Value::F32(2.0))], RopeTensors::default());
        assert!(problem.contains(&format!("`llama.{name}`")), "{problem}");
    }
    // None of a thing is no thing, and some say what is known anyway.
    shape(
        "llama",
        &[
            ("expert_shared_count", Value::U32(0)),
            ("vocab_size", Value::U32(96)),
            ("rope.scaling.finetuned", Value::Bool(false)),
            ("vision.block_count", Value::U32(27)),
            ("attention.causal", Value::Bool(true)),
        ],
    );
}

#[test]
fn an_entry_that_says_something_else_than_we_compute_is_refused_by_name() {
    let lists = Value::Array(vec![Value::U32(4), Value::U32(8)]);
    for (architecture, name, value) in [
        ("llama", "attention.value_length", Value::U32(64)),
        ("llama", "attention.causal", Value::Bool(false)),
        ("llama", "attention.sliding_window", Value::U32(4096)),
        ("llama", "attention.head_count_kv", lists),
        ("llama", "attention.key_length", text("128")),
        ("llama", "rope.scaling.type", text("spiral")),
        ("qwen3moe", "expert_gating_func", Value::U32(2)),
        ("qwen2", "expert_count", Value::U32(8)),
        ("gemma2", "attention.sliding_window_pattern", Value::U32(4)),
    ] {
        let problem = problem(architecture, &[(name, value)], RopeTensors::default());
        assert!(problem.contains(&format!("`{architecture}.{name}`")), "{problem}");
    }
    let missing = problem("gemma3", &[], RopeTensors::default());
    assert!(missing.contains("`gemma3.attention.sliding_window`"), "{missing}");
}

#[test]
fn long_factors_are_for_texts_beyond_the_context_that_is_served() {
    let more = [
        ("rope.scaling.original_context_length", Value::U32(4096)),
        ("rope.scaling.attn_factor", Value::F32(1.25)),
    ];
    let factors = |factor: f64| Some(vec![factor; 64]);
    let rope = || RopeTensors { always: None, short: factors(2.0), long: factors(8.0) };
    let shape = read(with("phi3", &more), rope()).unwrap();
    assert_eq!((shape.context, shape.rotary_scale), (4096, 1.25));
    assert_eq!(shape.frequencies[0], 0.5);

    let without_short = RopeTensors { short: None, ..rope() };
    assert!(problem("phi3", &more, without_short).contains(SHORT));
    assert!(problem("phi3", &more[..1], rope()).contains("rope.scaling.attn_factor"));
    assert!(problem("phi3", &more[1..], rope()).contains("rope.scaling.type"));
    let other = [("rope.scaling.type", text("yarn"))];
    assert!(problem("phi3", &other, rope()).contains("rope.scaling.type"));
    let no_tensors = [("rope.scaling.type", text("longrope"))];
    assert!(problem("phi3", &no_tensors, RopeTensors::default()).contains(SHORT));
}

#[test]
fn frequencies_are_stretched_as_the_file_says() {
    let factor = ("rope.scaling.factor", Value::F32(4.0));
    assert_eq!(shape("llama", std::slice::from_ref(&factor)).frequencies[0], 0.25);
    let none = ("rope.scaling.type", text("none"));
    assert_eq!(shape("llama", &[factor, none]).frequencies[0], 1.0);
    let always = RopeTensors { always: Some(vec![2.0; 64]), ..RopeTensors::default() };
    assert_eq!(read(entries("llama"), always).unwrap().frequencies[0], 0.5);
    let short = RopeTensors { always: Some(vec![2.0; 4]), ..RopeTensors::default() };
    assert!(problem("llama", &[], short).contains(DIVISORS));
}

#[test]
fn a_mixture_is_of_the_layers_that_choose() {
    let more = [("expert_count", Value::U32(4)), ("expert_used_count", Value::U32(2))];
    let experts = shape("llama", &more).experts.unwrap();
    assert_eq!((experts.count, experts.used, experts.width), (4, 2, 96));
    assert_eq!((experts.normalised, experts.plain_layers), (true, vec![1]));
}
