//! Files that hold the platform's state: whoever it is not does not read them.
//!
//! Promise: what is made here is its owner's alone from its first moment, and a file that was readable by others
//! before is not any more. A folder that exists keeps the mode that its owner gave it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Error, Result};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes a folder, and those above it, if it is not there.
pub(crate) fn directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(OWNER_ALONE).create(path);
    made.map_err(|error| Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Opens a file as `options` say, which may make it.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> Result<File> {
    let file = options.mode(OWNER_ONLY).open(path)?;
    if file.metadata()?.permissions().mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
    }
    Ok(file)
}

/// Makes a file that a library is to fill, if it is not there.
pub(crate) fn make(path: &Path) -> Result<()> {
    open(path, OpenOptions::new().create(true).append(true)).map(drop)
}

pub(crate) const OWNER_ONLY: u32 = 0o600;
const OWNER_ALONE: u32 = 0o700;
const OTHERS: u32 = 0o077;
