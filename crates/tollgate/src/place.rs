//! Where an installation is kept: a directory, or what a gateway's configuration names.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use gateway::{Installation, RawGateway, Workers};

use crate::files;

/// Where an installation is kept.
#[derive(Args)]
pub(crate) struct Place {
    /// The data directory of the gateway
    #[arg(long, global = true, default_value = "tollgate-data", value_name = "DIR")]
    data: PathBuf,
    /// The gateway's configuration, if it has one; it says where the database is
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "data")]
    config: Option<PathBuf>,
}

impl Place {
    /// The workers that the configuration names, if there is one.
    pub(crate) fn workers(&self) -> anyhow::Result<Option<Workers>> {
        let Some(config) = &self.config else { return Ok(None) };
        let settings = files::read_config::<RawGateway>(config)?.check()?;
        Ok(Some(Workers::of(&settings)?))
    }

    pub(crate) async fn open(&self) -> anyhow::Result<Installation> {
        if let Some(config) = &self.config {
            let settings = files::read_config::<RawGateway>(config)?.check()?;
            return Ok(Installation::open(&settings).await?);
        }
        let data = self.data.display();
        ensure!(self.data.is_dir(), "there is no directory {data}; name the gateway's with --data");
        Ok(Installation::embedded(self.data.clone()).await?)
    }
}
