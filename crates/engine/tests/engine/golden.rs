//! The demo model answers as another implementation does in float32.

use std::io::BufWriter;

use candle_core::quantized::gguf_file;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use engine::{Engine, EngineConfig, ModelSource};

use crate::support::{answers, block_on, demo_file, gguf, golden, load, request};

/// How many golden completions this model repeats token for token, and why not the others.
fn agreement(source: &ModelSource) -> (usize, Vec<usize>) {
    let engine = Engine::start(load(source), EngineConfig::default()).unwrap();
    let cases = golden();
    let requests = cases.iter().map(|case| request(&case.prompt_token_ids, case.max_output()));
    let answers = block_on(answers(&engine, requests.collect()));
    let mut different = Vec::new();
    for (index, (case, answer)) in cases.iter().zip(&answers).enumerate() {
        let ends_alike = answer.reason.name() == case.finish_reason;
        if answer.ids != case.completion() || !ends_alike {
            different.push(index);
        }
    }
    (cases.len() - different.len(), different)
}

#[test]
fn safetensors_repeat_every_golden_completion() {
    assert_eq!(agreement(&ModelSource::Demo), (40, vec![]));
}

#[test]
fn a_folder_of_safetensors_is_the_same_model_as_the_one_compiled_in() {
    let compiled_in = load(&ModelSource::Demo);
    let folder = load(&ModelSource::Folder(demo_file("")));
    assert_eq!(folder.info(), compiled_in.info());
    assert_eq!(folder.files(), compiled_in.files());
}

#[test]
fn the_model_says_what_it_is() {
    let model = load(&ModelSource::Demo);
    let info = model.info();
    assert_eq!((info.context_length, info.vocabulary), (2048, 4096));
    assert_eq!(info.stop_tokens, [4089, 4087]);
    assert_eq!(info.weights, "f16");
    assert_eq!(info.digest.as_str().len(), 64);
    assert!(model.files().chat_template.as_ref().unwrap().contains("<|im_start|>"));
}

#[test]
fn sixteen_and_thirty_two_bits_in_gguf_repeat_every_golden_completion() {
    let folder = tempfile::tempdir().unwrap();
    for (dtype, name) in [(GgmlDType::F16, "f16.gguf"), (GgmlDType::F32, "f32.gguf")] {
        let path = folder.path().join(name);
        write_gguf(&path, dtype);
        assert_eq!(agreement(&gguf(path)), (40, vec![]), "{name}");
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "the figure is what the test is for")]
fn quantized_models_mostly_agree() {
    let (q8_0, different) = agreement(&gguf(demo_file("tollgate-demo-q8_0.gguf")));
    eprintln!("q8_0 agrees on {q8_0} of 40, not on {different:?}");
    let (q4_k_m, different) = agreement(&gguf(demo_file("tollgate-demo-q4_k_m.gguf")));
    eprintln!("q4_k_m agrees on {q4_k_m} of 40, not on {different:?}");
    assert!(q8_0 >= 35, "q8_0 agrees on {q8_0}");
    assert!(q4_k_m >= 30, "q4_k_m agrees on {q4_k_m}");
}

/// Rewrites the quantized file with the weights of the safetensors file: its metadata, our matrices.
fn write_gguf(path: &std::path::Path, dtype: GgmlDType) {
    let mut template = std::fs::File::open(demo_file("tollgate-demo-q8_0.gguf")).unwrap();
    let content = gguf_file::Content::read(&mut template).unwrap();
    let weights =
        candle_core::safetensors::load(demo_file("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors = Vec::new();
    for (name, weight) in &weights {
        let weight = weight.to_dtype(DType::F32).unwrap();
        let weight = match name {
            name if name.contains("q_proj") => interleave(&weight, 8),
            name if name.contains("k_proj") => interleave(&weight, 4),
            _ => weight,
        };
        let dtype = if weight.rank() == 1 { GgmlDType::F32 } else { dtype };
        tensors.push((gguf_name(name), QTensor::quantize(&weight, dtype).unwrap()));
    }
    let metadata: Vec<_> = content.metadata.iter().map(|(key, value)| (&**key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (&**name, tensor)).collect();
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

/// Rows `(half, pair)` of each head to `(pair, half)`: the order that GGUF files have for `llama`.
fn interleave(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = weight.dims2().unwrap();
    let split = weight.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
    split.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}

fn gguf_name(name: &str) -> String {
    let pieces = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    pieces.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours))
}
