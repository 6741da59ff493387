//! Which models there are, and what a call to one of them comes to as a job.
//!
//! The catalog follows the router: a model appears when a worker serves it and its tokenizer has
//! been read. Nothing here is configured twice; only prices are.

mod embedding;
mod words;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use admission::{Caller, Directory};
use arc_swap::ArcSwap;
use domain::{
    ErrorKind, Format, Job, JobParts, ModelInfo, ModelKind, ModelName, OutputRules, Price,
    Priority, RequestId, Share,
};
use routing::{Router, Served};
use serde_json::json;

use crate::call::Call;
use crate::config::{GatewaySettings, Shares};
use crate::failure::Failure;
use crate::text::{ModelText, TextError};
use crate::tools::{self, ToolChoice};

pub(crate) use embedding::EmbeddingJob;

/// The models that can be asked for.
pub(crate) struct Catalog {
    router: Arc<Router>,
    /// Prices with a date; they go before those of the configuration.
    directory: Arc<Directory>,
    tariff: ArcSwap<Tariff>,
    models: RwLock<Arc<BTreeMap<ModelName, Arc<Model>>>>,
}

/// What the configuration says that models cost, and who gets how much of them.
pub(crate) struct Tariff {
    /// Token prices.
    pub(crate) prices: HashMap<ModelName, Price>,
    /// For models without a price of their own: GPU time at cost, times this.
    pub(crate) markup_percent: u32,
    /// Projects that are not as everybody else.
    pub(crate) shares: Shares,
}

impl Tariff {
    /// Those of a configuration.
    pub(crate) fn of(settings: &GatewaySettings) -> Self {
        Self {
            prices: settings.prices.clone(),
            markup_percent: settings.gpu_time_markup_percent,
            shares: settings.shares.clone(),
        }
    }
}

/// A model that can be asked for.
pub(crate) struct Model {
    pub(crate) info: ModelInfo,
    pub(crate) text: Arc<ModelText>,
    /// What it costs a tenant if no dated price says otherwise.
    pub(crate) price: Price,
}

/// Why a model cannot be offered.
#[derive(Debug, thiserror::Error)]
enum OfferError {
    #[error("fetch model files")]
    Files(#[from] proto::WorkerError),
    #[error("use model files")]
    Text(#[from] TextError),
    #[error("read model files")]
    Panicked(#[from] tokio::task::JoinError),
}

impl Catalog {
    pub(crate) fn new(router: Arc<Router>, directory: Arc<Directory>, tariff: Tariff) -> Self {
        let (tariff, models) = (ArcSwap::from_pointee(tariff), RwLock::default());
        Self { router, directory, tariff, models }
    }

    /// From now on this tariff holds for whatever comes.
    pub(crate) async fn adopt(&self, tariff: Tariff) {
        self.tariff.store(Arc::new(tariff));
        self.refresh().await;
    }

    /// How much of contended workers a caller gets for a request that asks for this priority.
    pub(crate) fn share(&self, caller: &Caller, asked: Option<Priority>) -> Share {
        self.tariff.load().shares.of(caller.scope().project, asked)
    }

    /// Keeps the catalog up with the router until dropped.
    pub(crate) async fn follow(&self) {
        loop {
            self.refresh().await;
            tokio::select! {
                () = self.router.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    async fn refresh(&self) {
        let all = self.router.models();
        self.withdraw(|name| all.iter().all(|served| served.info.name != *name));
        for served in all {
            let known = self.find(&served.info.name);
            let price = self.price(&served);
            let text = match known {
                Some(model) if model.info == served.info && model.price == price => continue,
                Some(model) if model.info.digest == served.info.digest => {
                    Ok(Arc::clone(&model.text))
                }
                _ => self.read_text(&served.info).await,
            };
            match text {
                Ok(text) => self.offer(Model { info: served.info, text, price }),
                Err(error) => {
                    tracing::warn!(model = %served.info.name, error = ?error, "model not offered");
                }
            }
        }
    }

    async fn read_text(&self, info: &ModelInfo) -> Result<Arc<ModelText>, OfferError> {
        let files = self.router.model_files(&info.digest).await?;
        let stop_tokens = info.stop_tokens.clone();
        let read = move || ModelText::new(&files, &stop_tokens);
        let text = tokio::task::spawn_blocking(read).await??;
        Ok(Arc::new(text))
    }

    fn offer(&self, model: Model) {
        let calls = model.text.voice().format.name;
        tracing::info!(model = %model.info.name, digest = %model.info.digest, calls, "model offered");
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = BTreeMap::clone(&models);
        next.insert(model.info.name.clone(), Arc::new(model));
        *models = Arc::new(next);
    }

    /// Offers no longer what the last worker has given up.
    fn withdraw(&self, given_up: impl Fn(&ModelName) -> bool) {
        if !self.all().keys().any(&given_up) {
            return;
        }
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = BTreeMap::clone(&models);
        next.retain(|name, _| {
            let goes = given_up(name);
            if goes {
                tracing::info!(model = %name, "model no longer offered");
            }
            !goes
        });
        *models = Arc::new(next);
    }

    /// What `model` costs a tenant; without a price list it is GPU time, never nothing.
    fn price(&self, served: &Served) -> Price {
        let Tariff { prices, markup_percent, .. } = &**self.tariff.load();
        let gpu_time =
            Price::GpuTime { per_hour: served.price_per_hour, markup_percent: *markup_percent };
        prices.get(&served.info.name).copied().unwrap_or(gpu_time)
    }

    fn find(&self, name: &ModelName) -> Option<Arc<Model>> {
        self.all().get(name).cloned()
    }

    fn all(&self) -> Arc<BTreeMap<ModelName, Arc<Model>>> {
        Arc::clone(&self.models.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What models are called.
    pub(crate) fn names(&self) -> Vec<ModelName> {
        self.all().keys().cloned().collect()
    }

    /// The models `caller` may use, by name.
    pub(crate) fn visible_to(&self, caller: &Caller) -> Vec<Arc<Model>> {
        let all = self.all();
        all.values().filter(|model| caller.may_use(&model.info.name)).cloned().collect()
    }

    /// One model, if there is one of that name and `caller` may use it.
    pub(crate) fn model(&self, caller: &Caller, name: &ModelName) -> Result<Arc<Model>, Failure> {
        let model = self.find(name).filter(|model| caller.may_use(&model.info.name));
        model.ok_or_else(|| {
            if self.all().is_empty() {
                return Failure::no_models_yet();
            }
            let message = format!("the model `{name}` does not exist or you may not use it");
            let failure = Failure::of(ErrorKind::ModelNotFound, message);
            failure.blaming("model")
        })
    }

    /// Whether any model can be asked for.
    pub(crate) fn is_ready(&self) -> bool {
        !self.all().is_empty() && self.router.is_ready()
    }

    /// A call as a job: an allowed model, exact prompt tokens, a bounded output.
    pub(crate) async fn resolve(
        &self,
        caller: &Caller,
        request: RequestId,
        call: Call,
    ) -> Result<(Arc<Model>, Job), Failure> {
        let model = self.model(caller, &call.model)?;
        if model.info.kind != ModelKind::Text {
            let name = &model.info.name;
            let message =
                format!("the model `{name}` makes embeddings, not text; use /v1/embeddings");
            return Err(Failure::invalid("model", message));
        }
        let field = call.prompt.field();
        let output = output(&model, &call)?;
        let (output, prompt) = words::worded(&model, &call, output).await?;
        words::known(&model, field, &prompt, &call.sampling, &output)?;
        let share = Share { priority: call.priority, ..Share::of(caller.scope().project) };
        let parts = JobParts {
            request,
            model: model.info.name.clone(),
            digest: model.info.digest.clone(),
            context_length: model.info.context_length,
            prompt: prompt.into(),
            max_output: call.max_output,
            choices: call.choices,
            sampling: call.sampling,
            output,
            stop: call.stop,
            share,
            reproducible: call.reproducible,
            price: self.price_now(&model),
            bound: call.bound,
        };
        let job = Job::new(parts).map_err(|error| Failure::no_job(&error, field))?;
        let (least, most) = (job.output().min_tokens, job.max_output());
        if least > most {
            let message = format!(
                "`min_tokens` is {least}, and after this prompt there is room for {most} tokens"
            );
            return Err(Failure::invalid("min_tokens", message));
        }
        Ok((model, job))
    }

    /// The price of this moment; what it becomes later is another request's.
    fn price_now(&self, model: &Model) -> Price {
        self.directory.price(&model.info.name, &model.info.digest).unwrap_or(model.price)
    }
}

/// The call's rules, with calls of functions in the words of the model.
fn output(model: &Model, call: &Call) -> Result<OutputRules, Failure> {
    let Some(tools) = &call.tools else { return Ok(call.output.clone()) };
    let answer = match (&tools.choice, &call.output.format) {
        // As it likes, and in no form: nothing to hold it to. Libraries set `strict` whatever the choice, and mean it as a wish.
        (ToolChoice::Auto, Format::Text) => return Ok(call.output.clone()),
        (ToolChoice::Auto, Format::JsonObject) => Some(json!({ "type": "object" })),
        (ToolChoice::Auto, Format::JsonSchema(schema)) => serde_json::from_str(schema).ok(),
        (ToolChoice::Auto, Format::Regex(_) | Format::Choice(_) | Format::Grammar(_)) => {
            let message = "an answer of this form cannot be offered beside `tools`; set `tool_choice` to \"none\" or \"required\"";
            return Err(Failure::invalid("tools", message));
        }
        // What is called is all of the answer.
        (ToolChoice::Required | ToolChoice::Named(_), _) => {
            words::refuse_form_of_nothing(call)?;
            None
        }
    };
    let grammar = tools::grammar(tools, model.text.voice(), answer.as_ref());
    Ok(OutputRules { format: Format::Grammar(grammar.into()), ..call.output.clone() })
}

const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Takes well under a millisecond.
const SHORT_PROMPT_BYTES: usize = 4096;
