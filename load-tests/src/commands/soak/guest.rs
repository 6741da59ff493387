//! Adapters of the demo model that a soak asks for: one that stays, and one that is unloaded and loaded again.

use std::path::PathBuf;
use std::sync::Arc;

use domain::ModelDigest;
use worker::LocalWorker;

/// The adapter that comes and goes.
pub(super) struct Guest {
    worker: Arc<LocalWorker>,
    digest: ModelDigest,
    there: bool,
}

/// Loads the adapter that stays.
pub(super) fn stays(worker: &LocalWorker) -> anyhow::Result<()> {
    worker.load_adapter("demo-at-home", &folder("demo"))?;
    Ok(())
}

impl Guest {
    /// Loads it for the first time.
    pub(super) fn arrives(worker: Arc<LocalWorker>) -> anyhow::Result<Self> {
        let digest = worker.load_adapter(NAME, &folder(FOLDER))?.digest;
        Ok(Self { worker, digest, there: true })
    }

    /// What sequences ask for; nobody has it while it is away.
    pub(super) const fn digest(&self) -> &ModelDigest {
        &self.digest
    }

    /// Leaves if it is there, and comes back if it is not. Reading its files takes about a millisecond.
    pub(super) fn turn(&mut self) -> anyhow::Result<()> {
        if self.there {
            anyhow::ensure!(self.worker.unload_adapter(NAME), "the guest had gone by itself");
        } else {
            let digest = self.worker.load_adapter(NAME, &folder(FOLDER))?.digest;
            anyhow::ensure!(digest == self.digest, "the guest came back as somebody else");
        }
        self.there = !self.there;
        Ok(())
    }
}

/// Those that the engine's tests hold against PEFT.
fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/engine/tests/adapters"))
        .join(name)
}

const NAME: &str = "demo-guest";
const FOLDER: &str = "demo-other";
