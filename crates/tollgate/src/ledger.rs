//! `tollgate ledger`: the books, for finance and for whoever wants to be sure.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use domain::{OrganizationId, Timestamp};
use gateway::ExportFormat;

use crate::place::Place;
use crate::print::{parse_moment, say};

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

#[derive(Args)]
struct Export {
    #[command(flatten)]
    place: Place,
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Requests admitted from then on: a date, or a moment such as 2026-11-01T00:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    from: Option<Timestamp>,
    /// Requests admitted before then
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    to: Option<Timestamp>,
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
        let from = self.from.unwrap_or_default();
        let to = self.to.unwrap_or(Timestamp::from_millis(u64::MAX));
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
