//! Adapters against PEFT, which computed in single precision (see `tests/adapters/make.py`), and against their
//! bases with the adapters merged into the weights.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, safetensors};
use serde_json::Value;

use super::*;
use crate::ModelSource;
use crate::models::tests::{Case, Golden, distance, folder as architectures};

/// An adapter and its base.
struct Pair {
    adapter: PathBuf,
    base: PathBuf,
}

impl Pair {
    fn of(name: &str) -> Self {
        let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/adapters");
        let base = match name.split('-').next().unwrap() {
            "demo" => tests.join("../../demo-model"),
            base => architectures().join(base),
        };
        Self { adapter: tests.join(name), base }
    }

    fn case(&self) -> Case {
        let model = load(&self.base);
        let adapter = Adapter::load(ModelName::new("adapter"), &self.adapter, &Base::of(&model));
        let adapter = Some(Arc::new(adapter.unwrap()));
        let golden = Golden::read(&self.adapter);
        Case { decoder: model.into_parts().0, adapter, golden }
    }

    /// The base with the adapter's products added to its weights, in single precision.
    fn merged(&self) -> Case {
        let cpu = Device::Cpu;
        let weights = safetensors::load(self.base.join("model.safetensors"), &cpu).unwrap();
        let thin = safetensors::load(self.adapter.join("adapter_model.safetensors"), &cpu).unwrap();
        let single = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap();
        let mut merged: HashMap<String, Tensor> =
            weights.iter().map(|(name, tensor)| (name.clone(), single(tensor))).collect();
        for (name, a) in thin.iter().filter(|(name, _)| name.contains("lora_A")) {
            let b = &thin[&name.replace("lora_A", "lora_B")];
            let product = (single(b).matmul(&single(a)).unwrap() * self.scale()).unwrap();
            let base = name.strip_prefix("base_model.model.").unwrap().replace(".lora_A", "");
            let weight = merged.get_mut(&base).unwrap();
            *weight = (&*weight + product).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::copy(self.base.join(file), folder.path().join(file)).unwrap();
        }
        safetensors::save(&merged, folder.path().join("model.safetensors")).unwrap();
        let decoder = load(folder.path()).into_parts().0;
        Case { decoder, adapter: None, golden: Golden::read(&self.adapter) }
    }

    fn scale(&self) -> f64 {
        let config = std::fs::read(self.adapter.join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let [alpha, rank] = ["lora_alpha", "r"].map(|name| config[name].as_f64().unwrap());
        let by_root = config["use_rslora"].as_bool().unwrap();
        if by_root { alpha / rank.sqrt() } else { alpha / rank }
    }
}

fn load(folder: &Path) -> Model {
    let source = ModelSource::Folder(folder.to_owned());
    Model::load(ModelName::new("base"), &source, &mut |_| {}).unwrap()
}

#[test]
fn logits_are_those_of_another_implementation() {
    for name in NAMES {
        Pair::of(name).case().check_logits(name, FROM_PEFT);
    }
}

#[test]
fn greedy_continuations_are_those_of_another_implementation() {
    for name in NAMES {
        Pair::of(name).case().check_greedy(name, EQUAL);
    }
}

#[test]
fn an_adapter_is_as_good_as_merged_into_its_base() {
    for name in NAMES {
        let (beside, merged) = (Pair::of(name).case(), Pair::of(name).merged());
        merged.check_greedy(name, EQUAL);
        let text = &beside.golden.text;
        for (found, expected) in beside.logits(text, 64).iter().zip(merged.logits(text, 64)) {
            let distance = distance(found, &expected);
            assert!(distance < 1e-3, "{name}: logits are off by {distance} of their range");
        }
    }
}

#[test]
fn no_adapter_depends_on_how_a_text_is_cut() {
    for name in NAMES {
        let case = Pair::of(name).case();
        let whole = case.logits(&case.golden.text, 64);
        for chunk in [1, 7, 32] {
            assert!(case.logits(&case.golden.text, chunk) == whole, "{name} in chunks of {chunk}");
        }
    }
}

#[test]
fn an_adapter_makes_a_difference() {
    for name in NAMES {
        let with = Pair::of(name).case();
        let without = Case { adapter: None, ..Pair::of(name).case() };
        let text = &with.golden.text;
        let distance = distance(&with.logits(text, 64)[59], &without.logits(text, 64)[59]);
        assert!(distance > 0.1, "{name}: {distance}");
    }
}

#[test]
fn an_adapter_costs_what_it_adds_to_the_arithmetic() {
    let extra = |name| Pair::of(name).case().adapter.unwrap().extra_work();
    // Rank 4 beside everything: 4 * (inputs + outputs) for each inputs * outputs.
    assert!((100..250).contains(&extra("llama")), "{}", extra("llama"));
    assert!(extra("llama-some") < extra("llama") / 3);
}

/// Parts of the range of logits. These adapters are as large as the weights that they are beside, and enlarge what
/// keys and values lose in 16 bits; the same numbers merged into the weights are as far off.
const FROM_PEFT: f32 = 1e-2;
/// Where that decides between two tokens.
const EQUAL: f32 = 5e-2;
const NAMES: &[&str] =
    &["llama", "llama-some", "qwen2", "gemma2", "phi3", "mixtral", "demo", "demo-other"];
