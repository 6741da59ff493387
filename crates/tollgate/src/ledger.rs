//! `tollgate ledger`: the books, for finance and for whoever wants to be sure.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use domain::{OrganizationId, Timestamp};
use gateway::{Books, ExportFormat, RawGateway};

use crate::files;

/// Verify and export the ledger
#[derive(Args)]
pub(crate) struct Ledger {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Subcommand)]
enum LedgerCommand {
    /// Add everything up again from the rows; fails if anything differs from what is kept
    Verify(Place),
    /// Write one line for each request, in columns of the FOCUS cost specification
    Export(Export),
}

/// Where the ledger is kept.
#[derive(Args)]
struct Place {
    /// The data directory of the gateway
    #[arg(long, default_value = "tollgate-data", value_name = "DIR")]
    data: PathBuf,
    /// The gateway's configuration, if it has one; it says where the database is
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct Export {
    #[command(flatten)]
    place: Place,
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Requests admitted from then on: a date, or a moment such as 2026-11-01T00:00:00Z
    #[arg(long, value_name = "WHEN")]
    from: Option<String>,
    /// Requests admitted before then
    #[arg(long, value_name = "WHEN")]
    to: Option<String>,
    /// Requests of this organization alone (`org_...`)
    #[arg(long, value_name = "ID")]
    organization: Option<OrganizationId>,
    /// The file to write; without it, CSV goes to the terminal
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Comma-separated values
    Csv,
    /// Apache Parquet
    Parquet,
}

impl Ledger {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            LedgerCommand::Verify(place) => {
                let found = place.open().await?.verify().await?;
                say(&found.to_string())?;
                ensure!(found.is_clean(), "the ledger is not clean");
                Ok(())
            }
            LedgerCommand::Export(export) => export.run().await,
        }
    }
}

impl Export {
    async fn run(self) -> anyhow::Result<()> {
        let from = moment(self.from.as_deref())?.unwrap_or_default();
        let to = moment(self.to.as_deref())?.unwrap_or(Timestamp::from_millis(u64::MAX));
        let books = self.place.open().await?;
        let format = match self.format {
            Format::Csv => ExportFormat::Csv,
            Format::Parquet => ExportFormat::Parquet,
        };
        let Some(path) = &self.out else {
            if matches!(format, ExportFormat::Parquet) {
                bail!("name the file to write with --out");
            }
            let mut out = std::io::stdout();
            books.export((from, to), self.organization, format, &mut out).await?;
            return Ok(());
        };
        let file = File::create(path).with_context(|| format!("write {}", path.display()))?;
        let mut out = BufWriter::new(file);
        let rows = books.export((from, to), self.organization, format, &mut out).await?;
        out.flush().with_context(|| format!("write {}", path.display()))?;
        say(&format!("{rows} rows written to {}\n", path.display()))
    }
}

impl Place {
    async fn open(&self) -> anyhow::Result<Books> {
        if let Some(config) = &self.config {
            let settings = files::read_config::<RawGateway>(config)?.check()?;
            return Ok(Books::open(&settings).await?);
        }
        check_directory(&self.data)?;
        Ok(Books::embedded(self.data.clone()).await?)
    }
}

fn check_directory(data: &Path) -> anyhow::Result<()> {
    let shown = data.display();
    ensure!(data.is_dir(), "there is no directory {shown}; name the gateway's with --data");
    Ok(())
}

/// A date at midnight UTC, or a moment.
fn moment(text: Option<&str>) -> anyhow::Result<Option<Timestamp>> {
    let Some(text) = text else { return Ok(None) };
    let date = text.parse::<jiff::civil::Date>().ok();
    let midnight = date.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
    let moment = midnight.map(|midnight| midnight.timestamp()).or_else(|| text.parse().ok());
    let millis = moment.and_then(|at: jiff::Timestamp| u64::try_from(at.as_millisecond()).ok());
    let millis = millis.with_context(|| {
        format!("`{text}` is neither a date (2026-11-01) nor a moment (2026-11-01T00:00:00Z)")
    })?;
    Ok(Some(Timestamp::from_millis(millis)))
}

fn say(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("print")
}
