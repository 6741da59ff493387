//! Fetches models and adapters from where they are kept: a Hugging Face-style hub, an object store, another folder.
//!
//! [`pull`] leaves a folder in which every file is of one revision and is what its source says it is, or leaves nothing new
//! in it. What broke off goes on where it stopped, in another process too.
//!
//! Invariant: knows neither tensors nor gateways; files are names, sizes and digests.

mod address;
mod choose;
mod digest;
mod error;
mod event;
mod fetch;
mod http;
mod keep;
mod patience;
mod pull;
mod room;
mod settings;
mod source;

pub use address::Address;
pub use error::HubError;
pub use event::{Event, Show};
pub use patience::Patience;
pub use pull::{Part, Pulled, pull};
pub use settings::{Settings, Written};
