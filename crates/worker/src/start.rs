//! Starts a worker as its configuration says.

use std::sync::Arc;

use engine::Progress;

use crate::config::{AdapterSettings, ModelSettings, WorkerSettings};
use crate::local::{LocalWorker, StartError};

/// Loads the models of `settings`, telling how far each is, and starts a worker for them. Takes as long as loading does, so
/// call it off the network threads.
pub fn start(
    settings: &WorkerSettings,
    progress: &mut dyn FnMut(&str, Progress),
) -> Result<Arc<LocalWorker>, StartError> {
    let WorkerSettings { model_name, model, beside, adapters, engine, rent, .. } = settings;
    let WorkerSettings { zone, drain_timeout, load_folder, .. } = settings;
    let mut of_first = |far| progress(model_name, far);
    let worker = LocalWorker::start(model_name, model, engine.clone(), *rent, &mut of_first)?;
    for ModelSettings { name, source } in beside {
        worker.add(name, source, &mut |far| progress(name, far))?;
    }
    for AdapterSettings { name, folder, of } in adapters {
        worker.load_adapter(of, name, folder)?;
    }
    let worker = worker.placed(zone.clone(), *drain_timeout);
    Ok(Arc::new(match load_folder {
        Some(folder) => worker.loading_from(folder.clone()),
        None => worker,
    }))
}
