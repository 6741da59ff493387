//! Fetches one file, however often its connection breaks, and lets nothing pass that is not what was told of it.
//!
//! What came is in a `.part` file that is named after the content it is to be, so another content never goes on in it. A
//! file gets its whole name only when it is on the disk and its digest is right. What was kept of an earlier
//! process and turns out wrong is fetched once more from the beginning; a second time it is the source that is wrong.

use std::io::Read;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncSeekExt, AsyncWriteExt, SeekFrom};

use crate::digest::{Check, Digester, sha256_of};
use crate::error::{Failure, HubError, disk};
use crate::event::Teller;
use crate::patience::Patience;
use crate::source::{Entry, Opened, Source};

/// Fetches files of one pull.
pub(crate) struct Fetcher<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) pin: &'a str,
    /// Where files are until all of them are here.
    pub(crate) staging: &'a Path,
    pub(crate) patience: Patience,
    pub(crate) teller: &'a Teller<'a>,
}

/// Where a file is once it is whole and right.
pub(crate) fn whole_path(staging: &Path, entry: &Entry) -> PathBuf {
    let Entry { path, size, check, tag } = entry;
    let told = format!("{path}\0{size}\0{check}\0{}", tag.as_deref().unwrap_or_default());
    staging.join(&sha256_of(told.as_bytes())[..32])
}

/// Where it is before.
pub(crate) fn part_path(staging: &Path, entry: &Entry) -> PathBuf {
    whole_path(staging, entry).with_extension("part")
}

impl Fetcher<'_> {
    /// Fetches a file, or what is missing of it, and checks it.
    pub(crate) async fn fetch(&self, entry: &Entry) -> Result<(), HubError> {
        let whole = whole_path(self.staging, entry);
        if size_of(&whole).await == Some(entry.size) {
            self.teller.have(entry.size);
            return Ok(());
        }
        let mut part = Part::open(part_path(self.staging, entry), entry).await?;
        self.teller.have(part.length);
        let kept = part.length;
        let mut fetched = self.fill(&mut part, entry).await;
        if kept > 0 && fetched.as_ref().is_err_and(HubError::is_mismatch) {
            let note = format!("{}: what was kept of it is wrong; fetching all of it", entry.path);
            self.teller.note(note);
            part = Part::open(part_path(self.staging, entry), entry).await?;
            fetched = self.fill(&mut part, entry).await;
        }
        fetched?;
        tokio::fs::rename(&part.path, &whole).await.map_err(disk("rename", &part.path))
    }

    /// Fetches until the part is whole, and checks it. One that is wrong is deleted.
    async fn fill(&self, part: &mut Part, entry: &Entry) -> Result<(), HubError> {
        let filled = self.fill_or_say(part, entry).await;
        if filled.as_ref().is_err_and(HubError::is_mismatch) {
            self.teller.lost(part.length);
            tokio::fs::remove_file(&part.path).await.map_err(disk("delete", &part.path))?;
        }
        filled
    }

    async fn fill_or_say(&self, part: &mut Part, entry: &Entry) -> Result<(), HubError> {
        let mut tries = 0;
        let mut best = part.length;
        while !part.is_judged(entry) {
            let Err(failure) = self.attempt(part, entry).await else { continue };
            part.flush().await?;
            let (problem, after) = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Passing { problem, after } => (problem, after),
            };
            tries = if part.length > best { 1 } else { tries + 1 };
            best = best.max(part.length);
            if tries >= self.patience.tries {
                return Err(self.unreachable(&entry.path, tries, problem));
            }
            let pause = self.patience.pause(tries, after, fastrand::f64());
            let (at, size) = (part.length, entry.size);
            let note = format!("{}: {problem}; going on from byte {at} of {size}", entry.path);
            self.teller.note(note);
            tokio::time::sleep(pause).await;
        }
        part.flush().await?;
        part.file.sync_all().await.map_err(disk("write", &part.path))?;
        part.judge(entry)
    }

    /// One connection, as long as it holds.
    async fn attempt(&self, part: &mut Part, entry: &Entry) -> Result<(), Failure> {
        let tag = part.tag.clone();
        let opened = self.source.open(self.pin, entry, part.length, tag.as_deref()).await?;
        let Opened { from, tag, check, mut body } = opened;
        if from != part.length {
            self.teller.lost(part.length - from.min(part.length));
            part.cut(from).await?;
        }
        part.tag = tag;
        part.learn(check, entry).await?;
        while let Some(chunk) = body.try_next().await? {
            if chunk.len() as u64 > entry.size - part.length {
                let found = "more".to_owned();
                let expected = format!("{} bytes", entry.size);
                return Err(HubError::Mismatch { file: entry.path.clone(), expected, found }.into());
            }
            part.append(&chunk).await?;
            self.teller.came(chunk.len() as u64);
        }
        if part.length < entry.size {
            return Err(Failure::passing("the connection ended early"));
        }
        Ok(())
    }

    fn unreachable(&self, file: &str, tries: u32, problem: String) -> HubError {
        HubError::Unreachable { host: self.source.host(), what: file.to_owned(), tries, problem }
    }
}

/// A file that is not whole yet.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    /// What its content was called when the last bytes of it came.
    tag: Option<String>,
    check: Check,
    /// Of the bytes that are here; none until it is known what the file must be.
    digester: Option<Digester>,
}

impl Part {
    async fn open(path: PathBuf, entry: &Entry) -> Result<Self, HubError> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).await.map_err(disk("open", &path))?;
        let length = file.metadata().await.map_err(disk("read", &path))?.len();
        let check = entry.check.clone();
        let mut part = Self { path, file, length, tag: None, check, digester: None };
        let kept = match length {
            length if length > entry.size => 0,
            // What it must be is told with its bytes: the last one is worth asking for.
            length if length == entry.size && part.check == Check::Size => length.saturating_sub(1),
            length => length,
        };
        part.cut(kept).await?;
        if part.check != Check::Size || entry.size == 0 {
            part.learn(None, entry).await?;
        }
        Ok(part)
    }

    /// Whether everything is here and it is known what it must be.
    const fn is_judged(&self, entry: &Entry) -> bool {
        self.length == entry.size && self.digester.is_some()
    }

    /// Forgets what is behind byte `length`.
    async fn cut(&mut self, length: u64) -> Result<(), HubError> {
        if length < self.length {
            self.file.set_len(length).await.map_err(disk("shorten", &self.path))?;
            self.digester = None;
            self.length = length;
        }
        self.file.seek(SeekFrom::Start(length)).await.map_err(disk("write", &self.path))?;
        Ok(())
    }

    /// Hears what the file must be, if that is news, and digests what is here.
    async fn learn(&mut self, told: Option<Check>, entry: &Entry) -> Result<(), HubError> {
        if let (Check::Size, Some(told)) = (&self.check, told) {
            self.check = told;
            self.digester = None;
        }
        if self.digester.is_none() {
            let digester = self.check.begin(entry.size);
            self.digester = Some(digest(&self.path, digester, self.length).await?);
        }
        Ok(())
    }

    async fn append(&mut self, chunk: &[u8]) -> Result<(), HubError> {
        self.file.write_all(chunk).await.map_err(disk("write", &self.path))?;
        if let Some(digester) = &mut self.digester {
            digester.update(chunk);
        }
        self.length += chunk.len() as u64;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), HubError> {
        self.file.flush().await.map_err(disk("write", &self.path))
    }

    fn judge(&mut self, entry: &Entry) -> Result<(), HubError> {
        let found = self.digester.take().map_or(Check::Size, Digester::end);
        if found == self.check {
            return Ok(());
        }
        let (expected, found) = (self.check.to_string(), found.to_string());
        Err(HubError::Mismatch { file: entry.path.clone(), expected, found })
    }
}

/// The size of a file that is there.
pub(crate) async fn size_of(path: &Path) -> Option<u64> {
    let about = tokio::fs::metadata(path).await.ok()?;
    about.is_file().then_some(about.len())
}

/// Goes on with a digest over the first `length` bytes of a file.
pub(crate) async fn digest(
    path: &Path,
    mut digester: Digester,
    length: u64,
) -> Result<Digester, HubError> {
    if length == 0 {
        return Ok(digester);
    }
    let path = path.to_owned();
    let failed = path.clone();
    let read = move || {
        let mut file = std::fs::File::open(&path)?.take(length);
        let mut chunk = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                return Ok(digester);
            }
            digester.update(&chunk[..read]);
        }
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(disk("read", failed))
}
