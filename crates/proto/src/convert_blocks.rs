//! What is told of KV blocks, to the wire and back.

use domain::{BlockHash, ModelDigest};

use crate::contract::{BlockContent, BlocksWanted, FetchOrder, Fetched, PrefixChange, WorkerError};
use crate::convert::invalid;
use crate::convert_start::salt;
use crate::wire;

impl From<PrefixChange> for wire::PrefixChange {
    fn from(PrefixChange { reset, added, removed }: PrefixChange) -> Self {
        Self { reset, added, removed }
    }
}

impl From<wire::PrefixChange> for PrefixChange {
    fn from(wire::PrefixChange { reset, added, removed }: wire::PrefixChange) -> Self {
        Self { reset, added, removed }
    }
}

impl From<BlocksWanted> for wire::BlocksRequest {
    fn from(BlocksWanted { model, names }: BlocksWanted) -> Self {
        let names = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { model_digest: model.as_str().to_owned(), names }
    }
}

impl TryFrom<wire::BlocksRequest> for BlocksWanted {
    type Error = WorkerError;

    fn try_from(request: wire::BlocksRequest) -> Result<Self, WorkerError> {
        let names = request.names.iter().map(|name| block_name(name)).collect::<Result<_, _>>()?;
        Ok(Self { model: ModelDigest::new(request.model_digest), names })
    }
}

impl From<BlockContent> for wire::BlocksResponse {
    fn from(BlockContent { name, content }: BlockContent) -> Self {
        Self { name: name.as_bytes().to_vec(), content }
    }
}

impl TryFrom<wire::BlocksResponse> for BlockContent {
    type Error = WorkerError;

    fn try_from(response: wire::BlocksResponse) -> Result<Self, WorkerError> {
        Ok(Self { name: block_name(&response.name)?, content: response.content })
    }
}

impl From<FetchOrder> for wire::FetchRequest {
    fn from(FetchOrder { model, salt, tokens, from }: FetchOrder) -> Self {
        Self {
            model_digest: model.as_str().to_owned(),
            cache_salt: salt.as_bytes().to_vec(),
            tokens: tokens.to_vec(),
            from,
        }
    }
}

impl TryFrom<wire::FetchRequest> for FetchOrder {
    type Error = WorkerError;

    fn try_from(request: wire::FetchRequest) -> Result<Self, WorkerError> {
        Ok(Self {
            model: ModelDigest::new(request.model_digest),
            salt: salt(&request.cache_salt)?,
            tokens: request.tokens.into(),
            from: request.from,
        })
    }
}

impl From<Fetched> for wire::FetchResponse {
    fn from(Fetched { blocks, bytes }: Fetched) -> Self {
        Self { blocks, bytes }
    }
}

impl From<wire::FetchResponse> for Fetched {
    fn from(wire::FetchResponse { blocks, bytes }: wire::FetchResponse) -> Self {
        Self { blocks, bytes }
    }
}

fn block_name(bytes: &[u8]) -> Result<BlockHash, WorkerError> {
    let bytes = bytes.try_into().map_err(|_| invalid("a block's name must have 32 bytes"))?;
    Ok(BlockHash::from_bytes(bytes))
}
