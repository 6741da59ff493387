//! An open-loop load generator for anything that speaks `OpenAI`'s protocol, and Tollgate's own
//! measurements made with it.
//!
//! A [`Scenario`] is data: phases of load, and thresholds on what is measured in them. [`run`] sends
//! one phase's load and keeps every sample, so that percentiles are exact; [`Figures`] is what the
//! samples come to. The same seed is the same load.
//!
//! [`Burst`] is for what differs by microseconds: whole answers, from threads that wait, against a gateway whose
//! worker is a [`StandIn`].
//!
//! Invariant: measures the product as its clients know it, by its binary, its endpoint and its keys; but for
//! what no client sees: what happens between workers, and what is left in one (the commands `drain`, `soak` and `neighbour`).

mod burst;
mod client;
mod figures;
mod load;
mod paired;
mod percentiles;
mod product;
mod random;
mod redis;
mod run;
mod scenario;
mod stand_in;
mod threshold;
mod trace;
mod wire;

pub use burst::{Burst, Tally};
pub use client::{Client, Failure, Question, Sample, Target, http};
pub use figures::{Figures, Metric, Round};
pub use load::{Bodies, Load, Planned, completion, poisson};
pub use paired::{Bound, Judged, Pair, Side, median};
pub use percentiles::Percentiles;
pub use product::{Product, Role, Serve, free_address};
pub use random::{Random, Zipf};
pub use redis::{Commands, PrivateRedis};
pub use run::{Phase, Samples, run};
pub use scenario::Scenario;
pub use stand_in::StandIn;
pub use threshold::{Threshold, Verdict};
pub use trace::{Replay, Row, rows};
pub use wire::{Message, Wire};
