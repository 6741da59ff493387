//! Files of a folder of this machine, to be copied as if they came from elsewhere.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};

use super::{Entry, Opened, Source};
use crate::choose::may_belong;
use crate::digest::{Check, sha256_of};
use crate::error::{Failure, disk};

/// One folder.
pub(crate) struct Folder {
    folder: PathBuf,
}

impl Folder {
    pub(crate) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }
}

#[async_trait]
impl Source for Folder {
    fn host(&self) -> String {
        "this machine".to_owned()
    }

    fn what(&self) -> String {
        self.folder.display().to_string()
    }

    async fn pin(&self) -> Result<String, Failure> {
        Ok(fingerprint(&self.list("").await?))
    }

    async fn list(&self, _pin: &str) -> Result<Vec<Entry>, Failure> {
        let mut entries = Vec::new();
        // What is one level down belongs to models that embed.
        let mut folders = vec![(self.folder.clone(), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            let failed = |error| disk("read", &folder)(error);
            let mut there = tokio::fs::read_dir(&folder).await.map_err(failed)?;
            while let Some(entry) =
                there.next_entry().await.map_err(|error| disk("read", &folder)(error))?
            {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let about = tokio::fs::metadata(entry.path()).await;
                let about = about.map_err(disk("read", entry.path()))?;
                let path = format!("{prefix}{name}");
                if about.is_dir() && prefix.is_empty() && !name.starts_with('.') {
                    folders.push((entry.path(), format!("{name}/")));
                } else if about.is_file() && may_belong(&path) {
                    let changed =
                        about.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                    let tag = changed.map(|at| at.as_nanos().to_string());
                    entries.push(Entry { path, size: about.len(), check: Check::Size, tag });
                }
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    async fn open(
        &self,
        _pin: &str,
        entry: &Entry,
        from: u64,
        _tag: Option<&str>,
    ) -> Result<Opened, Failure> {
        let path = self.folder.join(Path::new(&entry.path));
        let mut file = File::open(&path).await.map_err(disk("read", &path))?;
        file.seek(SeekFrom::Start(from)).await.map_err(disk("read", &path))?;
        let body = stream::try_unfold((file, path), |(mut file, path)| async move {
            let mut chunk = vec![0; CHUNK_BYTES];
            let read = file.read(&mut chunk).await.map_err(disk("read", &path))?;
            chunk.truncate(read);
            Ok((read > 0).then(|| (Bytes::from(chunk), (file, path))))
        });
        Ok(Opened { from, tag: None, check: None, body: body.boxed() })
    }
}

/// The name of a list of files: another list, or another content of one of them, has another.
pub(crate) fn fingerprint(entries: &[Entry]) -> String {
    let mut lines: Vec<String> = entries
        .iter()
        .map(|Entry { path, size, tag, .. }| {
            format!("{path}\0{size}\0{}\n", tag.as_deref().unwrap_or_default())
        })
        .collect();
    lines.sort();
    sha256_of(lines.concat().as_bytes())[..40].to_owned()
}

const CHUNK_BYTES: usize = 1 << 20;
