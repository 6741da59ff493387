//! Starts the kind of worker that a model needs, by the architecture that its files name.

use std::sync::Arc;

use engine::Progress;

use crate::config::WorkerSettings;
use crate::embedding::EmbeddingWorker;
use crate::hosted::Hosted;
use crate::local::{LocalWorker, StartError};

/// Loads the model of `settings`, telling how far it is, and starts a worker for it. Takes as long as loading does, so
/// call it off the network threads.
pub fn start(
    settings: &WorkerSettings,
    progress: &mut dyn FnMut(Progress),
) -> Result<Arc<dyn Hosted>, StartError> {
    let WorkerSettings { model_name, model, engine, rent, zone, drain_timeout, .. } = settings;
    if let Some(folder) = EmbeddingWorker::folder(model)? {
        let worker = EmbeddingWorker::start(model_name, folder, engine, *rent, progress)?;
        return Ok(Arc::new(worker.placed(zone.clone(), *drain_timeout)));
    }
    let worker = LocalWorker::start(model_name, model, engine.clone(), *rent, progress)?;
    Ok(Arc::new(worker.placed(zone.clone(), *drain_timeout)))
}
