//! A folder that models are pulled into: what is in it, who is at work in it, and what is on its way.
//!
//! Everything of ours is in its `.tollgate`: `lock`, which one process at a time holds; `record.json`, which says
//! of which revision the files are and is there only while they all are; `parts`, which holds files until all of a
//! model's are here.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{Check, Digester};
use crate::error::{HubError, disk};
use crate::event::Teller;
use crate::fetch::{digest, size_of, whole_path};
use crate::source::Entry;

/// A folder that nobody else changes now.
pub(crate) struct Keep {
    folder: PathBuf,
    record: Option<Record>,
    /// Closing it lets others in.
    _lock: File,
}

/// What is in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Where it is from.
    pub(crate) source: String,
    /// What was asked for: a branch, a tag, a commit.
    pub(crate) revision: String,
    /// The commit, or the fingerprint of a prefix.
    pub(crate) pin: String,
    /// The files of each thing that was wanted.
    pub(crate) wants: BTreeMap<String, Vec<Kept>>,
}

/// A file that is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) path: String,
    size: u64,
    check: Check,
    tag: Option<String>,
}

impl Kept {
    pub(crate) fn of(entry: &Entry) -> Self {
        let Entry { path, size, check, tag } = entry.clone();
        Self { path, size, check, tag }
    }

    /// Whether it is surely the same content. A size alone is no sign.
    fn is(&self, entry: &Entry) -> bool {
        *self == Self::of(entry) && (self.check != Check::Size || self.tag.is_some())
    }
}

impl Record {
    /// What is said of `folder`, if something is.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        let text = std::fs::read(folder.join(OURS).join("record.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn files(&self) -> impl Iterator<Item = &Kept> {
        self.wants.values().flatten()
    }
}

impl Keep {
    /// Makes the folder if it is not there, and waits until nobody else is at work in it.
    pub(crate) async fn open(folder: &Path, teller: &Teller<'_>) -> Result<Self, HubError> {
        let ours = folder.join(OURS);
        std::fs::create_dir_all(&ours).map_err(disk("make", &ours))?;
        let path = ours.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(disk("open", &path))?;
        let lock = match lock.try_lock() {
            Ok(()) => lock,
            Err(TryLockError::WouldBlock) => {
                teller.note(format!("waiting for another pull into {}", folder.display()));
                let wait = move || lock.lock().map(|()| lock);
                let waited = tokio::task::spawn_blocking(wait).await;
                let waited = waited.unwrap_or_else(|error| Err(std::io::Error::other(error)));
                waited.map_err(disk("lock", &path))?
            }
            Err(TryLockError::Error(error)) => return Err(disk("lock", &path)(error)),
        };
        // Whoever held the lock before may have put it away.
        let parts = ours.join("parts");
        std::fs::create_dir_all(&parts).map_err(disk("make", &parts))?;
        Ok(Self { folder: folder.to_owned(), record: Record::of(folder), _lock: lock })
    }

    /// Where files are until all are here.
    pub(crate) fn staging(&self) -> PathBuf {
        self.folder.join(OURS).join("parts")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.clone()
    }

    /// Where a file is once everything is settled.
    pub(crate) fn path_of(&self, entry: &Entry) -> PathBuf {
        self.folder.join(&entry.path)
    }

    pub(crate) const fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The files of what is wanted, if all of them are here as of `pin`.
    pub(crate) async fn complete(&self, source: &str, pin: &str, want: &str) -> Option<&[Kept]> {
        let record = self.record.as_ref()?;
        let files = record.wants.get(want)?;
        if record.pin != pin || record.source != source {
            return None;
        }
        for Kept { path, size, .. } in files {
            if size_of(&self.folder.join(path)).await != Some(*size) {
                return None;
            }
        }
        Some(files)
    }

    /// Whether a file is here already, whole and right.
    pub(crate) async fn has(&self, entry: &Entry) -> Result<bool, HubError> {
        let path = self.folder.join(&entry.path);
        if size_of(&path).await != Some(entry.size) {
            return Ok(false);
        }
        if self.record.as_ref().is_some_and(|record| record.files().any(|kept| kept.is(entry))) {
            return Ok(true);
        }
        if entry.check == Check::Size {
            return Ok(false);
        }
        let digester: Digester = digest(&path, entry.check.begin(entry.size), entry.size).await?;
        Ok(digester.end() == entry.check)
    }

    /// Takes a file from a folder beside this one that has it, of another revision.
    pub(crate) fn borrow(&self, entry: &Entry, others: &[(PathBuf, Record)]) -> bool {
        let has = |(_, record): &&(PathBuf, Record)| record.files().any(|kept| kept.is(entry));
        let Some((folder, _)) = others.iter().find(has) else { return false };
        let path = folder.join(&entry.path);
        let whole = std::fs::metadata(&path).is_ok_and(|about| about.len() == entry.size);
        let to = whole_path(&self.staging(), entry);
        whole && (to.exists() || std::fs::hard_link(path, to).is_ok())
    }

    /// Gives the files that have come their places, deletes what an earlier revision had and this one has not, and says
    /// that everything is here.
    pub(crate) fn settle(mut self, came: &[Entry], now: &Record) -> Result<(), HubError> {
        let ours = self.folder.join(OURS);
        let path = ours.join("record.json");
        if self.record.is_some() {
            std::fs::remove_file(&path).map_err(disk("delete", &path))?;
            sync(&ours)?;
        }
        for entry in came {
            let from = whole_path(&self.staging(), entry);
            let to = self.folder.join(&entry.path);
            let parent = to.parent().unwrap_or(&self.folder);
            std::fs::create_dir_all(parent).map_err(disk("make", parent))?;
            std::fs::rename(&from, &to).map_err(disk("move", &from))?;
            sync(parent)?;
        }
        let before = self.record.take();
        for Kept { path, .. } in before.iter().flat_map(Record::files) {
            if !now.files().any(|kept| kept.path == *path) {
                let path = self.folder.join(path);
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(disk("delete", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        let text = serde_json::to_vec_pretty(now).map_err(std::io::Error::other);
        write(&path, &text.map_err(disk("write", &path))?)?;
        let parts = self.staging();
        std::fs::remove_dir_all(&parts).map_err(disk("delete", &parts))
    }
}

/// Folders beside `folder` that have records.
pub(crate) fn beside(folder: &Path) -> Vec<(PathBuf, Record)> {
    let there = folder.parent().and_then(|home| std::fs::read_dir(home).ok());
    let paths =
        there.into_iter().flatten().filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let others = paths.filter(|path| path != folder);
    others.filter_map(|path| Record::of(&path).map(|record| (path, record))).collect()
}

/// Writes a file whole, or leaves it as it is.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(disk("make", folder))?;
    let draft = path.with_extension(format!("{:016x}.draft", fastrand::u64(..)));
    let written = (|| {
        let mut file = File::create_new(&draft)?;
        std::io::Write::write_all(&mut file, content)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    })();
    written.map_err(disk("write", path))?;
    sync(folder)
}

/// Makes sure that names in a folder are on the disk.
fn sync(folder: &Path) -> Result<(), HubError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk("write", folder))
}

/// Our own folder in a folder.
const OURS: &str = ".tollgate";
