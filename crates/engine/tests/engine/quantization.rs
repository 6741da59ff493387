//! Fewer bits: what they cost is measured on text, and files of them are what others write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use engine::{Comparison, LoadError, ModelSource, Quantization, compare, write_gguf};

use crate::support::{demo_file, gguf, golden, load};

/// Prompts and completions of the demo model.
fn texts() -> Vec<Vec<u32>> {
    golden().iter().map(|case| [&case.prompt_token_ids, case.completion()].concat()).collect()
}

fn against_full(source: &ModelSource) -> Comparison {
    compare(load(&ModelSource::Demo), load(source), &texts(), 512, &mut |_| {}).unwrap()
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures are what the test is for")]
fn every_quantization_is_as_near_as_it_should_be() {
    // Mean divergence at most, in nats; agreement on the most probable token at least.
    let bounds = [
        (Quantization::Q8, 0.0005, 0.985),
        (Quantization::Q6K, 0.001, 0.985),
        (Quantization::Q5KM, 0.0015, 0.98),
        (Quantization::Q5K, 0.0025, 0.975),
        (Quantization::Q4KM, 0.003, 0.975),
        (Quantization::Q4K, 0.008, 0.96),
        (Quantization::Q4, 0.005, 0.97),
    ];
    for (quantization, divergence, agreement) in bounds {
        let found = against_full(&ModelSource::Quantized { folder: None, quantization });
        println!("{quantization}: {found:?}");
        assert!(found.mean_divergence <= divergence, "{quantization}: {found:?}");
        assert!(found.top_agreement >= agreement, "{quantization}: {found:?}");
        assert!(found.p99_divergence >= found.mean_divergence);
    }
}

#[test]
fn a_model_is_no_different_from_itself() {
    let found = against_full(&ModelSource::Folder(demo_file("")));
    assert_eq!((found.mean_divergence, found.top_agreement), (0.0, 1.0));
    assert_eq!(found.reference_perplexity, found.candidate_perplexity);
    assert_eq!(found.digests[0], found.digests[1]);
}

#[test]
fn a_written_file_is_the_model_quantized_while_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    for quantization in [Quantization::Q8, Quantization::Q4KM] {
        let path = write(folder.path(), &ModelSource::Demo, quantization);
        let loaded = load(&ModelSource::Quantized { folder: None, quantization });
        let found = compare(loaded, load(&gguf(path)), &texts(), 512, &mut |_| {}).unwrap();
        // Heads lie in another order there, so sums do too.
        assert!(found.mean_divergence < 1e-4, "{quantization}: {found:?}");
        assert!(found.top_agreement > 0.995, "{quantization}: {found:?}");
    }
}

#[test]
fn a_written_file_says_what_a_file_says_that_llama_cpp_reads() {
    let folder = tempfile::tempdir().unwrap();
    let ours = content(&write(folder.path(), &ModelSource::Demo, Quantization::Q4KM));
    let theirs = content(&demo_file("tollgate-demo-q4_k_m.gguf"));

    let shapes = |content: &Content| -> BTreeMap<String, String> {
        let infos = content.tensor_infos.iter();
        infos
            .map(|(name, info)| (name.clone(), format!("{:?} {:?}", info.shape, info.ggml_dtype)))
            .collect()
    };
    assert_eq!(shapes(&ours), shapes(&theirs));
    for (key, expected) in &theirs.metadata {
        let described =
            ["general.name", "general.basename", "general.size_label", "general.license"];
        let told_elsewhere = [
            "general.description",
            "tokenizer.ggml.eot_token_id",
            "tokenizer.ggml.padding_token_id",
        ];
        if described.contains(&key.as_str()) || told_elsewhere.contains(&key.as_str()) {
            continue;
        }
        let found = ours.metadata.get(key).unwrap_or_else(|| panic!("{key} is missing"));
        assert_eq!(shown(found), shown(expected), "{key}");
    }
}

#[test]
fn other_architectures_are_written_too() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["mistral", "qwen2", "qwen3"] {
        let source = ModelSource::Folder(architecture(name));
        let path = write(folder.path(), &source, Quantization::Q8);
        // Shorter than the windows, of which the file does not know.
        let text: Vec<u32> = (2..20).collect();
        let tokenizer = architecture(name).join("tokenizer.json");
        let candidate = load(&ModelSource::Gguf { weights: path, tokenizer });
        let found = compare(load(&source), candidate, &[text], 512, &mut |_| {}).unwrap();
        assert!(found.mean_divergence < 0.01, "{name}: {found:?}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["gemma2", "mixtral", "llama"] {
        let source = ModelSource::Folder(architecture(name));
        let path = folder.path().join("model.gguf");
        let refused = write_gguf(&source, Quantization::Q8, &path, &mut |_| {}).unwrap_err();
        assert!(matches!(refused, LoadError::Unsupported { .. }), "{name}: {refused}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    }
}

#[test]
fn tensors_that_do_not_divide_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let source = ModelSource::Folder(architecture("qwen3"));
    let path = folder.path().join("model.gguf");
    let written = write_gguf(&source, Quantization::Q4K, &path, &mut |_| {}).unwrap();
    assert!(written.fallbacks.iter().any(|(_, kind)| kind == "q5_0"), "{written:?}");
    assert_eq!(written.bytes_after, std::fs::metadata(&path).unwrap().len());
}

fn write(folder: &Path, source: &ModelSource, quantization: Quantization) -> PathBuf {
    let path = folder.join(format!("{quantization}.gguf"));
    write_gguf(source, quantization, &path, &mut |_| {}).unwrap();
    path
}

fn architecture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/architectures").join(name)
}

fn content(path: &Path) -> Content {
    Content::read(&mut std::fs::File::open(path).unwrap()).unwrap()
}

fn shown(value: &Value) -> String {
    format!("{value:?}")
}
