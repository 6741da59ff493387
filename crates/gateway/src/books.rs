//! The ledger as finance sees it: verified and exported, beside a running gateway or without one.

use std::io::Write;
use std::path::PathBuf;

use admission::{SliceSettings, StoreError};
use domain::{OrganizationId, Timestamp};
use store::{Database, StoreSettings};

use crate::config::GatewaySettings;

pub use store::{ExportError, ExportFormat, ExportRange, Verification};

/// The ledger of an installation.
pub struct Books(Database);

impl Books {
    /// The ledger of a gateway with these settings.
    pub async fn open(settings: &GatewaySettings) -> Result<Self, StoreError> {
        settings.store.database().await.map(Self)
    }

    /// The ledger of a gateway that keeps everything in the directory `data`.
    pub async fn embedded(data: PathBuf) -> Result<Self, StoreError> {
        let slices = SliceSettings { gateways: 1, request_timeout: std::time::Duration::ZERO };
        let settings = StoreSettings {
            data,
            postgres: None,
            redis: None,
            pepper_file: None,
            cache: None,
            slices,
        };
        settings.database().await.map(Self)
    }

    /// Adds everything up again from the rows, and says where it differs from what is kept.
    pub async fn verify(&self) -> Result<Verification, StoreError> {
        self.0.verify().await
    }

    /// Writes rows admitted from `from` up to and without `to`; returns how many.
    pub async fn export(
        &self,
        (from, to): (Timestamp, Timestamp),
        organization: Option<OrganizationId>,
        format: ExportFormat,
        out: &mut (dyn Write + Send),
    ) -> Result<u64, ExportError> {
        self.0.export(ExportRange { from, to, organization }, format, out).await
    }
}
