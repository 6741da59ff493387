//! Chooses the implementation of every port, once, from what was configured.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use admission::{Pepper, Quota, StoreError, Tenants};
use cache::Tier;
use domain::{Clock, Secret};

use crate::{
    JournaledLedger, MemoryCache, MemoryCacheSettings, MemoryQuota, RedisCache, RedisCacheSettings,
    Sqlite,
};

/// Where state is kept.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The directory of the database, the ledger's journal and the pepper.
    pub data: PathBuf,
    /// The response cache in memory; `None` for no response cache at all.
    pub cache: Option<MemoryCacheSettings>,
    /// The Redis behind it, as `redis://host:port`.
    pub redis: Option<Secret<String>>,
}

/// Every store of one gateway.
pub struct Stores {
    /// Who exists.
    pub tenants: Arc<dyn Tenants>,
    /// What happened.
    pub ledger: Arc<JournaledLedger>,
    /// Counters.
    pub quota: Arc<dyn Quota>,
    /// Tiers of the response cache, nearest first; none if it is off.
    pub cache: Vec<Arc<dyn Tier>>,
    /// What keys are hashed with.
    pub pepper: Pepper,
}

/// Opens everything. What an interrupted process left behind is brought in order first.
pub async fn open(settings: &StoreSettings, clock: Arc<dyn Clock>) -> Result<Stores, StoreError> {
    let data = &settings.data;
    std::fs::create_dir_all(data).map_err(|error| StoreError::new("make data directory", error))?;
    let database = Sqlite::open(&data.join(DATABASE)).await?;
    let journal = data.join(JOURNAL);
    let ledger = JournaledLedger::open(&journal, database.clone(), Arc::clone(&clock)).await?;
    let spent = database.spending().await?;
    Ok(Stores {
        tenants: Arc::new(database),
        ledger: Arc::new(ledger),
        quota: Arc::new(MemoryQuota::new(clock, spent)),
        cache: tiers(settings)?,
        pepper: pepper(data)?,
    })
}

/// The tenants alone, for commands that run beside a gateway.
pub async fn tenants(data: &Path) -> Result<Sqlite, StoreError> {
    std::fs::create_dir_all(data).map_err(|error| StoreError::new("make data directory", error))?;
    Sqlite::open(&data.join(DATABASE)).await
}

fn tiers(settings: &StoreSettings) -> Result<Vec<Arc<dyn Tier>>, StoreError> {
    let Some(memory) = settings.cache else { return Ok(Vec::new()) };
    let mut tiers: Vec<Arc<dyn Tier>> = vec![Arc::new(MemoryCache::new(memory))];
    if let Some(address) = &settings.redis {
        let redis = RedisCache::new(address.expose(), RedisCacheSettings::default())
            .map_err(|error| StoreError::new("open response cache", error))?;
        tiers.push(Arc::new(redis));
    }
    Ok(tiers)
}

/// The pepper in `data`, made on first use and readable by its owner only.
pub fn pepper(data: &Path) -> Result<Pepper, StoreError> {
    let path = data.join(PEPPER);
    let failed = |error| StoreError::new("keep pepper", error);
    let fresh = Pepper::generate();
    match OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&path) {
        Ok(mut file) => {
            file.write_all(fresh.expose()).map_err(failed)?;
            Ok(fresh)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let bytes = std::fs::read(&path).map_err(failed)?;
            Pepper::new(bytes).map_err(|error| StoreError::new("read pepper", error))
        }
        Err(error) => Err(failed(error)),
    }
}

const DATABASE: &str = "tollgate.db";
const JOURNAL: &str = "ledger.journal";
const PEPPER: &str = "pepper";
const OWNER_ONLY: u32 = 0o600;
