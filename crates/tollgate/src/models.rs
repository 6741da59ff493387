//! `tollgate model pull`, and models that are fetched before they are loaded; shows how far that is.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use hub::{Address, Event, Part, Settings, Written};
use worker::{Place, RawHub, RawWorker};

use crate::print::say;

/// Fetch a model or an adapter, and check it
#[derive(Args)]
pub(crate) struct Pull {
    /// `hf://organization/name`, perhaps with `/file.gguf` and `@revision`; `https://HUB/organization/name`;
    /// `s3://bucket/prefix`; `gs://bucket/prefix`; `az://container/prefix`; a folder
    source: String,
    /// The folder to put it in; without it, one that `serve` and `worker` look into
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// A branch, a tag or a commit of a hub; `main` without it
    #[arg(long)]
    revision: Option<String>,
    /// Where models are kept; `$TOLLGATE_MODELS` without it, else tollgate-data/models
    #[arg(long, value_name = "FOLDER", conflicts_with = "to")]
    models: Option<PathBuf>,
    /// The hub of hf://; `$HF_ENDPOINT` without it, else `https://huggingface.co`
    #[arg(long, value_name = "ADDRESS")]
    endpoint: Option<String>,
    /// File that holds the token of that hub; `$HF_TOKEN` without it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Files to fetch at a time
    #[arg(long, value_name = "FILES", default_value_t = 4)]
    parallel: usize,
}

impl Pull {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { source, to, revision, models, endpoint, token_file, parallel } = self;
        let address = Address::parse(&source)?;
        let address = match revision {
            Some(revision) => address.at(revision)?,
            None => address,
        };
        let written = Written { folder: models, endpoint, token_file };
        let settings = Settings::from_environment(written, default_folder())?;
        let settings = Settings { parallel, ..settings };
        let shown = Shown::new(&source);
        let show = |event| shown.show(event);
        let pulled = hub::pull(&address, Part::Whole, to.as_deref(), &settings, &show).await;
        shown.end();
        let hub::Pulled { path, pin, files, fetched, .. } = pulled.context("pull the model")?;
        say(&format!("{}\n  {files} files of {pin}, {fetched} bytes fetched\n", path.display()))
    }
}

/// Where models are kept if nobody says: below the folder that `serve` keeps its data in.
pub(crate) fn default_folder() -> PathBuf {
    Path::new("tollgate-data").join("models")
}

/// The address in a path, if what was written is one.
pub(crate) fn address(path: &Path) -> anyhow::Result<Option<Address>> {
    match path.to_str() {
        Some(text) if text.contains("://") => Ok(Some(Address::parse(text)?)),
        _ => Ok(None),
    }
}

/// Fetches what `raw` names by an address, and puts the path of what came in its place.
pub(crate) async fn fetch(mut raw: RawWorker, folder: PathBuf) -> anyhow::Result<RawWorker> {
    let RawHub { folder: kept, endpoint, token_file } = raw.hub().clone();
    let written = Written { folder: kept, endpoint, token_file };
    for Place { at, path, is_tokenizer } in raw.places() {
        let Some(address) = address(path).with_context(|| at.clone())? else { continue };
        if let Some(local) = address.local() {
            *path = local;
            continue;
        }
        // Read here: who pulls nothing needs no token.
        let settings = Settings::from_environment(written.clone(), folder.clone())?;
        let shown = Shown::new(&path.to_string_lossy());
        let part = if is_tokenizer { Part::Tokenizer } else { Part::Whole };
        let pulled = hub::pull(&address, part, None, &settings, &|event| shown.show(event)).await;
        shown.end();
        let pulled = pulled.with_context(|| format!("{at}: pull {}", path.display()))?;
        tracing::info!(from = %path.display(), pin = %pulled.pin, to = %pulled.path.display(), fetched = pulled.fetched, offline = pulled.is_offline, "model pulled");
        *path = pulled.path;
    }
    Ok(raw)
}

/// What `doing` makes, or nothing if it is time to stop.
pub(crate) async fn unless<T>(
    stop: &mut (impl Future<Output = ()> + Unpin),
    doing: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        () = stop => Ok(None),
        done = doing => done.map(Some),
    }
}

/// A bar on a terminal, and a line now and then elsewhere.
struct Shown {
    what: String,
    is_terminal: bool,
    line: Mutex<Line>,
}

struct Line {
    began: Instant,
    /// What was here when it began.
    first: Option<u64>,
    drawn: Option<Instant>,
    percent: Option<u64>,
    /// Of which total that is a part.
    total: u64,
    is_open: bool,
}

impl Shown {
    fn new(what: &str) -> Self {
        let began = Instant::now();
        let line =
            Line { began, first: None, drawn: None, percent: None, total: 0, is_open: false };
        Self {
            what: what.to_owned(),
            is_terminal: std::io::stderr().is_terminal(),
            line: Mutex::new(line),
        }
    }

    fn show(&self, event: Event) {
        let Ok(mut line) = self.line.lock() else { return };
        match event {
            Event::Note(text) => {
                let end = if std::mem::take(&mut line.is_open) { "\n" } else { "" };
                write_out(&format!("{end}{text}\n"));
            }
            Event::Progress { done, total } if self.is_terminal => {
                let is_whole = done >= total;
                if !is_whole && line.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
                    return;
                }
                line.drawn = Some(Instant::now());
                let first = *line.first.get_or_insert(done);
                let gained = done.saturating_sub(first);
                write_out(&format!("\r{}", bar(done, total, gained, line.began.elapsed())));
                line.is_open = true;
            }
            Event::Progress { done, total } => {
                // The total grows when an index tells which shards there are.
                if std::mem::replace(&mut line.total, total) != total {
                    line.percent = None;
                }
                let percent = percent(done, total) / STEP_PERCENT * STEP_PERCENT;
                if line.percent.is_none_or(|shown| percent > shown) {
                    line.percent = Some(percent);
                    let (done, total) = (size(done), size(total));
                    write_out(&format!("{}: {percent} %, {done} of {total}\n", self.what));
                }
            }
        }
    }

    fn end(&self) {
        let Ok(mut line) = self.line.lock() else { return };
        if std::mem::take(&mut line.is_open) {
            write_out("\n");
        }
    }
}

fn write_out(text: &str) {
    // A terminal that went away is no reason to stop.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// `[#####.....]  50 %  1.2 of 2.4 GB  98.1 MB/s  12 s left`; `gained` bytes came in `elapsed`.
fn bar(done: u64, total: u64, gained: u64, elapsed: Duration) -> String {
    let percent = percent(done, total);
    let full = (percent as usize * BAR_WIDTH) / 100;
    let (full, empty) = ("#".repeat(full), ".".repeat(BAR_WIDTH - full));
    let speed = gained as f64 / elapsed.as_secs_f64().max(0.001);
    let left = total.saturating_sub(done);
    let left = if left > 0 && speed >= 1.0 {
        format!("{:.0} s left", left as f64 / speed)
    } else {
        String::new()
    };
    let (done, total, speed) = (size(done), size(total), size(speed as u64));
    // Blanks clear what a longer line left.
    format!("[{full}{empty}] {percent:>3} %  {done} of {total}  {speed}/s  {left:<16}")
}

const fn percent(done: u64, total: u64) -> u64 {
    let percent = done.saturating_mul(100).checked_div(total);
    match percent {
        Some(percent) if percent < 100 => percent,
        _ => 100,
    }
}

fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

const REDRAW: Duration = Duration::from_millis(100);
/// Between two lines where there is no terminal.
const STEP_PERCENT: u64 = 5;
const BAR_WIDTH: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_tells_how_far_and_how_long() {
        let text = bar(600_000_000, 1_200_000_000, 100_000_000, Duration::from_secs(2));

        let wanted = "[############............]  50 %  600.0 MB of 1.2 GB  50.0 MB/s  12 s left";
        assert_eq!(text.trim_end(), wanted);
    }

    #[test]
    fn nothing_is_everything_where_nothing_is_needed() {
        assert!(bar(0, 0, 0, Duration::ZERO).contains("100 %"));
    }
}
