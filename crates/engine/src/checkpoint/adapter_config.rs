//! Reads `adapter_config.json`.
//!
//! Promise: a setting that changes the arithmetic in a way we do not compute is an error that names it, also if
//! it is one that we have never heard of.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::adapter::{CONFIG, is_at};
use super::files::json;
use crate::LoadError;

/// What an adapter's settings say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AdapterConfig {
    pub(super) rank: usize,
    /// The product of the thin matrices is multiplied by this.
    pub(super) scale: f32,
    pub(super) targets: Targets,
    /// Numbers of the layers that have it; all if absent.
    layers: Option<Vec<usize>>,
    /// Modules that are no targets, whatever their names.
    excluded: Option<Targets>,
}

/// Modules by name.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub(super) enum Targets {
    /// By the last parts of their names.
    Named(Vec<String>),
    /// By an expression; only the file tells which modules that was.
    Expression(String),
}

/// One number or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(usize),
    Many(Vec<usize>),
}

#[derive(Deserialize)]
struct Written {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    target_modules: Targets,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    layers_to_transform: Option<Layers>,
    #[serde(default)]
    exclude_modules: Option<Targets>,
}

impl AdapterConfig {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        let settings: Map<String, Value> = json(CONFIG, bytes)?;
        // Whatever else its kind, it is no use to tell of its other settings.
        if let Some(kind) = settings.get("peft_type").filter(|kind| *kind != "LORA") {
            return Err(unsupported("peft_type", kind));
        }
        let asks_more =
            settings.iter().find(|(name, value)| !is_known(name, value) && !is_off(value));
        if let Some((name, value)) = asks_more {
            return Err(unsupported(name, value));
        }
        let written: Written = json(CONFIG, bytes)?;
        if written.peft_type != "LORA" || written.r == 0 || written.r > MAX_RANK {
            return Err(malformed(&format!("`r` is {}", written.r)));
        }
        let rank = written.r as f64;
        let divisor = if written.use_rslora.unwrap_or(false) { rank.sqrt() } else { rank };
        let scale = (written.lora_alpha / divisor) as f32;
        if !scale.is_finite() {
            return Err(malformed(&format!("`lora_alpha` is {}", written.lora_alpha)));
        }
        Ok(Self {
            rank: written.r,
            scale,
            targets: written.target_modules,
            layers: written.layers_to_transform.map(|layers| match layers {
                Layers::One(layer) => vec![layer],
                Layers::Many(layers) => layers,
            }),
            excluded: written.exclude_modules,
        })
    }

    /// Whether the module at this path of this layer is certainly a target.
    pub(super) fn wants(&self, layer: usize, path: &str) -> bool {
        let Targets::Named(targets) = &self.targets else { return false };
        let excluded = match &self.excluded {
            None => false,
            Some(Targets::Named(names)) => names.iter().any(|name| is_at(name, path)),
            Some(Targets::Expression(_)) => true,
        };
        let here = self.layers.as_ref().is_none_or(|layers| layers.contains(&layer));
        here && !excluded && targets.iter().any(|target| is_at(target, path))
    }
}

/// Whether a setting is one that we follow, or one that concerns only training.
fn is_known(name: &str, value: &Value) -> bool {
    // Others take something off the base's weights before they train.
    let begins_as_is = |value: &Value| {
        value.is_boolean() || INITIAL_WEIGHTS.iter().any(|name| value.as_str() == Some(name))
    };
    match name {
        "init_lora_weights" => begins_as_is(value),
        name => FOLLOWED.contains(&name) || OF_TRAINING.contains(&name),
    }
}

/// Whether a setting asks for nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn unsupported(setting: &str, value: &Value) -> LoadError {
    LoadError::Unsupported {
        what: format!("`{setting}` = {value} of an adapter"),
        remedy: "use a plain LoRA adapter, or merge this one into its base".to_owned(),
    }
}

fn malformed(problem: &str) -> LoadError {
    LoadError::Malformed { what: CONFIG.to_owned(), problem: problem.to_owned() }
}

const FOLLOWED: &[&str] = &[
    "peft_type",
    "r",
    "lora_alpha",
    "target_modules",
    "use_rslora",
    "layers_to_transform",
    "exclude_modules",
];

const OF_TRAINING: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// How the thin matrices may have begun, beside the default.
const INITIAL_WEIGHTS: &[&str] = &["gaussian", "orthogonal", "eva"];

/// Larger than any that is worth its work.
const MAX_RANK: usize = 1 << 12;
