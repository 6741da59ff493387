//! Adapters of the demo model that a soak asks for: one that stays, and one that is unloaded and loaded again.

use std::path::PathBuf;
use std::sync::Arc;

use domain::{ModelDigest, ModelName};
use proto::Worker as _;
use worker::LocalWorker;

/// The adapter that comes and goes.
pub(super) struct Guest {
    worker: Arc<LocalWorker>,
    digest: ModelDigest,
    there: bool,
}

/// Loads the adapter that stays.
pub(super) fn stays(worker: &LocalWorker) -> anyhow::Result<()> {
    worker.load_adapter(worker.info().name.as_str(), "demo-at-home", &folder("demo"))?;
    Ok(())
}

impl Guest {
    /// Loads it for the first time.
    pub(super) fn arrives(worker: Arc<LocalWorker>) -> anyhow::Result<Self> {
        let digest = loaded(&worker)?;
        Ok(Self { worker, digest, there: true })
    }

    /// What sequences ask for; nobody has it while it is away.
    pub(super) const fn digest(&self) -> &ModelDigest {
        &self.digest
    }

    /// Leaves if it is there, and comes back if it is not. Reading its files takes about a millisecond.
    pub(super) async fn turn(&mut self) -> anyhow::Result<()> {
        if self.there {
            self.worker.unload(&ModelName::new(NAME), None).await?;
        } else {
            let digest = loaded(&self.worker)?;
            anyhow::ensure!(digest == self.digest, "the guest came back as somebody else");
        }
        self.there = !self.there;
        Ok(())
    }
}

fn loaded(worker: &LocalWorker) -> anyhow::Result<ModelDigest> {
    Ok(worker.load_adapter(worker.info().name.as_str(), NAME, &folder(FOLDER))?.digest)
}

/// Those that the engine's tests hold against PEFT.
fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/engine/tests/adapters"))
        .join(name)
}

const NAME: &str = "demo-guest";
const FOLDER: &str = "demo-other";
