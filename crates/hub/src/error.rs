//! Why a model could not be pulled, in words that name the file and the remedy; and whether asking again may help.
//!
//! No message shows a token or the query of an address: what hubs redirect to is signed there.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why a model is not here.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// What was written is no address of a model.
    #[error("`{address}` is no address of a model: {problem}")]
    Address {
        /// What was written.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A setting means nothing.
    #[error("`{setting}`: {problem}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing there that could be loaded.
    #[error("there is nothing to load in {place}: {problem}")]
    NothingToLoad {
        /// Where was looked.
        place: String,
        /// What was found instead, and the remedy.
        problem: String,
    },
    /// It does not exist.
    #[error("{what} is not there; {remedy}")]
    Missing {
        /// What was asked for.
        what: String,
        /// What to look at.
        remedy: String,
    },
    /// It is not for whoever asks.
    #[error("{what} is not for us; {remedy}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// What came is not what was promised. It is deleted.
    #[error("{file} is not what it should be, and was deleted: {expected} was told, {found} came")]
    Mismatch {
        /// Which file.
        file: String,
        /// What it should have been.
        expected: String,
        /// What it was.
        found: String,
    },
    /// It became another file since it was listed.
    #[error("{file} has changed while it was pulled; pull again")]
    Changed {
        /// Which file.
        file: String,
    },
    /// It would not fit.
    #[error("{} needs {needed} bytes more, and its disk has {free}; make room, or choose another folder", .folder.display())]
    NoRoom {
        /// Where it was to go.
        folder: PathBuf,
        /// Bytes still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Nobody answered, or not to the end, however often we asked.
    #[error("{host} could not be asked for {what} ({tries} tries in a row): {problem}")]
    Unreachable {
        /// Who was asked.
        host: String,
        /// What for.
        what: String,
        /// How often in a row, without a byte gained.
        tries: u32,
        /// What went wrong the last time.
        problem: String,
    },
    /// It answered what makes no sense.
    #[error("{host} gave an answer that makes no sense to {what}: {problem}")]
    Nonsense {
        /// Who was asked.
        host: String,
        /// What for.
        what: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// Our own disk.
    #[error("{doing} {}", .path.display())]
    Disk {
        /// What was done to it.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: std::io::Error,
    },
}

impl HubError {
    /// Whether nobody could be reached, so that what was pulled before may serve.
    pub(crate) const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether bytes came that are not what they should be.
    pub(crate) const fn is_mismatch(&self) -> bool {
        matches!(self, Self::Mismatch { .. })
    }
}

/// What went wrong once.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Asking again changes nothing.
    Final(HubError),
    /// It may be another story next time; not before `after`, if it was told.
    Passing { problem: String, after: Option<Duration> },
}

impl Failure {
    /// Something that may pass.
    pub(crate) fn passing(problem: impl fmt::Display) -> Self {
        Self::Passing { problem: problem.to_string(), after: None }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// Says what was done to our disk when it did not work.
pub(crate) fn disk(
    doing: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.into();
    move |source| HubError::Disk { doing, path, source }
}

/// An error with everything behind it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
