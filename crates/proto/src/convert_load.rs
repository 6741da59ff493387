//! Models that are loaded and unloaded, and how it stands with each, to the wire and back.

use std::time::Duration;

use domain::{LoadKind, LoadOrder, ModelDigest, ModelName};
use tonic::{Code, Status};

use crate::contract::WorkerError;
use crate::convert::{invalid, nanos};
use crate::loading::{Loading, ModelLoad, NotLoaded};
use crate::wire;

impl From<LoadOrder> for wire::LoadRequest {
    fn from(LoadOrder { name, path, kind }: LoadOrder) -> Self {
        use wire::load_request::Kind;
        let kind = match kind {
            LoadKind::Model { quantize, tokenizer } => {
                Kind::Model(wire::LoadModel { quantize, tokenizer })
            }
            LoadKind::Adapter { of } => {
                Kind::Adapter(wire::LoadAdapter { of: of.as_str().to_owned() })
            }
        };
        Self { name: name.as_str().to_owned(), path, kind: Some(kind) }
    }
}

impl TryFrom<wire::LoadRequest> for LoadOrder {
    type Error = WorkerError;

    fn try_from(
        wire::LoadRequest { name, path, kind }: wire::LoadRequest,
    ) -> Result<Self, WorkerError> {
        use wire::load_request::Kind;
        let kind = match kind.ok_or_else(|| invalid("it does not say what to load"))? {
            Kind::Model(wire::LoadModel { quantize, tokenizer }) => {
                LoadKind::Model { quantize, tokenizer }
            }
            Kind::Adapter(wire::LoadAdapter { of }) => LoadKind::Adapter { of: ModelName::new(of) },
        };
        Ok(Self { name: ModelName::new(name), path, kind })
    }
}

impl From<Loading> for wire::LoadResponse {
    fn from(loading: Loading) -> Self {
        use wire::load_response::Kind;
        let kind = match loading {
            Loading::Progress { loaded, total } => {
                Kind::Progress(wire::LoadProgress { loaded, total })
            }
            Loading::Done(info) => Kind::Loaded(info.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::LoadResponse> for Loading {
    type Error = WorkerError;

    fn try_from(response: wire::LoadResponse) -> Result<Self, WorkerError> {
        use wire::load_response::Kind;
        match response.kind.ok_or_else(|| invalid("it does not say how far it is"))? {
            Kind::Progress(wire::LoadProgress { loaded, total }) => {
                Ok(Self::Progress { loaded, total })
            }
            Kind::Loaded(info) => Ok(Self::Done(info.into())),
        }
    }
}

impl From<(Vec<ModelDigest>, ModelLoad)> for wire::ModelLoad {
    fn from((models, load): (Vec<ModelDigest>, ModelLoad)) -> Self {
        Self {
            model_digests: models.iter().map(|model| model.as_str().to_owned()).collect(),
            free_blocks: load.free_blocks,
            total_blocks: load.total_blocks,
            running: load.running,
            waiting: load.waiting,
            block_tokens: load.block_tokens,
            block_bytes: load.block_bytes,
            running_tokens: load.running_tokens,
            waiting_tokens: load.waiting_tokens,
            first_token_nanos: nanos(load.first_token_in),
            prompt_token_nanos: nanos(load.prompt_token_time),
            step_nanos: nanos(load.step_time),
        }
    }
}

impl From<wire::ModelLoad> for (Vec<ModelDigest>, ModelLoad) {
    fn from(load: wire::ModelLoad) -> Self {
        let models = load.model_digests.into_iter().map(ModelDigest::new).collect();
        let load = ModelLoad {
            free_blocks: load.free_blocks,
            total_blocks: load.total_blocks,
            running: load.running,
            waiting: load.waiting,
            block_tokens: load.block_tokens,
            block_bytes: load.block_bytes,
            running_tokens: load.running_tokens,
            waiting_tokens: load.waiting_tokens,
            first_token_in: Duration::from_nanos(load.first_token_nanos),
            prompt_token_time: Duration::from_nanos(load.prompt_token_nanos),
            step_time: Duration::from_nanos(load.step_nanos),
        };
        (models, load)
    }
}

/// A refusal to load or unload, for the wire.
pub(crate) fn not_loaded(why: NotLoaded, message: String) -> Status {
    let code = match why {
        NotLoaded::NameTaken => Code::AlreadyExists,
        NotLoaded::NoSuchModel => Code::NotFound,
        NotLoaded::Unreadable => Code::FailedPrecondition,
        NotLoaded::Outside => Code::PermissionDenied,
        NotLoaded::NoMemory => Code::ResourceExhausted,
    };
    let mut status = Status::new(code, message);
    status
        .metadata_mut()
        .insert(NOT_LOADED, tonic::metadata::MetadataValue::from_static(why.name()));
    status
}

/// Why nothing was loaded or unloaded, if that is what a status says.
pub(crate) fn why_not_loaded(status: &Status) -> Option<NotLoaded> {
    let why = status.metadata().get(NOT_LOADED)?.to_str().ok()?;
    NotLoaded::ALL.into_iter().find(|one| one.name() == why)
}

const NOT_LOADED: &str = "not-loaded";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_reads_back_as_it_was_sent() {
        for why in NotLoaded::ALL {
            let refused = why.because(format!("because of {}", why.name()));
            assert_eq!(WorkerError::from(Status::from(refused.clone())), refused);
        }
    }

    #[test]
    fn an_order_reads_back_as_it_was_sent() {
        let kinds = [
            LoadKind::Model { quantize: Some("q8_0".to_owned()), tokenizer: Some("t".to_owned()) },
            LoadKind::Adapter { of: ModelName::new("base") },
        ];
        for kind in kinds {
            let order = LoadOrder { name: ModelName::new("mine"), path: "a/b".to_owned(), kind };
            assert_eq!(LoadOrder::try_from(wire::LoadRequest::from(order.clone())), Ok(order));
        }
        let nothing = wire::LoadRequest { kind: None, ..wire::LoadRequest::default() };
        assert!(matches!(LoadOrder::try_from(nothing), Err(WorkerError::Invalid(_))));
    }
}
