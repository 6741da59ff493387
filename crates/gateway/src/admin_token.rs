//! The admin token of a data directory: shown once, kept as a digest.
//!
//! The digest is read for each admin request, which are few, so a new token counts at once.

use std::path::{Path, PathBuf};

use admission::{ApiKey, Pepper, StoreError};
use subtle::ConstantTimeEq;

/// The admin token, as far as a gateway knows it.
pub struct AdminToken {
    file: PathBuf,
    pepper: Pepper,
}

impl AdminToken {
    pub(crate) fn new(data: &Path, pepper: Pepper) -> Self {
        Self { file: data.join(FILE), pepper }
    }

    /// The token of the directory `data`, which exists.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        Ok(Self::new(data, store::pepper(data)?))
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.file.exists()
    }

    /// Makes a new token; the one before it, if any, is worth nothing from now on.
    pub fn renew(&self) -> Result<ApiKey, StoreError> {
        let token = ApiKey::generate();
        let digest = self.pepper.digest(&token);
        let written = std::fs::write(&self.file, digest.as_bytes());
        written.map_err(|error| StoreError::new("keep admin token", error))?;
        Ok(token)
    }

    /// Whether `shown` is the token. Without a token nothing is.
    pub(crate) fn is(&self, shown: &str) -> bool {
        let (Some(shown), Ok(kept)) = (ApiKey::parse(shown), std::fs::read(&self.file)) else {
            return false;
        };
        bool::from(self.pepper.digest(&shown).as_bytes()[..].ct_eq(&kept))
    }
}

const FILE: &str = "admin-token.digest";
