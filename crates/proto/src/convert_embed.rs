//! Texts and their vectors, to the wire and back.

use domain::ModelDigest;

use crate::contract::{EmbedOrder, Embedded, WorkerError};
use crate::convert::invalid;
use crate::wire;

impl From<EmbedOrder> for wire::EmbedRequest {
    fn from(EmbedOrder { request, model, texts, share }: EmbedOrder) -> Self {
        let texts = texts.iter().map(|text| wire::EmbedText { tokens: text.to_vec() }).collect();
        Self {
            request_id: request.to_string(),
            model_digest: model.as_str().to_owned(),
            texts,
            share: Some(share.into()),
        }
    }
}

impl TryFrom<wire::EmbedRequest> for EmbedOrder {
    type Error = WorkerError;

    fn try_from(request: wire::EmbedRequest) -> Result<Self, WorkerError> {
        Ok(Self {
            request: request.request_id.parse().map_err(|error| invalid(&format!("{error}")))?,
            model: ModelDigest::new(request.model_digest),
            texts: request.texts.into_iter().map(|text| text.tokens.into()).collect(),
            share: request.share.ok_or_else(|| invalid("share is missing"))?.try_into()?,
        })
    }
}

impl From<Embedded> for wire::EmbedResponse {
    fn from(Embedded { vectors, usage }: Embedded) -> Self {
        let vectors = vectors.into_iter().map(|numbers| wire::Vector { numbers }).collect();
        Self { vectors, usage: Some(usage.into()) }
    }
}

impl TryFrom<wire::EmbedResponse> for Embedded {
    type Error = WorkerError;

    fn try_from(response: wire::EmbedResponse) -> Result<Self, WorkerError> {
        Ok(Self {
            vectors: response.vectors.into_iter().map(|vector| vector.numbers).collect(),
            usage: response.usage.ok_or_else(|| invalid("usage is missing"))?.into(),
        })
    }
}
