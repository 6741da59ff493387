//! One engine of a worker, whatever it makes of a prompt: what it serves, how it stands, and how it ends.

use std::path::Path;
use std::sync::Arc;

use domain::{ModelDigest, ModelFiles, ModelInfo, ModelName};
use engine::{
    Embedder, EmbedderConfig, Encoder, Engine, EngineConfig, EngineState, LoadError, Model,
    ModelSource, Progress, Shifts,
};
use proto::ModelLoad;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::local::StartError;

/// A model in memory that no engine runs yet.
pub(crate) enum Weights {
    Text(Box<Model>),
    Vectors(Box<Encoder>),
}

/// A model that an engine runs, and its adapters.
pub(crate) struct Served {
    makes: Makes,
    info: ModelInfo,
    files: ModelFiles,
    /// Who is on it.
    pub(crate) calls: TaskTracker,
}

/// What it makes of a prompt.
enum Makes {
    Text(Engine),
    Vectors {
        embedder: Embedder,
        /// Orders that may be on it, waiting ones included.
        places: u32,
        models: watch::Sender<Arc<[ModelInfo]>>,
    },
}

impl Weights {
    /// Loads a model, telling how far it is. Takes as long as loading does.
    pub(crate) fn load(
        name: &ModelName,
        source: &ModelSource,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, LoadError> {
        if let Some(folder) = embeds(source)? {
            return Ok(Self::Vectors(Box::new(Encoder::load(name.clone(), folder, progress)?)));
        }
        Ok(Self::Text(Box::new(Model::load(name.clone(), source, progress)?)))
    }

    /// What is known of it without running it.
    pub(crate) const fn info(&self) -> &ModelInfo {
        match self {
            Self::Text(model) => model.info(),
            Self::Vectors(encoder) => encoder.info(),
        }
    }

    /// Starts an engine for it, which takes turns with the others of `shifts`.
    pub(crate) fn start(self, config: EngineConfig, shifts: &Shifts) -> Result<Served, StartError> {
        let (makes, info, files) = match self {
            Self::Text(model) => {
                let files = model.files().clone();
                let own_context = model.info().context_length;
                let engine = Engine::start_beside(shifts, *model, config)?;
                let info = engine.info().clone();
                if info.context_length < own_context {
                    tracing::warn!(
                        model = %info.name,
                        context = info.context_length,
                        of = own_context,
                        "the KV cache is smaller than the model's context; a larger `engine.kv_bytes` serves more of it"
                    );
                }
                (Makes::Text(engine), info, files)
            }
            Self::Vectors(encoder) => {
                let info = encoder.info().clone();
                let files = encoder.files().clone();
                let EngineConfig { max_waiting, compute_threads, .. } = config;
                let config = EmbedderConfig { max_waiting, compute_threads };
                let embedder = Embedder::start_beside(shifts, *encoder, config)?;
                let models = watch::Sender::new(Arc::from([info.clone()]));
                let places = max_waiting.saturating_add(1);
                (Makes::Vectors { embedder, places, models }, info, files)
            }
        };
        Ok(Served { makes, info, files, calls: TaskTracker::new() })
    }
}

/// The folder of `source`, if the model in it is one that embeds. Its weights are served as they are: one that is to
/// be quantized is refused.
fn embeds(source: &ModelSource) -> Result<Option<&Path>, LoadError> {
    match source {
        ModelSource::Folder(folder) if Encoder::is_in(folder) => Ok(Some(folder)),
        ModelSource::Quantized { folder: Some(folder), .. } if Encoder::is_in(folder) => {
            Err(LoadError::Unsupported {
                what: "quantizing a model that embeds".to_owned(),
                remedy: "leave `quantize` out".to_owned(),
            })
        }
        _ => Ok(None),
    }
}

impl Served {
    /// The model itself, without its adapters.
    pub(crate) const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What turns text into its tokens and back; adapters have the same.
    pub(crate) const fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// The engine, if it makes text.
    pub(crate) const fn engine(&self) -> Option<&Engine> {
        match &self.makes {
            Makes::Text(engine) => Some(engine),
            Makes::Vectors { .. } => None,
        }
    }

    /// What makes vectors, if it does.
    pub(crate) const fn embedder(&self) -> Option<&Embedder> {
        match &self.makes {
            Makes::Text(_) => None,
            Makes::Vectors { embedder, .. } => Some(embedder),
        }
    }

    /// The model and then its adapters, now and whenever that changes.
    pub(crate) fn models(&self) -> watch::Receiver<Arc<[ModelInfo]>> {
        match &self.makes {
            Makes::Text(engine) => engine.models(),
            Makes::Vectors { models, .. } => models.subscribe(),
        }
    }

    /// What goes by this name of it.
    pub(crate) fn called(&self, name: &ModelName) -> Option<ModelInfo> {
        self.models().borrow().iter().find(|info| info.name == *name).cloned()
    }

    /// Whether it serves this version.
    pub(crate) fn serves(&self, model: &ModelDigest) -> bool {
        self.models().borrow().iter().any(|info| info.digest == *model)
    }

    /// Its reports.
    pub(crate) fn states(&self) -> watch::Receiver<EngineState> {
        match &self.makes {
            Makes::Text(engine) => engine.watch(),
            Makes::Vectors { embedder, .. } => embedder.watch(),
        }
    }

    /// Orders that may be on it, if it keeps no blocks.
    pub(crate) const fn places(&self) -> Option<u32> {
        match &self.makes {
            Makes::Text(_) => None,
            Makes::Vectors { places, .. } => Some(*places),
        }
    }

    /// Takes nothing new.
    pub(crate) fn drain(&self) {
        match &self.makes {
            Makes::Text(engine) => engine.drain(),
            Makes::Vectors { embedder, .. } => embedder.drain(),
        }
    }

    /// Ends it, and gives its memory back: waits for the step that runs.
    pub(crate) fn shut_down(&self) {
        match &self.makes {
            Makes::Text(engine) => engine.shutdown(),
            Makes::Vectors { embedder, .. } => embedder.shutdown(),
        }
    }
}

/// How it stands with what reports `state`; `places` are those of one that keeps no blocks.
pub(crate) fn load(state: &EngineState, places: Option<u32>) -> ModelLoad {
    // It keeps no blocks; what bounds it is how many orders may be on it.
    let taken = state.running.saturating_add(state.waiting);
    ModelLoad {
        free_blocks: places.map_or(state.free_blocks, |places| places.saturating_sub(taken)),
        total_blocks: places.unwrap_or(state.total_blocks),
        running: state.running,
        waiting: state.waiting,
        block_tokens: state.block_tokens,
        block_bytes: state.block_bytes,
        running_tokens: state.running_tokens,
        waiting_tokens: state.waiting_tokens,
        first_token_in: state.first_token_in(),
        prompt_token_time: state.prompt_token_time,
        step_time: state.step_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_embeds_is_known_by_its_folder_and_served_as_it_is() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests");
        let folder = root.join("encoders/bert");
        let source = ModelSource::Folder(folder.clone());
        assert_eq!(embeds(&source).unwrap(), Some(folder.as_path()));
        assert_eq!(embeds(&ModelSource::Demo).unwrap(), None);
        let quantization = engine::Quantization::Q8;
        let quantized = ModelSource::Quantized { folder: Some(folder), quantization };
        let refused = embeds(&quantized).unwrap_err().to_string();
        assert!(refused.contains("`quantize`"), "{refused}");
    }
}
