//! The clients our users have: the official SDKs, pinned, against the real binary.
//!
//! A script in `python/` or `node/` is a set of named checks for every major version of its SDK. What
//! is tested is what the SDK makes of our answers: its types, its helpers, its own error classes.

mod node;
mod python;
mod script;
