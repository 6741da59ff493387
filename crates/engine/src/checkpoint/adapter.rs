//! A low-rank adapter in the layout of PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Promise: a tensor that we would not use, and one that should be there and is not, are errors that name it.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::Tensor;
use domain::ModelDigest;

use super::adapter_config::{AdapterConfig, Targets};
use super::files::read;
use super::safetensors::{Archive, map};
use super::{Digest, check_shape, tensor_error};
use crate::LoadError;
use crate::models::Module;

/// The open files of an adapter.
pub(crate) struct AdapterFiles {
    config: AdapterConfig,
    archive: Archive,
    names: BTreeSet<String>,
    digest: ModelDigest,
}

/// The two matrices of a pair.
#[derive(Clone, Copy)]
enum Half {
    A,
    B,
}

impl AdapterFiles {
    /// Opens the adapter in `folder` for a base of this digest.
    pub(crate) fn open(folder: &Path, base: &ModelDigest) -> Result<Self, LoadError> {
        let config_bytes = read(&folder.join(CONFIG))?;
        let config = AdapterConfig::parse(&config_bytes)?;
        let weights = folder.join(WEIGHTS);
        let mut digest = Digest::default();
        digest.add(base.to_string().as_bytes());
        digest.add(&config_bytes);
        digest.add_file(&weights)?;
        let archive = Archive::Mapped(map(std::slice::from_ref(&weights))?);
        let names = archive.tensors().into_iter().map(|(name, ..)| name).collect();
        Ok(Self { config, archive, names, digest: digest.finish() })
    }

    /// Names the adapter, its settings and its base.
    pub(crate) const fn digest(&self) -> &ModelDigest {
        &self.digest
    }

    /// Rows of the thin matrices.
    pub(crate) const fn rank(&self) -> usize {
        self.config.rank
    }

    /// What their product is multiplied by.
    pub(crate) const fn scale(&self) -> f32 {
        self.config.scale
    }

    /// Refuses files that are not a pair for each target, and nothing else, of a model with these modules in
    /// its layers.
    pub(crate) fn check(&self, layers: &[Vec<Module>]) -> Result<(), LoadError> {
        let mut known = BTreeSet::new();
        for (layer, modules) in layers.iter().enumerate() {
            for module in modules {
                let [a, b] = [Half::A, Half::B].map(|half| name(layer, module.name, half));
                let wanted = self.config.wants(layer, &path(layer, module.name));
                let [has_a, has_b] = [&a, &b].map(|name| self.names.contains(name));
                if !has_a && (has_b || wanted) {
                    return Err(tensor_error(&a, &"is missing"));
                }
                if !has_b && has_a {
                    return Err(tensor_error(&b, &"is missing"));
                }
                known.extend([a, b]);
            }
        }
        if let Some(name) = self.names.difference(&known).next() {
            let what = format!("tensor `{name}` of an adapter");
            return Err(unsupported(&what, layers));
        }
        if self.names.is_empty() {
            let problem = "it has no tensors".to_owned();
            return Err(LoadError::Malformed { what: WEIGHTS.to_owned(), problem });
        }
        self.check_targets(layers)
    }

    /// Refuses a target that is none of the modules.
    fn check_targets(&self, layers: &[Vec<Module>]) -> Result<(), LoadError> {
        let Targets::Named(targets) = &self.config.targets else { return Ok(()) };
        let paths: Vec<String> = layers
            .iter()
            .enumerate()
            .flat_map(|(layer, modules)| modules.iter().map(move |one| path(layer, one.name)))
            .collect();
        for target in targets {
            if !paths.iter().any(|path| is_at(target, path)) {
                return Err(unsupported(&format!("module `{target}` of an adapter"), layers));
            }
        }
        Ok(())
    }

    /// Whether there is a pair for this module.
    pub(crate) fn has(&self, layer: usize, module: &Module) -> bool {
        self.names.contains(&name(layer, module.name, Half::A))
    }

    /// `[rank, inputs]` and `[outputs, rank]`.
    pub(crate) fn pair(
        &self,
        layer: usize,
        module: &Module,
    ) -> Result<(Tensor, Tensor), LoadError> {
        let load = |half, dims: [usize; 2]| {
            let name = name(layer, module.name, half);
            let tensor = self.archive.load(&name)?;
            check_shape(&name, tensor.dims(), &dims)?;
            Ok(tensor)
        };
        let a = load(Half::A, [self.config.rank, module.inputs])?;
        Ok((a, load(Half::B, [module.outputs, self.config.rank])?))
    }
}

/// Whether PEFT takes the module at `path` for a `target`.
pub(super) fn is_at(target: &str, path: &str) -> bool {
    path.strip_suffix(target).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn path(layer: usize, module: &str) -> String {
    format!("model.layers.{layer}.{module}")
}

fn name(layer: usize, module: &str, half: Half) -> String {
    let half = match half {
        Half::A => "lora_A",
        Half::B => "lora_B",
    };
    format!("base_model.model.{}.{half}.weight", path(layer, module))
}

fn unsupported(what: &str, layers: &[Vec<Module>]) -> LoadError {
    let names: BTreeSet<&str> = layers.iter().flatten().map(|module| module.name).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let remedy = format!("an adapter of this base may be beside: {}", names.join(", "));
    LoadError::Unsupported { what: what.to_owned(), remedy }
}

pub(super) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
