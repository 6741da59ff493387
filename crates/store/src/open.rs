//! Chooses the implementation of every port, once, from what was configured.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use admission::bank::Bank;
use admission::tenancy::Tenants;
use admission::{Pepper, SliceSettings, SlicedQuota, Slices, StoreError};
use cache::Tier;
use domain::{Clock, GatewayId, Secret};

use crate::private::{self, OWNER_ONLY};
use crate::seats::{self, Seat};
use crate::{
    Database, DatabaseAddress, JournaledLedger, MemoryBank, MemoryCache, MemoryCacheSettings,
    RedisBank, RedisBankSettings, RedisCache, RedisCacheSettings,
};

/// Where state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// The directory of the ledger's journal, and of what is not configured to be elsewhere. One gateway each.
    pub data: PathBuf,
    /// A PostgreSQL that gateways share; absent means SQLite in `data`.
    pub postgres: Option<Secret<String>>,
    /// A Redis that gateways share: quotas, and the second tier of the response cache; absent means memory.
    pub redis: Option<Secret<String>>,
    /// What keys are hashed with; absent means a file in `data`, made at first use.
    pub pepper_file: Option<PathBuf>,
    /// The response cache in memory; `None` for no response cache at all.
    pub cache: Option<MemoryCacheSettings>,
    /// How quotas are shared.
    pub slices: SliceSettings,
}

/// Every store of one gateway.
pub struct Stores {
    /// Which gateway this is.
    pub gateway: GatewayId,
    /// Tenants, rows and sums.
    pub database: Database,
    /// Who exists.
    pub tenants: Arc<dyn Tenants>,
    /// What happened.
    pub ledger: Arc<JournaledLedger>,
    /// Counters.
    pub quota: Arc<SlicedQuota>,
    /// Tiers of the response cache, nearest first; none if it is off.
    pub cache: Vec<Arc<dyn Tier>>,
    /// What keys are hashed with.
    pub pepper: Pepper,
    presence: Presence,
    neighbours: Option<Neighbours>,
}

/// Where other gateways could meet this one.
enum Presence {
    /// Nowhere: the database is its own.
    Alone,
    /// On a database that others could use as well.
    OnDatabase(Arc<dyn Clock>),
    /// At the bank they share.
    AtBank(Arc<RedisBank>),
}

/// The other seats of this data directory.
struct Neighbours {
    own: usize,
    settings: StoreSettings,
    database: Database,
    clock: Arc<dyn Clock>,
}

impl Stores {
    /// Moves rows to the database, tells the bank how things stand, and other gateways that this one is here.
    /// Runs until dropped.
    pub async fn run(&self) {
        let presence = async {
            match &self.presence {
                Presence::Alone => std::future::pending().await,
                Presence::OnDatabase(clock) => self.greet(clock.as_ref()).await,
                Presence::AtBank(bank) => bank.run().await,
            }
        };
        let neighbours = async {
            match &self.neighbours {
                Some(neighbours) => neighbours.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(self.ledger.run(), self.quota.run(), presence, neighbours);
    }

    /// Keeps other gateways from using the same database without sharing quotas.
    async fn greet(&self, clock: &dyn Clock) {
        let mut ticks = tokio::time::interval(COMPANY / 5);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.database.greet(self.gateway, clock.now()).await {
                tracing::debug!(error = ?error, "database not greeted");
            }
        }
    }
}

/// Opens everything. What an interrupted process left behind is brought in order first.
pub async fn open(settings: &StoreSettings, clock: Arc<dyn Clock>) -> Result<Stores, StoreError> {
    let data = &settings.data;
    make_directory(data)?;
    let database = Database::open(&settings.address()).await?;
    let seat = seats::take(data, settings.seats(), &database, &clock).await?;
    let Seat { number: seat, gateway, ledger } = seat;
    let ledger = Arc::new(ledger);
    let (bank, presence) = bank(settings, gateway, &database, &clock).await?;
    let neighbours = settings.shares_quotas().then(|| Neighbours {
        own: seat,
        settings: settings.clone(),
        database: database.clone(),
        clock: Arc::clone(&clock),
    });
    let quota = quota(settings, gateway, bank, &ledger, clock);
    Ok(Stores {
        neighbours,
        gateway,
        tenants: Arc::new(database.clone()),
        database,
        ledger,
        quota: Arc::new(quota),
        cache: tiers(settings)?,
        pepper: settings.pepper()?,
        presence,
    })
}

impl StoreSettings {
    /// The database alone, for commands that run beside a gateway.
    pub async fn database(&self) -> Result<Database, StoreError> {
        make_directory(&self.data)?;
        Database::open(&self.address()).await
    }

    /// What keys are hashed with.
    pub fn pepper(&self) -> Result<Pepper, StoreError> {
        if let Some(file) = &self.pepper_file {
            return read_pepper(file);
        }
        make_directory(&self.data)?;
        own_pepper(&self.data.join(PEPPER))
    }

    /// Whether several gateways can count on the same quotas: then two processes may run in one data directory.
    pub const fn shares_quotas(&self) -> bool {
        self.redis.is_some()
    }

    /// How many processes may sit in the data directory at a time.
    const fn seats(&self) -> usize {
        if self.shares_quotas() { SEATS } else { 1 }
    }

    fn address(&self) -> DatabaseAddress {
        match &self.postgres {
            Some(url) => DatabaseAddress::Postgres(url.clone()),
            None => DatabaseAddress::Sqlite(self.data.join(DATABASE)),
        }
    }
}

fn quota(
    settings: &StoreSettings,
    gateway: GatewayId,
    bank: Arc<dyn Bank>,
    ledger: &Arc<JournaledLedger>,
    clock: Arc<dyn Clock>,
) -> SlicedQuota {
    // Message numbers grow over restarts, as time does.
    let first_message = clock.now().millis().saturating_mul(MESSAGES_PER_MILLI);
    let slices = Slices::new(gateway, first_message, settings.slices);
    SlicedQuota::new(slices, bank, Arc::clone(ledger) as _, clock)
}

impl Neighbours {
    /// Brings in order what died in other seats, until dropped.
    async fn run(&self) {
        let mut ticks = tokio::time::interval(NEIGHBOURS_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.settle().await {
                tracing::warn!(error = ?error, "another seat's journal is not settled yet");
            }
        }
    }

    /// Turns what was open in seats that nobody sits in into rows, and tells the bank that nothing is held there.
    async fn settle(&self) -> Result<(), StoreError> {
        let Self { own, settings, database, clock } = self;
        for number in (0..settings.seats()).filter(|number| number != own) {
            if !seats::journal(&settings.data, number).exists() {
                continue;
            }
            let seat = seats::take_one(&settings.data, number, database, clock).await?;
            let Some(Seat { gateway, ledger, .. }) = seat else { continue };
            let ledger = Arc::new(ledger);
            let (bank, _) = bank(settings, gateway, database, clock).await?;
            let told = Arc::clone(&bank);
            quota(settings, gateway, bank, &ledger, Arc::clone(clock)).state().await;
            if !told.callers().is_empty() {
                return Err(StoreError::new("tell the bank what is not held", "it is silent"));
            }
            if let Ok(ledger) = Arc::try_unwrap(ledger) {
                ledger.remove()?;
            }
            tracing::info!(%gateway, "what a gateway left behind is in order");
        }
        Ok(())
    }
}

async fn bank(
    settings: &StoreSettings,
    gateway: GatewayId,
    database: &Database,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<dyn Bank>, Presence), StoreError> {
    let Some(address) = &settings.redis else {
        let mut presence = Presence::Alone;
        if settings.postgres.is_some() {
            refuse_company(database, gateway, clock.as_ref()).await?;
            presence = Presence::OnDatabase(Arc::clone(clock));
        }
        return Ok((Arc::new(MemoryBank::new(Arc::clone(clock))), presence));
    };
    let (database, clock) = (database.clone(), Arc::clone(clock));
    let bank =
        RedisBank::new(address.expose(), gateway, database, clock, RedisBankSettings::default())
            .map_err(|error| StoreError::new("open bank of quotas", error))?;
    let bank = Arc::new(bank);
    bank.greet().await?;
    Ok((Arc::clone(&bank) as _, Presence::AtBank(bank)))
}

/// Gateways on one database must share their quotas.
async fn refuse_company(
    database: &Database,
    gateway: GatewayId,
    clock: &dyn Clock,
) -> Result<(), StoreError> {
    let now = clock.now();
    let others = database.others_seen_since(gateway, now, COMPANY).await?;
    if others > 0 {
        let problem = "another gateway uses this database; set `redis`, so that quotas are shared";
        return Err(StoreError::new("open bank of quotas", problem));
    }
    database.greet(gateway, now).await.map(drop)
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

fn make_directory(path: &Path) -> Result<(), StoreError> {
    private::directory(path).map_err(|error| StoreError::new("make data directory", error))
}

/// The pepper at `path`, made on first use and readable by its owner only.
fn own_pepper(path: &Path) -> Result<Pepper, StoreError> {
    let bytes = keep(path, Pepper::generate().expose())
        .map_err(|error| StoreError::new("keep pepper", error))?;
    Pepper::new(bytes).map_err(|error| StoreError::new("read pepper", error))
}

/// A pepper that several gateways share, and that somebody else made.
fn read_pepper(path: &Path) -> Result<Pepper, StoreError> {
    let bytes = std::fs::read(path)
        .map_err(|error| StoreError::new("read pepper", format!("{}: {error}", path.display())))?;
    Pepper::new(bytes).map_err(|error| StoreError::new("read pepper", error))
}

/// What is in the file at `path`; `fresh` if there is none yet, which is then kept there.
pub(crate) fn keep(path: &Path, fresh: &[u8]) -> std::io::Result<Vec<u8>> {
    match OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path) {
        Ok(mut file) => {
            file.write_all(fresh)?;
            Ok(fresh.to_vec())
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => std::fs::read(path),
        Err(error) => Err(error),
    }
}

const DATABASE: &str = "tollgate.db";
const PEPPER: &str = "pepper";
/// One that serves, and those that still end what runs after upgrades.
const SEATS: usize = 4;
const NEIGHBOURS_INTERVAL: Duration = Duration::from_secs(10);
/// A gateway sends far fewer.
const MESSAGES_PER_MILLI: u64 = 1_000;
/// A gateway that was seen within so long runs.
const COMPANY: Duration = Duration::from_secs(10);
