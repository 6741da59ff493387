//! A file that appears: for whoever learns of the machine's end in a way of their own.
//!
//! If it holds a number, that many seconds are left. A file whose content comes later, or changes, is news again.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncReadExt as _;

use super::rounds::Rounds;
use super::{Notice, NoticeSource};

/// A file that appears.
pub(crate) struct File {
    path: PathBuf,
    /// What it held when it was told of last.
    told: Option<String>,
    rounds: Rounds,
}

impl File {
    pub(crate) fn new(path: PathBuf, every: Duration) -> Self {
        Self { path, told: None, rounds: Rounds::new("file", every) }
    }

    /// The beginning of the file; `None` if there is none.
    async fn content(&self) -> std::io::Result<Option<String>> {
        let file = match tokio::fs::File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut content).await?;
        Ok(Some(String::from_utf8_lossy(&content).trim().to_owned()))
    }
}

#[async_trait]
impl NoticeSource for File {
    fn name(&self) -> &'static str {
        "file"
    }

    async fn next(&mut self) -> Notice {
        loop {
            self.rounds.turn().await;
            let content = self.content().await;
            if let Some(Some(content)) = self.rounds.heard(content)
                && self.told.as_ref() != Some(&content)
            {
                let seconds = content.parse().ok();
                self.told = Some(content);
                return Notice::Leave(seconds.map(Duration::from_secs));
            }
        }
    }
}

const MAX_BYTES: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn a_file_that_appears_is_a_notice_and_its_number_is_the_time_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leave");
        let mut file = File::new(path.clone(), EVERY);
        assert!(tokio::time::timeout(EVERY * 3, file.next()).await.is_err());

        std::fs::write(&path, "").unwrap();
        assert_eq!(file.next().await, Notice::Leave(None));
        std::fs::write(&path, "90\n").unwrap();

        assert_eq!(file.next().await, Notice::Leave(Some(Duration::from_secs(90))));
        assert!(tokio::time::timeout(EVERY * 3, file.next()).await.is_err(), "that is no news");
    }
}
