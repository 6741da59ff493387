//! Every encoder against `transformers`, which computed in single precision: see `tests/encoders/make.py`.

use std::path::PathBuf;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
}

#[test]
fn vectors_are_those_of_another_implementation() {
    for name in MODELS {
        let folder = folder().join(name);
        let golden = std::fs::read(folder.join("golden.json")).unwrap();
        let golden: Golden = serde_json::from_slice(&golden).unwrap();
        assert!(Encoder::is_in(&folder));
        let encoder = Encoder::load(ModelName::new(name), &folder, &mut |_| {}).unwrap();
        for (text, expected) in golden.texts.iter().zip(&golden.vectors) {
            let found = encoder.embed(text, &Pool::new(2).unwrap()).unwrap();
            assert_eq!(found.len(), expected.len());
            let range = expected.iter().fold(0.0_f32, |range, x| range.max(x.abs()));
            for (found, expected) in found.iter().zip(expected) {
                // Keys and values are kept in 16 bits here, and in 32 there.
                let error = (found - expected).abs() / range;
                assert!(error < 2e-3, "{name}, {} tokens: off by {error}", text.len());
            }
            assert_eq!(found, encoder.embed(text, &Pool::new(1).unwrap()).unwrap(), "threads");
        }
    }
}

#[test]
fn a_model_that_makes_text_does_not_embed() {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("demo-model");
    assert!(!Encoder::is_in(&demo));
    let refused = Encoder::load(ModelName::new("demo"), &demo, &mut |_| {}).unwrap_err();
    assert!(refused.to_string().contains("LlamaForCausalLM"), "{refused}");
}

#[test]
fn what_decides_the_vectors_is_in_the_digest() {
    let digest = |name: &str| {
        let folder = folder().join(name);
        Encoder::load(ModelName::new(name), &folder, &mut |_| {}).unwrap().info().digest.clone()
    };
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors", "modules.json"] {
        std::fs::copy(folder().join("bert").join(file), copy.path().join(file)).unwrap();
    }
    let first = r#"{"pooling_mode_cls_token": true}"#;
    std::fs::write(copy.path().join("1_Pooling/config.json"), first).unwrap();
    let other = Encoder::load(ModelName::new("x"), copy.path(), &mut |_| {}).unwrap();
    assert_ne!(digest("bert"), other.info().digest);
}

#[test]
fn a_rotation_that_we_do_not_compute_is_refused() {
    let refused = |name: &str, change: fn(&mut serde_json::Value)| {
        let copy = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::copy(folder().join(name).join(file), copy.path().join(file)).unwrap();
        }
        let config = std::fs::read(copy.path().join("config.json")).unwrap();
        let mut config = serde_json::from_slice(&config).unwrap();
        change(&mut config);
        std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        let loaded = Encoder::load(ModelName::new("x"), copy.path(), &mut |_| {});
        loaded.unwrap_err().to_string()
    };

    let stretched = refused("modernbert", |config| {
        config["rope_parameters"]["full_attention"]["rope_type"] = "yarn".into();
    });
    let backwards = refused("modernbert", |config| {
        config["rope_parameters"]["sliding_attention"]["rope_theta"] = (-1.0).into();
    });
    let too_few = refused("modernbert", |config| {
        config["layer_types"] = serde_json::json!(["full_attention"]);
    });
    let longer = refused("nomic-cls", |config| config["rotary_scaling_factor"] = 2.0.into());

    assert!(stretched.contains("rope_type `yarn`"), "{stretched}");
    assert!(backwards.contains("`rope_theta` is not positive"), "{backwards}");
    assert!(too_few.contains("`layer_types`"), "{too_few}");
    assert!(longer.contains("rotary_scaling_factor `2.0`"), "{longer}");
}

const MODELS: [&str; 7] =
    ["bert", "bert-cls", "xlm-roberta", "modernbert", "modernbert-cls", "nomic", "nomic-cls"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/encoders")
}
