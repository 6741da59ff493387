//! Tests of the repository itself: what review would otherwise have to watch for.

mod configuration;
mod files;
mod layers;
mod metrics;
mod scanner;
mod tidy;
