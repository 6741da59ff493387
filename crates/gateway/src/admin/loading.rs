//! Models of workers: loaded and unloaded while the workers run.

use std::sync::Arc;
use std::time::Duration;

use admission::tenancy::{Action, Resource};
use axum::Json;
use axum::extract::State;
use domain::{LoadKind, LoadOrder, ModelInfo, ModelName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::asked::{Body, Caller, Making};
use super::refusal::Refusal;
use super::workers::heard;
use super::{AdminApi, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(load)).routes(routes!(unload))
}

/// A model that a worker is to serve beside those it serves.
#[derive(Deserialize, ToSchema)]
#[schema(as = WorkerLoad)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    /// The worker's name, as `/admin/v1/status` tells it.
    worker: String,
    /// What clients are to ask for.
    name: String,
    /// A folder or a GGUF file on the worker's machine, below the folder that its configuration names (`loading.folder`);
    /// relative to that, or absolute.
    path: String,
    /// Store the weights of a folder in fewer bits: `q8_0`, `q6_k`, `q5_k_m`, `q5_k`, `q4_k_m`, `q4_k` or `q4_0`.
    quantize: Option<String>,
    /// For a GGUF file: a `tokenizer.json`, or a folder with one; its own folder if absent.
    tokenizer: Option<String>,
    /// The path is that of an adapter (a folder in the layout of PEFT) of the served model of this name.
    adapter_of: Option<String>,
}

/// A model that a worker serves now.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkerLoaded)]
pub(super) struct Loaded {
    /// The worker's name.
    worker: String,
    /// What clients ask for.
    name: String,
    /// What exactly it is; absent if nothing was loaded because only a dry run was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// How the weights are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<String>,
    /// Longest prompt plus output, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u32>,
}

/// Has a worker serve one model more, until it starts again with its configuration.
///
/// It is answered when the model is served, which takes as long as reading its files does; who leaves before does not stop it. Clients see it then. What runs on the worker goes on meanwhile, and a load that fails has changed nothing.
#[utoipa::path(
    post, path = "/workers/load", operation_id = "load_model", tag = "operation",
    params(Making),
    request_body = Draft,
    responses((status = 200, description = "It is served.", body = Loaded)),
)]
async fn load(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Making(terms): Making,
    Body(draft): Body<Draft>,
) -> Result<Json<Loaded>, Refusal> {
    let deed = (Action::Govern, Resource::Worker);
    api.registry.authorize(actor, deed.0, deed.1).await?;
    let detail = json!({
        "load": draft.name, "path": draft.path, "quantize": draft.quantize, "adapter_of": draft.adapter_of,
    });
    let (worker, order) = draft.order()?;
    let asked = worker.clone();
    if terms.dry_run {
        return Ok(Json(Loaded::of(worker, &order.name, None)));
    }
    // The worker goes on with it when the asker leaves, and then the audit log is to know of it as well.
    let loading = tokio::spawn(async move {
        let name = order.name.clone();
        let info = heard(&worker, api.gateway.router().load(&worker, order).await)?;
        api.registry.tell(actor, deed, &worker, detail).await?;
        Ok(Json(Loaded::of(worker, &name, Some(info))))
    });
    loading.await.unwrap_or_else(|error| {
        tracing::error!(worker = asked, error = %error, "loading a model broke");
        Err(Refusal::lost_worker(&asked))
    })
}

/// A model that a worker is to serve no longer.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = WorkerUnload)]
#[serde(deny_unknown_fields)]
pub(super) struct Unload {
    /// The worker's name, as `/admin/v1/status` tells it.
    worker: String,
    /// What clients ask for.
    name: String,
    /// In how many seconds what runs on it is to be over; what is not goes on on another worker that serves the model. No
    /// limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within_seconds: Option<u32>,
}

/// What goes on on a model that nobody new is given to.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkerUnloaded)]
pub(super) struct Unloaded {
    /// The worker's name.
    worker: String,
    /// What clients asked for.
    name: String,
    /// Sequences and orders that go on; absent if only a dry run was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<u32>,
}

/// Has a worker serve a model to nobody new, until it starts again with its configuration.
///
/// What runs on it goes on to its end, and then its memory is free. The adapters of a model go with it.
#[utoipa::path(
    post, path = "/workers/unload", operation_id = "unload_model", tag = "operation",
    params(Making),
    request_body = Unload,
    responses((status = 200, description = "Nobody new is given to it.", body = Unloaded)),
)]
async fn unload(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Making(terms): Making,
    Body(Unload { worker, name, within_seconds }): Body<Unload>,
) -> Result<Json<Unloaded>, Refusal> {
    let deed = (Action::Govern, Resource::Worker);
    api.registry.authorize(actor, deed.0, deed.1).await?;
    if terms.dry_run {
        return Ok(Json(Unloaded { worker, name, running: None }));
    }
    let within = within_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let model = ModelName::new(name.as_str());
    let running = heard(&worker, api.gateway.router().unload(&worker, &model, within).await)?;
    let detail = json!({ "unload": name, "within_seconds": within_seconds });
    api.registry.tell(actor, deed, &worker, detail).await?;
    Ok(Json(Unloaded { worker, name, running: Some(running) }))
}

impl Draft {
    /// On which worker, and what.
    fn order(self) -> Result<(String, LoadOrder), Refusal> {
        let Self { worker, name, path, quantize, tokenizer, adapter_of } = self;
        if name.trim().is_empty() {
            return Err(Refusal::invalid_field("name", "must not be empty"));
        }
        let kind = match adapter_of {
            None => LoadKind::Model { quantize, tokenizer },
            Some(_) if quantize.is_some() => {
                let message = "an adapter is loaded as it is; leave this out";
                return Err(Refusal::invalid_field("quantize", message));
            }
            Some(_) if tokenizer.is_some() => {
                let message = "an adapter has its model's; leave this out";
                return Err(Refusal::invalid_field("tokenizer", message));
            }
            Some(of) => LoadKind::Adapter { of: ModelName::new(of) },
        };
        Ok((worker, LoadOrder { name: ModelName::new(name), path, kind }))
    }
}

impl Loaded {
    fn of(worker: String, name: &ModelName, info: Option<ModelInfo>) -> Self {
        Self {
            worker,
            name: name.as_str().to_owned(),
            digest: info.as_ref().map(|info| info.digest.as_str().to_owned()),
            context_length: info.as_ref().map(|info| info.context_length),
            weights: info.map(|info| info.weights),
        }
    }
}
