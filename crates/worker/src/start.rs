//! Starts the kind of worker that a model needs, by the architecture that its files name.

use std::sync::Arc;

use engine::{LoadError, Progress};

use crate::config::{AdapterSettings, WorkerSettings};
use crate::embedding::EmbeddingWorker;
use crate::hosted::Hosted;
use crate::local::{LocalWorker, StartError};

/// Loads the model of `settings`, telling how far it is, and starts a worker for it. Takes as long as loading does, so
/// call it off the network threads.
pub fn start(
    settings: &WorkerSettings,
    progress: &mut dyn FnMut(Progress),
) -> Result<Arc<dyn Hosted>, StartError> {
    let WorkerSettings { model_name, model, adapters, engine, rent, .. } = settings;
    let WorkerSettings { zone, drain_timeout, .. } = settings;
    if let Some(folder) = EmbeddingWorker::folder(model)? {
        refuse(adapters)?;
        let worker = EmbeddingWorker::start(model_name, folder, engine, *rent, progress)?;
        return Ok(Arc::new(worker.placed(zone.clone(), *drain_timeout)));
    }
    let worker = LocalWorker::start(model_name, model, engine.clone(), *rent, progress)?;
    for AdapterSettings { name, folder } in adapters {
        worker.load_adapter(name, folder)?;
    }
    Ok(Arc::new(worker.placed(zone.clone(), *drain_timeout)))
}

/// Vectors are made by the model itself.
fn refuse(adapters: &[AdapterSettings]) -> Result<(), LoadError> {
    let Some(AdapterSettings { name, .. }) = adapters.first() else { return Ok(()) };
    Err(LoadError::Unsupported {
        what: format!("adapter `{name}` of a model that embeds"),
        remedy: "leave it out, or serve a model that makes text".to_owned(),
    })
}
