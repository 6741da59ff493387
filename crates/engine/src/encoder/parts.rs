//! What encoders are made of: norms, projections, and attention between the tokens of one text.

use candle_core::{DType, Device, Result, Tensor};

use crate::LoadError;
use crate::checkpoint::{Checkpoint, Folder, Part, tensor_error};
use crate::model::Progress;
use crate::ops::Pool;
use crate::ops::attention::{Attention, Window};
use crate::ops::linear::Linear;
use crate::ops::norm::layer_norm;
use crate::ops::rope::{Store, Turns};
use crate::step::{Blocks, Step};

/// Brings vectors to mean 0 and deviation 1, scales and shifts them.
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl Norm {
    /// Scales by `{name}.weight`, and shifts by `{name}.bias`.
    pub(super) fn load(
        folder: &mut Folder,
        name: &str,
        width: usize,
        epsilon: f32,
    ) -> std::result::Result<Self, LoadError> {
        let weight = folder.vector(&format!("{name}.weight"), width)?;
        Ok(Self { weight, bias: folder.vector(&format!("{name}.bias"), width)?, epsilon })
    }

    /// Scales by `{name}.weight`, and does not shift.
    pub(super) fn without_bias(
        folder: &mut Folder,
        name: &str,
        width: usize,
        epsilon: f32,
    ) -> std::result::Result<Self, LoadError> {
        let weight = folder.vector(&format!("{name}.weight"), width)?;
        let bias = weight.zeros_like().map_err(|error| tensor_error(name, &error))?;
        Ok(Self { weight, bias, epsilon })
    }

    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}

/// Projections side by side, shifted where the model has biases.
pub(super) struct Projection {
    weights: Linear,
    biases: Option<Tensor>,
}

impl Projection {
    /// Projections `{name}.weight`, each to `outputs` numbers and shifted by `{name}.bias`.
    pub(super) fn load(
        folder: &mut Folder,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> std::result::Result<Self, LoadError> {
        let Self { weights, .. } = Self::without_biases(folder, names, outputs, inputs)?;
        let mut biases = Vec::with_capacity(names.len());
        for name in names {
            biases.push(folder.vector(&format!("{name}.bias"), outputs)?);
        }
        let biases = Tensor::cat(&biases, 0).map_err(|error| tensor_error(&names[0], &error))?;
        Ok(Self { weights, biases: Some(biases) })
    }

    /// Projections `{name}.weight`, each to `outputs` numbers.
    pub(super) fn without_biases(
        folder: &mut Folder,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> std::result::Result<Self, LoadError> {
        let parts: Vec<Part> =
            names.iter().map(|name| Part::new(&format!("{name}.weight"), outputs)).collect();
        Ok(Self { weights: folder.linear(&parts, inputs)?, biases: None })
    }

    pub(super) fn apply(&self, x: &Tensor, pool: &Pool) -> Result<Tensor> {
        let x = self.weights.apply(x, pool)?;
        match &self.biases {
            Some(biases) => x.broadcast_add(biases),
            None => Ok(x),
        }
    }
}

/// One text whose tokens attend each other: all of them, or those near by.
pub(super) struct Text<'a> {
    heads: usize,
    head_width: usize,
    /// Every row attends to the end of the text.
    whole: Step,
    near: Option<Near>,
    keys: Tensor,
    values: Tensor,
    pub(super) pool: &'a Pool,
}

/// Every row attends the same number of positions before it and after it.
struct Near {
    step: Step,
    /// The first position that each row attends.
    firsts: Vec<u32>,
}

impl<'a> Text<'a> {
    /// A text for layers with so many heads, each a multiple of 16 wide.
    pub(super) fn new(
        tokens: &[u32],
        heads: usize,
        head_width: usize,
        pool: &'a Pool,
    ) -> Result<Self> {
        let blocks = tokens.len().div_ceil(BLOCK_TOKENS);
        let zeros =
            |dims: (usize, usize, usize, usize)| Tensor::zeros(dims, DType::F16, &Device::Cpu);
        let table: Vec<u32> = (0..blocks as u32).collect();
        let mut whole = Step::default();
        let blocks_of = Blocks { table: &table, block_tokens: BLOCK_TOKENS as u32 };
        whole.push(tokens, 0, blocks_of, 0);
        // Everybody attends everybody: to the end of the text.
        whole.positions.fill(tokens.len() as u32 - 1);
        Ok(Self {
            heads,
            head_width,
            whole,
            near: None,
            keys: zeros((blocks, heads, head_width, BLOCK_TOKENS))?,
            values: zeros((blocks, heads, BLOCK_TOKENS, head_width))?,
            pool,
        })
    }

    /// The same for a model in whose local layers a token attends those at most `reach` positions away.
    pub(super) fn with_local_layers(mut self, reach: u32) -> Self {
        let count = self.whole.positions.len() as u32;
        let last = |position: u32| position.saturating_add(reach).min(count - 1);
        let mut step = self.whole.clone();
        step.positions = (0..count).map(last).collect();
        let firsts = (0..count).map(|position| position.saturating_sub(reach)).collect();
        self.near = Some(Near { step, firsts });
        self
    }

    /// Turns queries and keys, which stand side by side, in place.
    pub(super) fn turn(&self, projection: &Tensor, turns: &Turns) -> Result<()> {
        turns.apply(projection, 2 * self.heads, self.head_width, self.pool)
    }

    /// Attends with queries, keys and values that stand side by side, as in a layer without bounds.
    pub(super) fn attend(&self, projection: &Tensor) -> Result<Tensor> {
        self.attend_within(projection, &self.whole, Window::Whole)
    }

    /// The same as in a local layer; as in one without bounds if the model has none.
    pub(super) fn attend_near(&self, projection: &Tensor) -> Result<Tensor> {
        match &self.near {
            Some(Near { step, firsts }) => {
                self.attend_within(projection, step, Window::From(firsts))
            }
            None => self.attend(projection),
        }
    }

    fn attend_within(
        &self,
        projection: &Tensor,
        step: &Step,
        window: Window<'_>,
    ) -> Result<Tensor> {
        let Self { heads, head_width, pool, .. } = *self;
        let width = heads * head_width;
        let keys = Store {
            column: width,
            heads,
            head_width,
            block_tokens: BLOCK_TOKENS,
            transposed: true,
            slots: &step.slots,
            pool,
        };
        keys.write(&self.keys, projection)?;
        Store { column: 2 * width, transposed: false, ..keys }.write(&self.values, projection)?;
        let attention = Attention {
            heads,
            kv_heads: heads,
            head_width,
            block_tokens: BLOCK_TOKENS,
            scale: (head_width as f32).powf(-0.5),
            softcap: None,
            window,
            step,
            pool,
        };
        attention.apply(projection, &self.keys, &self.values)
    }
}

/// Reads so many layers, one after the other; `progress` hears of each.
pub(super) fn layers<L>(
    count: usize,
    progress: &mut dyn FnMut(Progress),
    mut load: impl FnMut(usize) -> std::result::Result<L, LoadError>,
) -> std::result::Result<Vec<L>, LoadError> {
    let total = count as u32;
    let mut layers = Vec::with_capacity(count);
    for index in 0..count {
        layers.push(load(index)?);
        progress(Progress { loaded: index as u32 + 1, total });
    }
    Ok(layers)
}

/// Sizes that `config.json` gives are at least 1, and what a computer may hold.
pub(super) fn check_sizes(sizes: &[usize]) -> std::result::Result<(), LoadError> {
    if sizes.iter().any(|size| *size == 0 || *size > MAX_SIZE) {
        return Err(malformed("a size is 0 or too large"));
    }
    Ok(())
}

/// Heads are as wide as attention computes them.
pub(super) fn check_heads(width: usize, heads: usize) -> std::result::Result<(), LoadError> {
    if !width.is_multiple_of(heads * HEAD_WIDTH_UNIT) {
        return Err(malformed("the hidden size is not a multiple of 16 for each head"));
    }
    Ok(())
}

/// Bases of rotations are numbers that angles can be made of.
pub(super) fn check_thetas(thetas: &[f64]) -> std::result::Result<(), LoadError> {
    if thetas.iter().any(|theta| !theta.is_finite() || *theta <= 0.0) {
        return Err(malformed("a `rope_theta` is not positive"));
    }
    Ok(())
}

/// A setting has the one value that we compute.
pub(super) fn check_setting(
    setting: &str,
    value: &str,
    known: &str,
) -> std::result::Result<(), LoadError> {
    if value == known {
        return Ok(());
    }
    Err(LoadError::Unsupported {
        what: format!("{setting} `{value}`"),
        remedy: format!("use a model with `{known}`"),
    })
}

pub(super) fn malformed(problem: &str) -> LoadError {
    LoadError::Malformed { what: "config.json".to_owned(), problem: problem.to_owned() }
}

const BLOCK_TOKENS: usize = 32;
const HEAD_WIDTH_UNIT: usize = 16;
const MAX_SIZE: usize = 1 << 20;
