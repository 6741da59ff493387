//! Whether what is to come fits on the disk, before any of it comes.

use std::path::Path;

use crate::error::{HubError, disk};

/// Refuses what does not fit. `needed` are the bytes still to come.
pub(crate) fn check(folder: &Path, needed: u64) -> Result<(), HubError> {
    let about = rustix::fs::statvfs(folder);
    let about = about.map_err(|error| disk("look at the disk of", folder)(error.into()))?;
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    if needed > free {
        return Err(HubError::NoRoom { folder: folder.to_owned(), needed, free });
    }
    Ok(())
}
