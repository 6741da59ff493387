//! An installation as its owner sees it from the command line: tenants and the ledger, beside a running
//! gateway or without one.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use admission::tenancy::Registry;
use admission::{SliceSettings, StoreError};
use domain::{OrganizationId, SystemClock, Timestamp};
use store::{Database, StoreSettings};

use crate::config::GatewaySettings;

pub use store::{
    ExportError, ExportFormat, ExportRange, UsageError, UsageGroup, UsageLine, UsagePage,
    UsageQuery, Verification,
};

/// What is kept of one installation.
pub struct Installation {
    database: Database,
    registry: Registry,
}

impl Installation {
    /// That of a gateway with these settings.
    pub async fn open(settings: &GatewaySettings) -> Result<Self, StoreError> {
        Self::of(&settings.store).await
    }

    /// That of a gateway that keeps everything in the directory `data`.
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
        Self::of(&settings).await
    }

    async fn of(settings: &StoreSettings) -> Result<Self, StoreError> {
        let database = settings.database().await?;
        let tenants = Arc::new(database.clone());
        let registry = Registry::new(tenants, settings.pepper()?, Arc::new(SystemClock));
        Ok(Self { database, registry })
    }

    /// Tenants.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Adds everything up again from the rows, and says where it differs from what is kept.
    pub async fn verify(&self) -> Result<Verification, StoreError> {
        self.database.verify().await
    }

    /// Writes rows admitted from `from` up to and without `to`; returns how many.
    pub async fn export(
        &self,
        (from, to): (Timestamp, Timestamp),
        organization: Option<OrganizationId>,
        format: ExportFormat,
        out: &mut (dyn Write + Send),
    ) -> Result<u64, ExportError> {
        self.database.export(ExportRange { from, to, organization }, format, out).await
    }

    /// What was used, by groups.
    pub async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, UsageError> {
        self.database.usage(query).await
    }
}
