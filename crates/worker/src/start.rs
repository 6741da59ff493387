//! Starts a worker as its configuration says.

use std::sync::Arc;

use engine::{ModelSource, Progress};

use crate::config::{AdapterSettings, ModelSettings, WorkerSettings};
use crate::local::{LocalWorker, StartError};
use crate::memory::{Needs, available};

/// Loads the models of `settings`, telling how far each is, and starts a worker for them. Takes as long as loading does, so
/// call it off the network threads.
pub fn start(
    settings: &WorkerSettings,
    progress: &mut dyn FnMut(&str, Progress),
) -> Result<Arc<LocalWorker>, StartError> {
    let WorkerSettings { model_name, model, beside, adapters, engine, rent, .. } = settings;
    let WorkerSettings { zone, drain_timeout, load_folder, .. } = settings;
    let mut of_first = |far| progress(model_name, far);
    // All are looked at before the first is loaded: its cache must leave room for what comes after it.
    let sources: Vec<&ModelSource> =
        [model].into_iter().chain(beside.iter().map(|one| &one.source)).collect();
    let mut needs = Needs::of_all(&sources, engine, available(0)).into_iter();
    let mut next = || needs.next().unwrap_or_default();
    let first = (model_name.as_str(), model);
    let worker = LocalWorker::start_taking(next(), first, engine.clone(), *rent, &mut of_first)?;
    for ModelSettings { name, source } in beside {
        worker.add_taking(next(), name, source, &mut |far| progress(name, far))?;
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
