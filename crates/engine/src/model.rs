//! A model in memory: weights that can run, and what is known about them.

use domain::{ModelFiles, ModelInfo, ModelKind, ModelName};

use crate::models::{self, Decoder, Design, Shape};
use crate::{LoadError, ModelSource, checkpoint};

/// A loaded model.
pub struct Model {
    decoder: Box<dyn Decoder>,
    design: &'static Design,
    info: ModelInfo,
    files: ModelFiles,
}

/// How far loading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Parts loaded: layers, and one for the rest.
    pub loaded: u32,
    /// All parts.
    pub total: u32,
}

impl Model {
    /// Loads a model and calls it `name`; `progress` hears of every layer.
    pub fn load(
        name: ModelName,
        source: &ModelSource,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, LoadError> {
        let mut opened = checkpoint::open(source)?;
        let design = models::find(&opened.architecture)?;
        let decoder = models::load(design, opened.checkpoint.as_mut(), &opened.shape, progress)?;
        let info = ModelInfo {
            name,
            digest: opened.digest,
            context_length: opened.shape.context,
            vocabulary: opened.shape.vocabulary as u32,
            stop_tokens: opened.stop_tokens,
            weights: opened.weights,
            kind: ModelKind::Text,
        };
        Ok(Self { decoder, design, info, files: opened.files })
    }

    /// What is known of it without running it.
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What turns text into its tokens and back.
    pub const fn files(&self) -> &ModelFiles {
        &self.files
    }

    pub(crate) const fn design(&self) -> &'static Design {
        self.design
    }

    pub(crate) fn shape(&self) -> &Shape {
        self.decoder.shape()
    }

    /// The same model, its decoder wrapped in another.
    #[cfg(test)]
    pub(crate) fn wrapped(self, wrap: impl FnOnce(Box<dyn Decoder>) -> Box<dyn Decoder>) -> Self {
        Self { decoder: wrap(self.decoder), ..self }
    }

    pub(crate) fn into_parts(self) -> (Box<dyn Decoder>, ModelInfo) {
        (self.decoder, self.info)
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("info", &self.info).finish_non_exhaustive()
    }
}
