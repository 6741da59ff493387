//! An open-loop load generator for anything that speaks `OpenAI`'s protocol, and Tollgate's own
//! measurements made with it.
//!
//! A [`Scenario`] is data: phases of load, and thresholds on what is measured in them. [`run`] sends
//! one phase's load and keeps every sample, so that percentiles are exact; [`Figures`] is what the
//! samples come to. The same seed is the same load.
//!
//! Invariant: knows the product as its clients do, by its binary, its endpoint and its keys.

mod client;
mod figures;
mod load;
mod percentiles;
mod product;
mod random;
mod run;
mod scenario;
mod threshold;
mod trace;

pub use client::{Client, Failure, Question, Sample, Target, http};
pub use figures::{Figures, Metric, Round};
pub use load::{Bodies, Load, Planned, completion, poisson};
pub use percentiles::Percentiles;
pub use product::{Product, Role, Serve, free_address};
pub use random::{Random, Zipf};
pub use run::{Phase, Samples, run};
pub use scenario::Scenario;
pub use threshold::{Threshold, Verdict};
pub use trace::{Replay, Row, rows};
