//! Brings what an address names into a folder.
//!
//! A revision is made a commit (a prefix of a store a fingerprint) once, at the beginning, and everything after that is
//! asked of the commit. Files come side by side and wait until all of them are here and right; only then they get
//! their places, so a folder never has files of two commits, and a failed pull changes nothing in it. If nobody can be
//! reached, what is here of a remembered commit serves, and that is said.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::address::{Address, Place};
use crate::choose::{Choice, Want, choose, shards};
use crate::error::{Failure, HubError, disk};
use crate::event::{Show, Teller};
use crate::fetch::{Fetcher, part_path, size_of, whole_path};
use crate::keep::{Keep, Kept, Record, beside, write};
use crate::patience::Patience;
use crate::room;
use crate::settings::Settings;
use crate::source::folder::Folder;
use crate::source::hub::{Hub, host};
use crate::source::store::Store;
use crate::source::{Entry, Source};

/// Which part of what an address names is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything that is needed to serve it.
    Whole,
    /// Its tokenizer, without weights.
    Tokenizer,
}

/// What was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// What to load: a folder, or the file that was named.
    pub path: PathBuf,
    /// The commit, or the fingerprint of a prefix.
    pub pin: String,
    /// Files of it.
    pub files: usize,
    /// Bytes that came over the network.
    pub fetched: u64,
    /// Nobody could be reached, and what was here before serves.
    pub is_offline: bool,
}

/// Brings `part` of `address` here: into the folder `to`, else into one of its own below that of `settings`.
pub async fn pull(
    address: &Address,
    part: Part,
    to: Option<&Path>,
    settings: &Settings,
    show: &Show<'_>,
) -> Result<Pulled, HubError> {
    let want = match (part, &address.file) {
        (Part::Tokenizer, _) => Want::Tokenizer,
        (Part::Whole, Some(file)) => Want::Gguf(file.clone()),
        (Part::Whole, None) => Want::Everything,
    };
    let pull = Pull {
        source: source(address, settings)?,
        home: home(address, settings),
        revision: revision(address),
        to,
        want,
        parallel: settings.parallel.max(1),
        patience: settings.patience,
        teller: Teller::new(show),
    };
    pull.run().await
}

fn source(address: &Address, settings: &Settings) -> Result<Box<dyn Source>, HubError> {
    Ok(match &address.place {
        Place::Hub { hub, repository, revision } => {
            let endpoint = hub.as_ref().unwrap_or(&settings.endpoint).clone();
            // The token is of the hub that was configured.
            let known = endpoint.origin() == settings.endpoint.origin();
            let token = settings.token.clone().filter(|_| known);
            Box::new(Hub::new(endpoint, token, repository.clone(), revision.clone())?)
        }
        Place::Store { kind, bucket, prefix } => {
            Box::new(Store::new(*kind, bucket, prefix, &settings.stores)?)
        }
        Place::Folder(folder) => Box::new(Folder::new(folder.clone())),
    })
}

/// Where everything of one repository or prefix is kept.
fn home(address: &Address, settings: &Settings) -> PathBuf {
    match &address.place {
        Place::Hub { hub, repository, .. } => {
            let hub = hub.as_ref().unwrap_or(&settings.endpoint);
            let hub =
                format!("{}{}", host(hub).replace(':', "_"), hub.path().trim_end_matches('/'));
            settings.folder.join("hub").join(escaped(&hub)).join(repository)
        }
        Place::Store { kind, bucket, prefix } => {
            settings.folder.join(kind.scheme()).join(bucket).join(escaped(prefix))
        }
        Place::Folder(folder) => {
            settings.folder.join("file").join(escaped(&folder.to_string_lossy()))
        }
    }
}

fn revision(address: &Address) -> String {
    match &address.place {
        Place::Hub { revision, .. } => revision.clone().unwrap_or_else(|| "main".to_owned()),
        Place::Store { .. } | Place::Folder(_) => "latest".to_owned(),
    }
}

/// One name for a folder, of a text with slashes.
fn escaped(text: &str) -> String {
    if text.is_empty() { "%".to_owned() } else { text.replace('%', "%25").replace('/', "%2F") }
}

struct Pull<'a> {
    source: Box<dyn Source>,
    home: PathBuf,
    revision: String,
    to: Option<&'a Path>,
    want: Want,
    parallel: usize,
    patience: Patience,
    teller: Teller<'a>,
}

impl Pull<'_> {
    async fn run(self) -> Result<Pulled, HubError> {
        let (pin, is_offline) = self.pin().await?;
        let folder = self.to.map_or_else(|| self.home.join(&pin), Path::to_owned);
        let keep = Keep::open(&folder, &self.teller).await?;
        let here = keep.complete(&self.name(), &pin, &self.want.key()).await.map(<[Kept]>::len);
        let files = match here {
            Some(files) => files,
            None => self.bring(keep, &pin).await?,
        };
        if self.to.is_none() && !self.source.is_pinned() && !is_offline {
            write(&self.remembered(), pin.as_bytes())?;
        }
        let path = match &self.want {
            Want::Gguf(file) => folder.join(file),
            _ => folder,
        };
        Ok(Pulled { path, pin, files, fetched: self.teller.fetched(), is_offline })
    }

    /// What the revision is now, or what it was when that could last be told.
    async fn pin(&self) -> Result<(String, bool), HubError> {
        let before = match self.to {
            Some(folder) => Record::of(folder)
                .filter(|record| record.source == self.name() && record.revision == self.revision)
                .map(|record| record.pin),
            None => std::fs::read_to_string(self.remembered()).ok(),
        };
        let patience = if before.is_some() { self.patience.short() } else { self.patience };
        let asked = self.ask(patience, || self.source.pin()).await;
        match (asked, before) {
            (Err(error), Some(pin)) if error.is_unreachable() => {
                let revision = &self.revision;
                self.teller.note(format!(
                    "{error}; {revision} was {pin} the last time, and what is here of that is used"
                ));
                Ok((pin, true))
            }
            (asked, _) => Ok((asked?, false)),
        }
    }

    /// The file that remembers what the revision was.
    fn remembered(&self) -> PathBuf {
        self.home.join("revisions").join(escaped(&self.revision))
    }

    /// What a record calls the source; its folder or host is part of it.
    fn name(&self) -> String {
        let what = self.source.what();
        let what = what.strip_suffix(&format!("@{}", self.revision)).unwrap_or(&what);
        format!("{} {what}", self.source.host())
    }

    /// Fetches what is not here, and settles it. How many files there are in all.
    async fn bring(&self, keep: Keep, pin: &str) -> Result<usize, HubError> {
        let there = self.ask(self.patience, || self.source.list(pin)).await?;
        let nothing = |problem| HubError::NothingToLoad { place: self.source.what(), problem };
        let staging = keep.staging();
        let fetcher = Fetcher {
            source: self.source.as_ref(),
            pin,
            staging: &staging,
            patience: self.patience,
            teller: &self.teller,
        };
        let mut came = Vec::new();
        let entries = match choose(&there, &self.want).map_err(nothing)? {
            Choice::Files(entries) => entries,
            Choice::AfterIndex(mut entries, index) => {
                let only = std::slice::from_ref(&index);
                came.extend(self.fetch_missing(&fetcher, &keep, only).await?);
                let path = match came.first() {
                    Some(_) => whole_path(&staging, &index),
                    None => keep.path_of(&index),
                };
                let text = tokio::fs::read(&path).await.map_err(disk("read", &path))?;
                let shards = shards(&text, &there).map_err(nothing)?;
                came.extend(
                    self.fetch_missing(&fetcher, &keep, &[entries.as_slice(), &shards].concat())
                        .await?,
                );
                entries.push(index);
                entries.extend(shards);
                return self.settle(keep, pin, &entries, &came);
            }
        };
        came.extend(self.fetch_missing(&fetcher, &keep, &entries).await?);
        self.settle(keep, pin, &entries, &came)
    }

    fn settle(
        &self,
        keep: Keep,
        pin: &str,
        entries: &[Entry],
        came: &[Entry],
    ) -> Result<usize, HubError> {
        let before =
            keep.record().filter(|record| record.pin == pin && record.source == self.name());
        let mut wants = before.map(|record| record.wants.clone()).unwrap_or_default();
        wants.insert(self.want.key(), entries.iter().map(Kept::of).collect());
        let (source, revision, pin) = (self.name(), self.revision.clone(), pin.to_owned());
        keep.settle(came, &Record { source, revision, pin, wants })?;
        Ok(entries.len())
    }

    /// Fetches those of `entries` that are not in their places; which ones those were.
    async fn fetch_missing(
        &self,
        fetcher: &Fetcher<'_>,
        keep: &Keep,
        entries: &[Entry],
    ) -> Result<Vec<Entry>, HubError> {
        let others = if self.to.is_none() { beside(&keep.path()) } else { Vec::new() };
        let mut missing = Vec::new();
        let mut needed = 0_u64;
        self.teller.expect(entries.iter().map(|entry| entry.size).fold(0, u64::saturating_add));
        for entry in entries {
            if keep.has(entry).await? {
                self.teller.have(entry.size);
                continue;
            }
            if !keep.borrow(entry, &others) {
                let kept = size_of(&part_path(fetcher.staging, entry)).await.unwrap_or_default();
                let kept = size_of(&whole_path(fetcher.staging, entry)).await.unwrap_or(kept);
                needed = needed.saturating_add(entry.size.saturating_sub(kept));
            }
            missing.push(entry.clone());
        }
        room::check(fetcher.staging, needed)?;
        let fetches = stream::iter(missing.iter().map(|entry| fetcher.fetch(entry)));
        fetches.buffer_unordered(self.parallel).try_collect::<()>().await?;
        Ok(missing)
    }

    /// Asks until there is an answer, or patience ends.
    async fn ask<T, F>(&self, patience: Patience, attempt: impl Fn() -> F) -> Result<T, HubError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tries = 0;
        loop {
            let (problem, after) = match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { problem, after }) => (problem, after),
            };
            tries += 1;
            let (host, what) = (self.source.host(), self.source.what());
            if tries >= patience.tries {
                return Err(HubError::Unreachable { host, what, tries, problem });
            }
            self.teller.note(format!("{host}: {problem}; asking again"));
            tokio::time::sleep(patience.pause(tries, after, fastrand::f64())).await;
        }
    }
}
