//! Low-rank adapters (Hu et al., 2021): thin matrices beside those of a base model, which make another model of it.
//!
//! To everybody outside, an adapter is a model: it has a name and a digest of its own, and the vocabulary and the
//! files of its base. Inside, it is what is added to the projections of those rows of a step that ask for it, so
//! that rows of several adapters and of none share a step and the base's weights.
//!
//! Promise: what is added to a row depends on that row and its adapter alone, bit for bit. An adapter's keys and
//! values have names of their own. A file that asks for anything else than we compute is refused by name.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use domain::{ModelInfo, ModelName};

use crate::attribution::WORK_PARTS;
use crate::checkpoint::{AdapterFiles, interleave, tensor_error};
use crate::models::{Design, Module, Place, Shape, modules_of_layer};
use crate::ops::Pool;
use crate::ops::dense::Dense;
use crate::ops::low_rank::LowRank;
use crate::{LoadError, Model};

/// An adapter in memory.
pub(crate) struct Adapter {
    info: ModelInfo,
    layers: Vec<Vec<(Place, LowRank)>>,
    extra_work: u32,
}

/// What an adapter must fit.
pub(crate) struct Base {
    info: ModelInfo,
    design: &'static Design,
    shape: Shape,
}

impl Base {
    pub(crate) fn of(model: &Model) -> Self {
        let (design, shape) = (model.design(), model.shape().clone());
        Self { info: model.info().clone(), design, shape }
    }

    /// The same, told of in these words.
    pub(crate) fn known_as(self, info: &ModelInfo) -> Self {
        Self { info: info.clone(), ..self }
    }

    pub(crate) const fn info(&self) -> &ModelInfo {
        &self.info
    }
}

impl Adapter {
    /// Loads a folder in the layout of PEFT, for this base, and calls it `name`.
    pub(crate) fn load(name: ModelName, folder: &Path, base: &Base) -> Result<Self, LoadError> {
        let layers: Vec<Vec<Module>> = (0..base.shape.layers)
            .map(|layer| modules_of_layer(base.design, &base.shape, layer))
            .collect();
        let files = AdapterFiles::open(folder, &base.info.digest)?;
        files.check(&layers)?;
        let mut operations = 0;
        let mut loaded = Vec::with_capacity(layers.len());
        for (number, modules) in layers.iter().enumerate() {
            let mut beside = Vec::new();
            for module in modules.iter().filter(|module| files.has(number, module)) {
                let low_rank = load_one(&files, number, module)?;
                operations += 2 * files.rank() * (module.inputs + module.outputs);
                beside.push((module.place, low_rank));
            }
            loaded.push(beside);
        }
        let whole = base.shape.arithmetic().token.max(1);
        let extra = (operations as u64 * u64::from(WORK_PARTS)).div_ceil(whole);
        Ok(Self {
            info: ModelInfo { name, digest: files.digest().clone(), ..base.info.clone() },
            layers: loaded,
            extra_work: u32::try_from(extra).unwrap_or(u32::MAX),
        })
    }

    pub(crate) const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What it adds to the arithmetic of a token through the layers, in [`WORK_PARTS`] of that.
    pub(crate) const fn extra_work(&self) -> u32 {
        self.extra_work
    }
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter").field("info", &self.info).finish_non_exhaustive()
    }
}

fn load_one(files: &AdapterFiles, layer: usize, module: &Module) -> Result<LowRank, LoadError> {
    let (a, b) = files.pair(layer, module)?;
    let name = module.name;
    let packed =
        |tensor: Tensor| Dense::pack(&[tensor]).map_err(|error| tensor_error(name, &error));
    let b = match module.interleaved {
        Some(heads) => interleave(&b, heads).map_err(|error| tensor_error(name, &error))?,
        None => b,
    };
    Ok(LowRank { a: packed(a)?, b: packed(b)?, scale: files.scale(), column: module.column })
}

/// The rows of a step that ask for one adapter.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    adapter: Arc<Adapter>,
    /// Ascending.
    rows: Vec<u32>,
}

/// Adds so many rows from `first` on to the group of their adapter.
pub(crate) fn group(groups: &mut Vec<Group>, adapter: &Arc<Adapter>, first: u32, count: u32) {
    let rows = first..first + count;
    match groups.iter_mut().find(|group| Arc::ptr_eq(&group.adapter, adapter)) {
        Some(group) => group.rows.extend(rows),
        None => groups.push(Group { adapter: Arc::clone(adapter), rows: rows.collect() }),
    }
}

/// The adapters of a step, at one of its layers.
#[derive(Clone, Copy)]
pub(crate) struct Adapted<'a> {
    pub(crate) groups: &'a [Group],
    pub(crate) layer: usize,
}

impl Adapted<'_> {
    /// Adds to `projection`, which the base made of `x` at this place, what the adapters make of it.
    pub(crate) fn add(
        &self,
        place: Place,
        x: &Tensor,
        projection: &Tensor,
        pool: &Pool,
    ) -> candle_core::Result<()> {
        for Group { adapter, rows } in self.groups {
            let beside = &adapter.layers[self.layer];
            let mut taken = None;
            for (_, low_rank) in beside.iter().filter(|(at, _)| *at == place) {
                let x = match &taken {
                    Some(x) => x,
                    None => taken.insert(take(x, rows)?),
                };
                low_rank.add(x, projection, rows, pool)?;
            }
        }
        Ok(())
    }
}

/// These rows of `x`, one after the other.
fn take(x: &Tensor, rows: &[u32]) -> candle_core::Result<Tensor> {
    if rows.len() == x.dim(0)? {
        return Ok(x.clone());
    }
    x.index_select(&Tensor::new(rows, x.device())?, 0)
}

#[cfg(test)]
mod tests;
