//! What the fuzz target in `fuzz/` calls: bytes that nobody vouches for, decoded as messages of the worker contract.
//!
//! Holds what conversion promises: a malformed message is an error, never a panic, and what was understood is
//! the same after another journey. There is no stable interface, and nothing of it is in the product.

use std::fmt::Debug;

use domain::{ModelFiles, ModelInfo, Rent};
use prost::Message;

use crate::contract::{
    BlockContent, BlocksWanted, EmbedOrder, Embedded, Event, FetchOrder, Fetched, PrefixChange,
    Start, WorkerState,
};
use crate::wire;

/// Decodes bytes as the message that the first of them chooses; tells whether they are one.
pub fn wire(input: &[u8]) -> bool {
    let [which, bytes @ ..] = input else { return false };
    let read = READERS[usize::from(*which) % READERS.len()];
    read(bytes)
}

/// Every message that becomes a noun of ours.
const READERS: [fn(&[u8]) -> bool; 13] = [
    journey::<wire::Start, Start>,
    journey::<wire::GenerateResponse, Event>,
    journey::<wire::WorkerState, WorkerState>,
    journey::<wire::EmbedRequest, EmbedOrder>,
    journey::<wire::EmbedResponse, Embedded>,
    journey::<wire::PrefixChange, PrefixChange>,
    journey::<wire::BlocksRequest, BlocksWanted>,
    journey::<wire::BlocksResponse, BlockContent>,
    journey::<wire::FetchRequest, FetchOrder>,
    journey::<wire::FetchResponse, Fetched>,
    journey::<wire::SetPriceRequest, Rent>,
    journey::<wire::ModelInfo, ModelInfo>,
    journey::<wire::ModelFilesResponse, ModelFiles>,
];

/// A message to a noun and, if it is one, there and back again.
fn journey<M, N>(bytes: &[u8]) -> bool
where
    M: Message + Default + From<N> + TryInto<N>,
    N: Clone + Debug,
{
    let Ok(message) = M::decode(bytes) else { return false };
    let Ok(noun) = message.try_into() else { return false };
    let sent = M::from(noun.clone()).encode_to_vec();
    let back: Option<N> =
        M::decode(sent.as_slice()).ok().and_then(|message| message.try_into().ok());
    // In words, because a number that is none is not equal to itself.
    let (before, after) = (format!("{:?}", Some(&noun)), format!("{back:?}"));
    assert_eq!(after, before, "after another journey");
    true
}

#[cfg(test)]
mod tests;
