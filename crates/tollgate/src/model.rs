//! `tollgate model`: models from elsewhere, weights in fewer bits, and what that costs.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use domain::ModelName;
use engine::{
    Comparison, Model as Loaded, ModelSource, Progress, Quantization, compare, write_gguf,
};
use tokenizers::Tokenizer;

use crate::models;
use crate::print::{say, say_json, table};

/// Pull models, quantize them, and measure what that costs
#[derive(Args)]
pub(crate) struct Model {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Subcommand)]
enum ModelCommand {
    /// Fetch a model or an adapter from a hub, an object store or a folder, and check it
    Pull(models::Pull),
    /// Write a model as one GGUF file in fewer bits, for workers here and for llama.cpp
    Quantize(Quantize),
    /// Hold a quantized model against the full one on a text: divergence, agreement, perplexity
    Compare(Compare),
}

#[derive(Args)]
struct Quantize {
    /// Its folder, in the Hugging Face layout; the built-in model without it
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// `q8_0`, `q6_k`, `q5_k_m`, `q5_k`, `q4_k_m`, `q4_k` or `q4_0`
    #[arg(long = "as", value_name = "QUANTIZATION")]
    quantization: Quantization,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

#[derive(Args)]
struct Compare {
    /// The full model's folder; the built-in model without it
    #[arg(long, value_name = "FOLDER")]
    reference: Option<PathBuf>,
    /// A GGUF file of the same model
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "quantization",
        required_unless_present = "quantization"
    )]
    candidate: Option<PathBuf>,
    /// Instead of a file: the full model, quantized while it is loaded
    #[arg(long = "as", value_name = "QUANTIZATION")]
    quantization: Option<Quantization>,
    /// Text to compare on, as much like what the model will read as can be had
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens that are read at a time
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Model {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            ModelCommand::Pull(pull) => pull.run().await,
            ModelCommand::Quantize(quantize) => quantize.run(),
            ModelCommand::Compare(compare) => compare.run(),
        }
    }
}

impl Quantize {
    fn run(self) -> anyhow::Result<()> {
        let source = self.from.map_or(ModelSource::Demo, ModelSource::Folder);
        let mut show = |Progress { loaded, total }| bar("tensors", loaded.into(), total.into());
        let written = write_gguf(&source, self.quantization, &self.to, &mut show);
        bar_is_over();
        let written = written.with_context(|| format!("write {}", self.to.display()))?;
        let (before, after) = (megabytes(written.bytes_before), megabytes(written.bytes_after));
        say(&format!("{}: {after} MB, from {before} MB\n", self.to.display()))?;
        for (tensor, kind) in &written.fallbacks {
            say(&format!(
                "  {tensor} is kept as {kind}: its rows do not divide into larger blocks\n"
            ))?;
        }
        Ok(())
    }
}

impl Compare {
    fn run(self) -> anyhow::Result<()> {
        let reference = self.reference.clone().map_or(ModelSource::Demo, ModelSource::Folder);
        let full = load(&reference)?;
        let tokenizer = Tokenizer::from_bytes(&full.files().tokenizer);
        let tokenizer = tokenizer.map_err(|error| anyhow!("read the tokenizer: {error}"))?;
        let text = std::fs::read_to_string(&self.text);
        let text = text.with_context(|| format!("read {}", self.text.display()))?;
        let tokens =
            tokenizer.encode(text, false).map_err(|error| anyhow!("read the text: {error}"))?;
        let candidate = load(&self.candidate_source()?)?;
        let total = tokens.get_ids().len() as u64;
        let mut show = |done| bar("tokens", done, total);
        let found = compare(full, candidate, &[tokens.get_ids().to_vec()], self.window, &mut show);
        bar_is_over();
        report(&found.context("compare the models")?, self.json)
    }

    fn candidate_source(&self) -> anyhow::Result<ModelSource> {
        if let Some(quantization) = self.quantization {
            return Ok(ModelSource::Quantized { folder: self.reference.clone(), quantization });
        }
        let weights = self.candidate.clone().context("name a candidate")?;
        // One model, one tokenizer: that of the folder.
        let folder = self.reference.clone();
        let beside = || weights.parent().map(Path::to_owned).unwrap_or_default();
        Ok(ModelSource::Gguf { tokenizer: folder.unwrap_or_else(beside), weights })
    }
}

fn load(source: &ModelSource) -> anyhow::Result<Loaded> {
    Loaded::load(ModelName::new("model"), source, &mut |_| {}).context("load a model")
}

fn report(found: &Comparison, json: bool) -> anyhow::Result<()> {
    let Comparison {
        positions,
        mean_divergence,
        p99_divergence,
        top_agreement,
        reference_perplexity,
        candidate_perplexity,
        digests: [reference, candidate],
    } = found;
    if json {
        return say_json(&serde_json::json!({
            "positions": positions,
            "mean_kl_divergence": mean_divergence,
            "p99_kl_divergence": p99_divergence,
            "top_1_agreement": top_agreement,
            "reference": { "digest": reference, "perplexity": reference_perplexity },
            "candidate": { "digest": candidate, "perplexity": candidate_perplexity },
        }));
    }
    let rows = [
        ("tokens compared", positions.to_string()),
        ("mean KL divergence (nats)", format!("{mean_divergence:.6}")),
        ("p99 KL divergence (nats)", format!("{p99_divergence:.6}")),
        ("same most probable token", format!("{:.2} %", top_agreement * 100.0)),
        ("perplexity, full", format!("{reference_perplexity:.4}")),
        ("perplexity, candidate", format!("{candidate_perplexity:.4}")),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    say(&table(&["FIGURE", "VALUE"], &rows))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// A line that is written again and again, where somebody looks.
fn bar(what: &str, done: u64, total: u64) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        // A terminal that is gone has nobody who looks.
        let _ = write!(out, "\r{done} of {total} {what} ");
    }
}

fn bar_is_over() {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let _ = writeln!(out);
    }
}
