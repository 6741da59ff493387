//! BERT (Devlin et al., 2018): learned positions, norms after each part, biases everywhere.

use candle_core::{DType, Device, Result, Tensor};
use serde::Deserialize;

use crate::LoadError;
use crate::checkpoint::{Checkpoint, Folder, Part};
use crate::model::Progress;
use crate::ops::Pool;
use crate::ops::attention::Attention;
use crate::ops::gate::gelu;
use crate::ops::linear::Linear;
use crate::ops::norm::layer_norm;
use crate::ops::rope::Store;
use crate::step::{Blocks, Step};

/// In what its descendants differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    /// The number of a text's first position.
    pub(super) first_position: u32,
}

/// What we read of `config.json`.
#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: u32,
    #[serde(default = "one")]
    type_vocab_size: usize,
    layer_norm_eps: f32,
    #[serde(default = "gelu_name")]
    hidden_act: String,
    position_embedding_type: Option<String>,
}

pub(super) struct Bert {
    config: Config,
    variant: Variant,
    words: Tensor,
    /// Of positions, with that of the one kind of token that we read.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

struct Layer {
    query_key_value: Biased,
    attention_output: Biased,
    attention_norm: Norm,
    up: Biased,
    down: Biased,
    norm: Norm,
}

struct Biased {
    weights: Linear,
    biases: Tensor,
}

impl Biased {
    fn load(
        folder: &mut Folder,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> std::result::Result<Self, LoadError> {
        let parts: Vec<Part> =
            names.iter().map(|name| Part::new(&format!("{name}.weight"), outputs)).collect();
        let weights = folder.linear(&parts, inputs)?;
        let mut biases = Vec::with_capacity(names.len());
        for name in names {
            biases.push(folder.vector(&format!("{name}.bias"), outputs)?);
        }
        let biases = Tensor::cat(&biases, 0).map_err(|error| LoadError::Tensor {
            tensor: names[0].clone(),
            problem: error.to_string(),
        })?;
        Ok(Self { weights, biases })
    }

    fn apply(&self, x: &Tensor, pool: &Pool) -> Result<Tensor> {
        self.weights.apply(x, pool)?.broadcast_add(&self.biases)
    }
}

impl Norm {
    fn load(
        folder: &mut Folder,
        name: &str,
        width: usize,
        epsilon: f32,
    ) -> std::result::Result<Self, LoadError> {
        let weight = folder.vector(&format!("{name}.weight"), width)?;
        Ok(Self { weight, bias: folder.vector(&format!("{name}.bias"), width)?, epsilon })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}

impl Bert {
    pub(super) fn load(
        variant: Variant,
        folder: &mut Folder,
        progress: &mut dyn FnMut(Progress),
    ) -> std::result::Result<Self, LoadError> {
        let config: Config = folder.config()?;
        config.check(variant)?;
        let (width, epsilon) = (config.hidden_size, config.layer_norm_eps);
        // Some files hold the model as a part of a larger one.
        let prefix = ["", "bert.", "roberta."];
        let prefix = prefix.into_iter().find(|prefix| folder.has(&format!("{prefix}{WORDS}")));
        let prefix = prefix.unwrap_or_default();
        let name = |name: &str| format!("{prefix}{name}");
        let table = |folder: &Folder, part: &str, rows| folder.matrix(&name(part), rows, width);
        let words = table(folder, WORDS, config.vocab_size)?;
        let positions = table(folder, POSITIONS, config.max_position_embeddings as usize)?;
        let kinds = table(folder, KINDS, config.type_vocab_size)?;
        let with_kind = kinds.narrow(0, 0, 1).and_then(|kind| positions.broadcast_add(&kind));
        let positions = with_kind.map_err(|error| LoadError::Tensor {
            tensor: name(KINDS),
            problem: error.to_string(),
        })?;
        let norm = Norm::load(folder, &name("embeddings.LayerNorm"), width, epsilon)?;
        let total = config.num_hidden_layers as u32;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            layers.push(Layer::load(folder, &name(&format!("encoder.layer.{index}")), &config)?);
            progress(Progress { loaded: index as u32 + 1, total });
        }
        Ok(Self { config, variant, words, positions, norm, layers })
    }

    pub(super) const fn max_tokens(&self) -> u32 {
        self.config.max_position_embeddings - self.variant.first_position
    }

    pub(super) const fn vocabulary(&self) -> u32 {
        self.config.vocab_size as u32
    }

    pub(super) const fn width(&self) -> u32 {
        self.config.hidden_size as u32
    }

    /// What comes out for each token, `[tokens, width]`.
    pub(super) fn forward(&self, tokens: &[u32], pool: &Pool) -> Result<Vec<f32>> {
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let first = self.variant.first_position as usize;
        let positions = self.positions.narrow(0, first, tokens.len())?;
        let x = (self.words.index_select(&ids, 0)? + positions)?;
        let mut x = self.norm.apply(&x)?;
        let pass = Pass::new(&self.config, tokens, pool)?;
        for layer in &self.layers {
            x = pass.layer(layer, &x)?;
        }
        x.flatten_all()?.to_vec1()
    }
}

impl Config {
    fn check(&self, variant: Variant) -> std::result::Result<(), LoadError> {
        let malformed = |problem: &str| {
            let what = "config.json".to_owned();
            Err(LoadError::Malformed { what, problem: problem.to_owned() })
        };
        let sizes = [
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.vocab_size,
            self.type_vocab_size,
        ];
        if sizes.iter().any(|size| *size == 0 || *size > MAX_SIZE) {
            return malformed("a size is 0 or too large");
        }
        if self.max_position_embeddings <= variant.first_position {
            return malformed("there are no positions");
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads * HEAD_WIDTH_UNIT) {
            return malformed("the hidden size is not a multiple of 16 for each head");
        }
        let positions = self.position_embedding_type.as_deref().unwrap_or("absolute");
        for (setting, value, known) in [
            ("hidden_act", &*self.hidden_act, "gelu"),
            ("position_embedding_type", positions, "absolute"),
        ] {
            if value != known {
                return Err(LoadError::Unsupported {
                    what: format!("{setting} `{value}`"),
                    remedy: format!("use a model with `{known}`"),
                });
            }
        }
        Ok(())
    }
}

impl Layer {
    fn load(
        folder: &mut Folder,
        prefix: &str,
        config: &Config,
    ) -> std::result::Result<Self, LoadError> {
        let Config {
            hidden_size: width, intermediate_size: inner, layer_norm_eps: epsilon, ..
        } = *config;
        let name = |name: &str| format!("{prefix}.{name}");
        let projections =
            ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        let mut biased =
            |part: &str, outputs, inputs| Biased::load(folder, &[name(part)], outputs, inputs);
        let attention_output = biased("attention.output.dense", width, width)?;
        let up = biased("intermediate.dense", inner, width)?;
        let down = biased("output.dense", width, inner)?;
        Ok(Self {
            query_key_value: Biased::load(folder, &projections, width, width)?,
            attention_output,
            attention_norm: Norm::load(
                folder,
                &name("attention.output.LayerNorm"),
                width,
                epsilon,
            )?,
            up,
            down,
            norm: Norm::load(folder, &name("output.LayerNorm"), width, epsilon)?,
        })
    }
}

/// One text on its way through the layers.
struct Pass<'a> {
    heads: usize,
    head_width: usize,
    step: Step,
    pool: &'a Pool,
    keys: Tensor,
    values: Tensor,
}

impl<'a> Pass<'a> {
    fn new(config: &Config, tokens: &[u32], pool: &'a Pool) -> Result<Self> {
        let heads = config.num_attention_heads;
        let head_width = config.hidden_size / heads;
        let blocks = tokens.len().div_ceil(BLOCK_TOKENS);
        let zeros =
            |dims: (usize, usize, usize, usize)| Tensor::zeros(dims, DType::F16, &Device::Cpu);
        let table: Vec<u32> = (0..blocks as u32).collect();
        let mut step = Step::default();
        let blocks_of = Blocks { table: &table, block_tokens: BLOCK_TOKENS as u32 };
        step.push(tokens, 0, blocks_of, 0);
        // Everybody attends everybody: to the end of the text.
        step.positions.fill(tokens.len() as u32 - 1);
        Ok(Self {
            heads,
            head_width,
            step,
            pool,
            keys: zeros((blocks, heads, head_width, BLOCK_TOKENS))?,
            values: zeros((blocks, heads, BLOCK_TOKENS, head_width))?,
        })
    }

    fn layer(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let projection = layer.query_key_value.apply(x, self.pool)?;
        let attended = self.attend(&projection)?;
        let x = layer
            .attention_norm
            .apply(&(layer.attention_output.apply(&attended, self.pool)? + x)?)?;
        let inner = gelu(&layer.up.apply(&x, self.pool)?)?;
        layer.norm.apply(&(layer.down.apply(&inner, self.pool)? + &x)?)
    }

    fn attend(&self, projection: &Tensor) -> Result<Tensor> {
        let Self { heads, head_width, ref step, pool, .. } = *self;
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
            window: None,
            step,
            pool,
        };
        attention.apply(projection, &self.keys, &self.values)
    }
}

fn gelu_name() -> String {
    "gelu".to_owned()
}

const fn one() -> usize {
    1
}

const WORDS: &str = "embeddings.word_embeddings.weight";
const POSITIONS: &str = "embeddings.position_embeddings.weight";
const KINDS: &str = "embeddings.token_type_embeddings.weight";
const BLOCK_TOKENS: usize = 32;
const HEAD_WIDTH_UNIT: usize = 16;
const MAX_SIZE: usize = 1 << 20;
