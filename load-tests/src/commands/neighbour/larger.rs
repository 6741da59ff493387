//! A model of a hundred million random weights: what it says is nonsense, and what it takes is what a trained one of
//! this size would take.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use load_tests::Random;
use serde_json::{Map, Value, json};

/// A tensor of half-precision numbers.
struct Tensor {
    name: String,
    shape: Vec<usize>,
}

/// Writes it to `folder`, with the tokenizer of the demo model.
pub(super) fn write(folder: &Path, tokenizer: &[u8]) -> anyhow::Result<()> {
    std::fs::write(folder.join("tokenizer.json"), tokenizer).context("write tokenizer.json")?;
    std::fs::write(folder.join("config.json"), config().to_string())
        .context("write config.json")?;
    let file = File::create(folder.join("model.safetensors")).context("create a file")?;
    let mut file = BufWriter::new(file);
    let tensors = tensors();
    let header = header(&tensors).to_string();
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut random = Random::seeded(1);
    for tensor in &tensors {
        tensor.write(&mut file, &mut random)?;
    }
    file.flush().context("write weights")
}

impl Tensor {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    fn write(&self, file: &mut impl std::io::Write, random: &mut Random) -> std::io::Result<()> {
        let norm = self.shape.len() == 1;
        for _ in 0..self.count() / 4 {
            let number = random.number();
            for shift in [0, 16, 32, 48] {
                let weight =
                    if norm { ONE } else { (number >> shift) as u16 & SIGN_AND_FRACTION | SMALL };
                file.write_all(&weight.to_le_bytes())?;
            }
        }
        Ok(())
    }
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_WIDTH,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": true,
        "hidden_act": "silu",
        "bos_token_id": 4087,
        "eos_token_id": 4089,
        "vocab_size": VOCABULARY,
    })
}

fn tensors() -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        tensors.push(Tensor { name: format!("model.{name}.weight"), shape: shape.to_vec() });
    };
    add("embed_tokens".to_owned(), &[VOCABULARY, HIDDEN]);
    add("norm".to_owned(), &[HIDDEN]);
    for layer in 0..LAYERS {
        let projections = [
            ("self_attn.q_proj", HEADS * HEAD_WIDTH, HIDDEN),
            ("self_attn.k_proj", KV_HEADS * HEAD_WIDTH, HIDDEN),
            ("self_attn.v_proj", KV_HEADS * HEAD_WIDTH, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HEADS * HEAD_WIDTH),
            ("mlp.gate_proj", FEED_FORWARD, HIDDEN),
            ("mlp.up_proj", FEED_FORWARD, HIDDEN),
            ("mlp.down_proj", HIDDEN, FEED_FORWARD),
        ];
        for (name, outputs, inputs) in projections {
            add(format!("layers.{layer}.{name}"), &[outputs, inputs]);
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("layers.{layer}.{name}"), &[HIDDEN]);
        }
    }
    tensors
}

/// Where each tensor is, as safetensors files say it.
fn header(tensors: &[Tensor]) -> Value {
    let (mut header, mut offset) = (Map::new(), 0);
    for tensor in tensors {
        let end = offset + BYTES * tensor.count();
        let place = json!({ "dtype": "F16", "shape": tensor.shape, "data_offsets": [offset, end] });
        header.insert(tensor.name.clone(), place);
        offset = end;
    }
    Value::Object(header)
}

const HIDDEN: usize = 768;
const FEED_FORWARD: usize = 2048;
const LAYERS: usize = 16;
const HEADS: usize = 12;
const KV_HEADS: usize = 4;
const HEAD_WIDTH: usize = 64;
const VOCABULARY: usize = 4096;
const BYTES: usize = 2;
const ONE: u16 = 0x3c00;
/// The exponent of numbers from 1/64 to 1/32: sums over a row stay about as large as what is summed.
const SMALL: u16 = 9 << 10;
const SIGN_AND_FRACTION: u16 = 0x83ff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_about_a_hundred_million_weights_and_every_count_is_whole() {
        let tensors = tensors();

        let count: usize = tensors.iter().map(Tensor::count).sum();
        assert_eq!(count / 1_000_000, 103);
        assert!(tensors.iter().all(|tensor| tensor.count().is_multiple_of(4)));
    }
}
