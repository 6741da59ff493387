//! `tollgate admin prices`.

use admission::tenancy::{NewPrice, PriceDeletion, PriceRecord};
use clap::{ArgGroup, Args, Subcommand};
use domain::{ModelDigest, ModelName, NanoUsd, Price, PriceId, PricePerMillion, Timestamp};

use super::desk::{Desk, Listed, Shown};
use crate::print::{moment, parse_moment};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List them
    List {
        /// Only those of this model
        #[arg(long)]
        model: Option<String>,
    },
    /// Show one
    Show { id: PriceId },
    /// Make one
    Create(Create),
    /// Remove one that has not begun to count
    Delete { id: PriceId },
}

/// A price: of tokens, or of GPU time.
#[derive(Args)]
#[command(group = ArgGroup::new("kind").required(true).args(["input", "gpu_hour"]))]
pub(super) struct Create {
    /// The model, as clients name it
    #[arg(long)]
    model: String,
    /// The exact version of the model; without it, every version
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    /// The first moment it counts: a date, or a moment such as 2026-11-01T00:00:00Z; now if not given
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    from: Option<Timestamp>,
    /// Dollars for a million tokens of prompts
    #[arg(long, value_name = "AMOUNT", value_parser = dollars, requires = "output")]
    input: Option<PricePerMillion>,
    /// Dollars for a million tokens of prompts that a cache supplied; as other ones if not given
    #[arg(long, value_name = "AMOUNT", value_parser = dollars, requires = "input")]
    cached_input: Option<PricePerMillion>,
    /// Dollars for a million tokens produced
    #[arg(long, value_name = "AMOUNT", value_parser = dollars, requires = "input")]
    output: Option<PricePerMillion>,
    /// Dollars for an hour of GPU time, whatever the worker costs
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    gpu_hour: Option<NanoUsd>,
}

impl Command {
    pub(super) async fn run(self, desk: &Desk) -> anyhow::Result<()> {
        match self {
            Self::List { model } => desk.list::<PriceRecord>(Listed::named(model)).await,
            Self::Show { id } => desk.show::<PriceRecord>(id).await,
            Self::Create(create) => desk.change(create.request()).await,
            Self::Delete { id } => desk.change(PriceDeletion { price: id }).await,
        }
    }
}

impl Create {
    fn request(self) -> NewPrice {
        let Self { model, digest, from, input, cached_input, output, gpu_hour } = self;
        let price = match (gpu_hour, input) {
            (Some(per_hour), _) => Price::GpuTime { per_hour, markup_percent: 100 },
            (None, input) => {
                let input = input.unwrap_or_default();
                Price::Tokens {
                    input,
                    cached_input: cached_input.unwrap_or(input),
                    output: output.unwrap_or_default(),
                }
            }
        };
        NewPrice {
            model: ModelName::new(model),
            digest: digest.map(ModelDigest::new),
            effective_from: from,
            price,
        }
    }
}

impl Shown for PriceRecord {
    const TITLES: &'static [&'static str] = &["FROM", "VERSION", "PRICE"];

    fn cells(&self) -> Vec<String> {
        let version = self.digest.as_ref().map_or("every", |digest| digest.as_str());
        vec![moment(self.effective_from), version.to_owned(), words(&self.price)]
    }
}

fn words(price: &Price) -> String {
    match price {
        Price::Tokens { input, cached_input, output } => {
            let [input, cached_input, output] =
                [input, cached_input, output].map(|price| price.amount().dollars());
            format!("${input} in, ${cached_input} cached, ${output} out, per million tokens")
        }
        Price::GpuTime { per_hour, markup_percent: 100 } => {
            format!("${} per GPU hour", per_hour.dollars())
        }
        Price::GpuTime { per_hour, markup_percent } => {
            format!("{markup_percent} % of ${} per GPU hour", per_hour.dollars())
        }
    }
}

fn amount(text: &str) -> Result<NanoUsd, String> {
    NanoUsd::parse_dollars(text).ok_or_else(|| "must be an amount such as 2.50".to_owned())
}

fn dollars(text: &str) -> Result<PricePerMillion, String> {
    let amount = NanoUsd::parse_dollars(text).and_then(PricePerMillion::new);
    amount.ok_or_else(|| "must be dollars per million tokens, such as 0.25".to_owned())
}
