//! Models that turn a text into one vector: BERT and its descendants.
//!
//! An [`Encoder`] reads a whole text at once, tokens attending what comes before and after them, and pools what
//! comes out.
//!
//! Promise: a text's vector depends on the text and the weights alone, bit for bit: texts are read one at a
//! time, by operations whose rows do not depend on each other.

mod bert;
mod modern_bert;
mod nomic_bert;
mod parts;

use std::path::Path;

use domain::{ModelFiles, ModelInfo, ModelKind, ModelName};
use serde::Deserialize;

use crate::LoadError;
use crate::checkpoint::{self, Folder};
use crate::model::Progress;
use crate::ops::Pool;

/// Architectures by the name that a model's files give.
static ARCHITECTURES: &[(&str, Load)] = &[
    ("BertModel", |folder, progress| bert::load(bert::BERT, folder, progress)),
    ("ModernBertModel", modern_bert::load),
    ("NomicBertModel", nomic_bert::load),
    ("RobertaModel", |folder, progress| bert::load(bert::ROBERTA, folder, progress)),
    ("XLMRobertaModel", |folder, progress| bert::load(bert::ROBERTA, folder, progress)),
];

/// Reads the weights of one architecture; the second argument hears of every layer.
type Load = fn(&mut Folder, &mut dyn FnMut(Progress)) -> Result<Box<dyn Network>, LoadError>;

/// The layers of a model.
trait Network: Send + Sync {
    fn size(&self) -> Size;

    /// What comes out for each token, `[tokens, width]`, of at least one token.
    fn forward(&self, tokens: &[u32], pool: &Pool) -> candle_core::Result<Vec<f32>>;
}

/// What a network reads and makes.
struct Size {
    /// Tokens of the longest text.
    max_tokens: u32,
    vocabulary: u32,
    /// Numbers of a token's vector.
    width: u32,
}

/// A loaded model that embeds.
pub struct Encoder {
    network: Box<dyn Network>,
    pooling: Pooling,
    normalised: bool,
    info: ModelInfo,
    files: ModelFiles,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    /// The first one.
    First,
    /// Their mean.
    Mean,
}

/// What we read of `1_Pooling/config.json`.
#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
}

/// What we read of an entry in `modules.json`.
#[derive(Deserialize)]
struct Module {
    r#type: String,
}

impl Encoder {
    /// Whether the model in `folder` is one that embeds.
    pub fn is_in(folder: &Path) -> bool {
        let known =
            |architecture: &str| ARCHITECTURES.iter().any(|(name, _)| *name == architecture);
        checkpoint::architecture_of(folder).is_ok_and(|architecture| known(&architecture))
    }

    /// Loads the model in `folder`, in the layout of Hugging Face and `sentence-transformers`, and calls it
    /// `name`; `progress` hears of every layer.
    pub fn load(
        name: ModelName,
        folder: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, LoadError> {
        let mut opened = Folder::open(folder)?;
        let architecture = checkpoint::architecture_of(folder)?;
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
        let Some((_, load)) = known else {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
            return Err(LoadError::Unsupported {
                what: format!("architecture `{architecture}` for embeddings"),
                remedy: format!("use a model of one of: {}", known.join(", ")),
            });
        };
        let (pooling, normalised) = pooling(folder, &mut opened)?;
        let network = load(&mut opened, progress)?;
        let Size { max_tokens, vocabulary, width } = network.size();
        let info = ModelInfo {
            name,
            digest: opened.digest(),
            context_length: max_tokens,
            vocabulary,
            stop_tokens: Vec::new(),
            weights: opened.weights_name(),
            kind: ModelKind::Embedding { dimensions: width },
        };
        Ok(Self { network, pooling, normalised, info, files: opened.into_files() })
    }

    /// What is known of it without running it.
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What turns text into its tokens.
    pub const fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// The vector of a text: at least one token, at most as many as the model reads, all in its vocabulary.
    pub(crate) fn embed(&self, tokens: &[u32], pool: &Pool) -> candle_core::Result<Vec<f32>> {
        let rows = self.network.forward(tokens, pool)?;
        let width = rows.len() / tokens.len();
        let mut vector = match self.pooling {
            Pooling::First => rows[..width].to_vec(),
            Pooling::Mean => mean(&rows, width),
        };
        if self.normalised {
            let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let length = length.max(SHORTEST);
            for x in &mut vector {
                *x = (f64::from(*x) / length) as f32;
            }
        }
        Ok(vector)
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("info", &self.info).finish_non_exhaustive()
    }
}

fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; width];
    for row in rows.chunks_exact(width) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += f64::from(*x);
        }
    }
    let count = (rows.len() / width) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// How vectors are pooled, and whether they are brought to length 1: as `sentence-transformers` files say, else
/// the mean, of length 1.
fn pooling(folder: &Path, opened: &mut Folder) -> Result<(Pooling, bool), LoadError> {
    let modules = opened.read_if_there(folder, "modules.json")?;
    let modules: Vec<Module> = modules.map_or(Ok(Vec::new()), |bytes| {
        serde_json::from_slice(&bytes).map_err(|error| malformed("modules.json", &error))
    })?;
    let normalised =
        modules.is_empty() || modules.iter().any(|one| one.r#type.ends_with("Normalize"));
    if let Some(other) = modules.iter().find(|one| one.r#type.ends_with("Dense")) {
        return Err(LoadError::Unsupported {
            what: format!("module `{}`", other.r#type),
            remedy: "use a model without a projection after its pooling".to_owned(),
        });
    }
    let Some(bytes) = opened.read_if_there(folder, "1_Pooling/config.json")? else {
        return Ok((Pooling::Mean, normalised));
    };
    let config: PoolingConfig = serde_json::from_slice(&bytes)
        .map_err(|error| malformed("1_Pooling/config.json", &error))?;
    let pooling = match (config.pooling_mode_cls_token, config.pooling_mode_mean_tokens) {
        (true, false) => Pooling::First,
        (false, true) => Pooling::Mean,
        _ => {
            return Err(LoadError::Unsupported {
                what: "this way of pooling".to_owned(),
                remedy: "use a model that pools by its first token or by the mean".to_owned(),
            });
        }
    };
    Ok((pooling, normalised))
}

fn malformed(what: &str, problem: &impl ToString) -> LoadError {
    LoadError::Malformed { what: what.to_owned(), problem: problem.to_string() }
}

/// A vector of nothing keeps its length.
const SHORTEST: f64 = 1e-12;

#[cfg(test)]
mod tests;
