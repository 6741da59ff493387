//! The seam between pulling and where files come from: a hub, an object store, a folder.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::digest::Check;
use crate::error::Failure;

pub(crate) mod folder;
pub(crate) mod hub;
pub(crate) mod store;

/// A file as its source tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path in the source, with slashes.
    pub(crate) path: String,
    /// Its size, in bytes.
    pub(crate) size: u64,
    /// What it must be.
    pub(crate) check: Check,
    /// What the source calls this content of it, if it calls it something.
    pub(crate) tag: Option<String>,
}

/// A file that is on its way.
pub(crate) struct Opened {
    /// At which byte it begins: where was asked for, or 0 where the source begins anew.
    pub(crate) from: u64,
    /// What the content is called, to go on with the same later.
    pub(crate) tag: Option<String>,
    /// What it must be, if that was not known before.
    pub(crate) check: Option<Check>,
    /// Its bytes, up to its end.
    pub(crate) body: BoxStream<'static, Result<Bytes, Failure>>,
}

/// Where files come from. Each call is one attempt; whoever calls tries again.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// Who is asked, for messages.
    fn host(&self) -> String;

    /// What is asked for, for messages.
    fn what(&self) -> String;

    /// Whether `pin` needs to ask nobody.
    fn is_pinned(&self) -> bool {
        false
    }

    /// The name of what is there now. What is listed and opened under that name does not change.
    async fn pin(&self) -> Result<String, Failure>;

    /// What is there under this name.
    async fn list(&self, pin: &str) -> Result<Vec<Entry>, Failure>;

    /// Opens a file at byte `from`. A `tag` says what was there of it before: if it is called otherwise now, it begins
    /// anew.
    async fn open(
        &self,
        pin: &str,
        entry: &Entry,
        from: u64,
        tag: Option<&str>,
    ) -> Result<Opened, Failure>;
}
