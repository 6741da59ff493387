//! The ledger's write-ahead log: durable in microseconds, in the database soon after.
//!
//! Every admitted request is appended to a local file before it is dispatched, and again when it
//! is closed; a killed process loses neither, as the kernel has them. A background task moves
//! closed requests into the database in batches. When a process starts on a journal it did not
//! close itself, requests that were open become rows with the outcome `interrupted`.
//!
//! The file is a sequence of records: length (u32, little endian), CRC-32 of the payload (u32,
//! little endian), payload (JSON). A torn record at the end is what a crash leaves; it is cut off.
//! The file is rewritten with what is still live when it has grown past [`COMPACT_BYTES`].

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admission::bank::Founding;
use admission::{Admitted, Books, Claim, Entry, Ledger, Outcome, Quantity, StoreError};
use async_trait::async_trait;
use domain::{Charge, Clock, HoldId, NanoUsd, OrganizationId, Usage};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{Database, private};

/// A ledger that is durable locally at once and in the database soon.
pub struct JournaledLedger {
    database: Database,
    journal: Mutex<Journal>,
    closed_some: Notify,
    flushing: tokio::sync::Mutex<()>,
}

#[derive(Serialize, Deserialize)]
enum Record {
    Opened(Admitted),
    Closed(Entry),
}

/// The file, and what in it is still live.
struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    open: HashMap<HoldId, Admitted>,
    pending: Vec<Entry>,
}

impl JournaledLedger {
    /// Opens the journal at `path`, closes what an earlier process left open, and brings the
    /// database up to date.
    ///
    /// One process at a time may have a journal open; a second one is refused.
    pub async fn open(
        path: &Path,
        database: Database,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let opened = Self::open_if_free(path, database, clock).await?;
        opened.ok_or_else(|| {
            let problem = format!("{} is in use by another process", path.display());
            StoreError::new("open ledger journal", problem)
        })
    }

    /// Like [`Self::open`]; `None` if another process has the journal open.
    pub(crate) async fn open_if_free(
        path: &Path,
        database: Database,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>, StoreError> {
        let journal =
            Journal::open(path).map_err(|error| StoreError::new("open ledger journal", error))?;
        let Some(mut journal) = journal else { return Ok(None) };
        let interrupted = journal.close_all(clock.as_ref());
        if interrupted > 0 {
            tracing::warn!(
                requests = interrupted,
                "requests were interrupted by the last shutdown"
            );
        }
        let ledger = Self {
            database,
            journal: Mutex::new(journal),
            closed_some: Notify::new(),
            flushing: tokio::sync::Mutex::new(()),
        };
        ledger.flush().await?;
        ledger.with_journal(Journal::compact).map_err(rewriting)?;
        Ok(Some(ledger))
    }

    /// Removes the file, which holds nothing that is not in the database, and ends.
    pub(crate) fn remove(self) -> Result<(), StoreError> {
        let removing = |error| StoreError::new("remove ledger journal", error);
        self.with_journal(|journal| std::fs::remove_file(&journal.path)).map_err(removing)
    }

    /// Moves closed requests to the database until it is dropped.
    pub async fn run(&self) {
        loop {
            self.closed_some.notified().await;
            // Let a batch gather: one transaction for many rows.
            tokio::time::sleep(GATHER).await;
            if let Err(error) = self.flush().await {
                tracing::warn!(error = ?error, "ledger rows stay in the journal for now");
                tokio::time::sleep(PAUSE).await;
                self.closed_some.notify_one();
            }
        }
    }

    /// Moves everything closed so far to the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.flushing.lock().await;
        loop {
            let batch = self.with_journal(|journal| {
                let batch = journal.pending.len().min(BATCH_ROWS);
                journal.pending[..batch].to_vec()
            });
            if batch.is_empty() {
                return Ok(());
            }
            self.database.append(&batch).await?;
            self.with_journal(|journal| {
                journal.pending.drain(..batch.len());
                if journal.bytes > COMPACT_BYTES { journal.compact() } else { Ok(()) }
            })
            .map_err(rewriting)?;
        }
    }

    fn with_journal<T>(&self, use_it: impl FnOnce(&mut Journal) -> T) -> T {
        use_it(&mut self.journal.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn rewriting(error: std::io::Error) -> StoreError {
    StoreError::new("rewrite ledger journal", error)
}

#[async_trait]
impl Ledger for JournaledLedger {
    async fn open(&self, admitted: &Admitted) -> Result<(), StoreError> {
        self.with_journal(|journal| {
            if journal.pending.len() >= MAX_PENDING {
                return Err(StoreError::new(
                    "admit request",
                    "the database has been unreachable for too long, and the ledger journal is full",
                ));
            }
            let record = Record::Opened(admitted.clone());
            journal.write(&record).map_err(|error| StoreError::new("write ledger journal", error))?;
            journal.open.insert(admitted.hold, admitted.clone());
            Ok(())
        })
    }

    async fn close(&self, entry: &Entry) -> Result<(), StoreError> {
        self.with_journal(|journal| {
            if !journal.open.contains_key(&entry.admitted.hold) {
                return Ok(()); // closed before: once is enough
            }
            let record = Record::Closed(entry.clone());
            journal
                .write(&record)
                .map_err(|error| StoreError::new("write ledger journal", error))?;
            journal.open.remove(&entry.admitted.hold);
            journal.pending.push(entry.clone());
            Ok(())
        })?;
        self.closed_some.notify_one();
        Ok(())
    }
}

#[async_trait]
impl Books for JournaledLedger {
    async fn settle_up(&self) -> Result<(), StoreError> {
        self.flush().await
    }

    /// By the database's rows, once all of this journal's are among them.
    async fn spent(
        &self,
        organization: OrganizationId,
        claims: &[Claim],
    ) -> Result<Vec<Founding>, StoreError> {
        self.flush().await?;
        self.database.spent(organization, claims).await
    }
}

impl Journal {
    /// `None` if another process has it open.
    fn open(path: &Path) -> std::io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let mut file = private::open(path, options.read(true).append(true).create(true))?;
        if !lock(&file, path)? {
            return Ok(None);
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let (records, good) = read_records(&content);
        if good < content.len() {
            tracing::warn!(bytes = content.len() - good, "torn end of the ledger journal cut off");
            file.set_len(good as u64)?;
            file.seek(SeekFrom::End(0))?;
        }
        let mut journal = Self {
            path: path.to_owned(),
            file,
            bytes: good as u64,
            open: HashMap::new(),
            pending: Vec::new(),
        };
        for record in records {
            journal.replay(record);
        }
        Ok(Some(journal))
    }

    fn replay(&mut self, record: Record) {
        match record {
            Record::Opened(admitted) => {
                self.open.insert(admitted.hold, admitted);
            }
            Record::Closed(entry) => {
                self.open.remove(&entry.admitted.hold);
                self.pending.push(entry);
            }
        }
    }

    /// Turns everything open into rows that say so.
    fn close_all(&mut self, clock: &dyn Clock) -> usize {
        let mut interrupted: Vec<Admitted> =
            self.open.drain().map(|(_, admitted)| admitted).collect();
        interrupted.sort_by_key(|admitted| admitted.hold);
        self.pending.extend(interrupted.iter().map(|admitted| Entry {
            admitted: admitted.clone(),
            outcome: Outcome::Interrupted,
            closed_at: clock.now(),
            usage: Usage { prompt_tokens: admitted.prompt_tokens, ..Usage::default() },
            charge: Charge::default(),
            overrun: NanoUsd::ZERO,
            counted: Quantity::ZERO,
            work: Vec::new(),
        }));
        interrupted.len()
    }

    fn write(&mut self, record: &Record) -> std::io::Result<()> {
        let framed = frame(record)?;
        if let Err(error) = self.file.write_all(&framed) {
            // Half a record in the middle would hide every later one.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            return Err(error);
        }
        self.bytes += framed.len() as u64;
        Ok(())
    }

    /// Replaces the file by one with the live records only.
    fn compact(&mut self) -> std::io::Result<()> {
        let fresh_path = self.path.with_extension("rewrite");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true);
        let mut fresh = private::open(&fresh_path, options)?;
        if !lock(&fresh, &fresh_path)? {
            return Err(ErrorKind::ResourceBusy.into());
        }
        let mut content = Vec::new();
        for admitted in self.open.values() {
            content.extend(frame(&Record::Opened(admitted.clone()))?);
        }
        for entry in &self.pending {
            content.extend(frame(&Record::Closed(entry.clone()))?);
        }
        fresh.write_all(&content)?;
        fresh.sync_data()?;
        std::fs::rename(&fresh_path, &self.path)?;
        self.file = fresh;
        self.bytes = content.len() as u64;
        Ok(())
    }
}

/// Whether the file is ours alone now, and still the one at its path.
fn lock(file: &File, path: &Path) -> std::io::Result<bool> {
    match file.try_lock() {
        // Whoever had it may have replaced or removed it in between.
        Ok(()) => match std::fs::metadata(path) {
            Ok(there) => Ok(there.ino() == file.metadata()?.ino()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        },
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn frame(record: &Record) -> std::io::Result<Vec<u8>> {
    let payload = serde_json::to_vec(record)?;
    let length = u32::try_from(payload.len()).map_err(std::io::Error::other)?;
    let mut framed = Vec::with_capacity(payload.len() + HEAD_BYTES);
    framed.extend(length.to_le_bytes());
    framed.extend(crc32fast::hash(&payload).to_le_bytes());
    framed.extend(payload);
    Ok(framed)
}

/// The good records at the beginning of `content`, and how many bytes they take.
fn read_records(content: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some((record, bytes)) = read_record(&content[at..]) {
        records.push(record);
        at += bytes;
    }
    (records, at)
}

fn read_record(content: &[u8]) -> Option<(Record, usize)> {
    let length = u32::from_le_bytes(content.get(..4)?.try_into().ok()?) as usize;
    let checksum = u32::from_le_bytes(content.get(4..HEAD_BYTES)?.try_into().ok()?);
    let payload = content.get(HEAD_BYTES..HEAD_BYTES.checked_add(length)?)?;
    if crc32fast::hash(payload) != checksum {
        return None;
    }
    Some((serde_json::from_slice(payload).ok()?, HEAD_BYTES + length))
}

const HEAD_BYTES: usize = 8;
const BATCH_ROWS: usize = 512;
const GATHER: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_secs(1);
/// Rows that may wait for the database before nothing more is admitted.
const MAX_PENDING: usize = 200_000;
const COMPACT_BYTES: u64 = 8 << 20;
