//! The adapters of an engine, by name and by digest.
//!
//! Promise: a sequence has its adapter until it ends, whatever is unloaded meanwhile; the memory is given back
//! with the last of them. No step waits for a file.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{ModelDigest, ModelInfo, ModelName};
use tokio::sync::watch;

use crate::LoadError;
use crate::adapter::{Adapter, Base};

/// What is loaded beside a base.
pub(crate) struct Adapters {
    base: Base,
    loaded: Mutex<Vec<Arc<Adapter>>>,
    models: watch::Sender<Arc<[ModelInfo]>>,
}

impl Adapters {
    /// None yet.
    pub(crate) fn new(base: Base) -> Self {
        let models = watch::Sender::new(Arc::from([base.info().clone()]));
        Self { base, loaded: Mutex::default(), models }
    }

    /// The base and then its adapters, now and whenever that changes.
    pub(crate) fn models(&self) -> watch::Receiver<Arc<[ModelInfo]>> {
        self.models.subscribe()
    }

    /// Loads the adapter in `folder`. The same one by the same name changes nothing.
    pub(crate) fn load(&self, name: ModelName, folder: &Path) -> Result<ModelInfo, LoadError> {
        let adapter = Adapter::load(name, folder, &self.base)?;
        let info = adapter.info().clone();
        let mut loaded = self.lock();
        let others = loaded.iter().map(|one| one.info()).chain([self.base.info()]);
        let digest =
            others.into_iter().find(|other| other.name == info.name).map(|other| &other.digest);
        if let Some(digest) = digest {
            return if *digest == info.digest { Ok(info) } else { Err(taken(&info.name)) };
        }
        if loaded.len() >= MAX_ADAPTERS {
            return Err(LoadError::Unsupported {
                what: format!("adapter number {}", MAX_ADAPTERS + 1),
                remedy: "unload another one before".to_owned(),
            });
        }
        loaded.push(Arc::new(adapter));
        self.tell(&loaded);
        Ok(info)
    }

    /// Unloads the adapter of this name: it is there for no new sequence. Whether there was one.
    pub(crate) fn unload(&self, name: &ModelName) -> bool {
        let mut loaded = self.lock();
        let before = loaded.len();
        loaded.retain(|adapter| adapter.info().name != *name);
        if loaded.len() == before {
            return false;
        }
        self.tell(&loaded);
        true
    }

    /// The adapter of this digest.
    pub(crate) fn find(&self, digest: &ModelDigest) -> Option<Arc<Adapter>> {
        self.lock().iter().find(|adapter| adapter.info().digest == *digest).cloned()
    }

    fn tell(&self, loaded: &[Arc<Adapter>]) {
        let adapters = loaded.iter().map(|adapter| adapter.info());
        let models = [self.base.info()].into_iter().chain(adapters).cloned();
        self.models.send_replace(models.collect());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Adapter>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Adapters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapters").finish_non_exhaustive()
    }
}

fn taken(name: &ModelName) -> LoadError {
    LoadError::Unsupported {
        what: format!("a second model of the name `{name}`"),
        remedy: "unload the first, or give this one another name".to_owned(),
    }
}

/// Every one of them is told to every gateway.
const MAX_ADAPTERS: usize = 256;
