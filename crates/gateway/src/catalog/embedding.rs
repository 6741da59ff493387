//! What a request for vectors comes to as a job.

use std::sync::Arc;

use admission::Caller;
use domain::{
    ErrorKind, Job, JobParts, ModelInfo, ModelKind, OutputRules, RequestId, Sampling, Share,
};

use super::{Catalog, Model, SHORT_PROMPT_BYTES};
use crate::endpoints::embeddings::{EmbeddingCall, Input, Inputs};
use crate::failure::Failure;
use crate::text::ModelText;

/// A request for vectors that may run.
pub(crate) struct EmbeddingJob {
    pub(crate) model: Arc<Model>,
    /// All texts, one after the other.
    pub(crate) job: Job,
    /// The tokens of each.
    pub(crate) texts: Vec<Arc<[u32]>>,
}

impl Catalog {
    /// A call for vectors as a job: an allowed model that makes some, and exact tokens, of which each text has no more
    /// than the model reads.
    pub(crate) async fn resolve_embedding(
        &self,
        caller: &Caller,
        request: RequestId,
        call: EmbeddingCall,
    ) -> Result<EmbeddingJob, Failure> {
        let model = self.model(caller, &call.model)?;
        check_kind(&model.info, call.dimensions)?;
        let texts = tokens(&model, call.inputs).await?;
        let all: Vec<u32> = texts.iter().flat_map(|text| text.iter().copied()).collect();
        let job = Job::embedding(JobParts {
            request,
            model: model.info.name.clone(),
            digest: model.info.digest.clone(),
            context_length: model.info.context_length,
            prompt: all.into(),
            max_output: None,
            choices: 1,
            sampling: Sampling::greedy(),
            output: OutputRules::default(),
            stop: Vec::new(),
            share: Share { priority: call.priority, ..Share::of(caller.scope().project) },
            reproducible: true,
            price: self.price_now(&model),
            bound: call.bound,
        });
        let job = job.map_err(|error| Failure::no_job(&error, "input"))?;
        Ok(EmbeddingJob { model, job, texts })
    }
}

/// Refuses a model that makes no vectors, or none of that length.
fn check_kind(info: &ModelInfo, wanted: Option<u32>) -> Result<(), Failure> {
    let name = &info.name;
    let ModelKind::Embedding { dimensions } = info.kind else {
        let message =
            format!("the model `{name}` makes text, not embeddings; use /v1/chat/completions");
        return Err(Failure::invalid("model", message));
    };
    if wanted.is_none_or(|wanted| wanted == dimensions) {
        return Ok(());
    }
    let message = format!(
        "the model `{name}` makes vectors of {dimensions} numbers and does not say that they may be shortened; leave `dimensions` out"
    );
    Err(Failure::invalid("dimensions", message))
}

/// The tokens of each text; much text is read off the network threads.
async fn tokens(model: &Arc<Model>, inputs: Inputs) -> Result<Vec<Arc<[u32]>>, Failure> {
    let (text, info) = (Arc::clone(&model.text), model.info.clone());
    if inputs.bytes() <= SHORT_PROMPT_BYTES {
        return read(&text, &info, &inputs);
    }
    let reading = tokio::task::spawn_blocking(move || read(&text, &info, &inputs));
    reading.await.map_err(Failure::internal)?
}

fn read(text: &ModelText, info: &ModelInfo, inputs: &Inputs) -> Result<Vec<Arc<[u32]>>, Failure> {
    let one = |(at, input): (usize, &Input)| {
        let ids = match input {
            Input::Text(content) => text.tokens_of(content)?,
            Input::Tokens(ids) => ids.clone(),
        };
        check(info, &ids, || inputs.field(at))?;
        Ok(ids.into())
    };
    inputs.texts.iter().enumerate().map(one).collect()
}

fn check(info: &ModelInfo, ids: &[u32], field: impl Fn() -> String) -> Result<(), Failure> {
    let &ModelInfo { context_length, vocabulary, .. } = info;
    if ids.is_empty() {
        let field = field();
        let message = format!("`{field}` has no tokens; send text");
        return Err(Failure::invalid(field, message));
    }
    if ids.len() > context_length as usize {
        let field = field();
        let message = format!(
            "this model's maximum context length is {context_length} tokens, and `{field}` has {}; shorten it or send its parts",
            ids.len()
        );
        return Err(Failure::of(ErrorKind::ContextLengthExceeded, message).blaming(&field));
    }
    if ids.iter().any(|id| *id >= vocabulary) {
        let message = format!("token ids of this model are below {vocabulary}");
        return Err(Failure::invalid(field(), message));
    }
    Ok(())
}
