//! Keeps an output inside the language it must be a sentence of.
//!
//! A [`Language`] is a format, compiled for one model's vocabulary; [`Languages`] compiles them and keeps the
//! recent ones. A [`Guide`] follows one sequence through its language and says which tokens may come next:
//! some that must (a forced run), and then a choice, the end, or nothing. Guides work on threads of their own,
//! while the step thread computes.
//!
//! Promise: what a guide says depends on the format and the output alone. Forced runs are looked for at the
//! beginning, after every token that was drawn, and after every run, so a guide that replays an output
//! stands where the first one stood, in the middle of a run too. Each sequence has its own copy of the
//! compiled language: what one explores does not count towards another one's limits.
//!
//! Invariant: knows nothing of logits, steps or sequences. Only this module knows `llguidance`.

mod desk;
mod guide;
mod language;
mod languages;
mod mask;
mod matching;
mod memory;
mod reader;
mod text;
#[cfg(any(test, feature = "fuzzing"))]
mod trial;
mod vocabulary;

pub(crate) use guide::{Guide, Guides, Next};
pub(crate) use language::Language;
pub(crate) use languages::{Languages, NotCompiled};
pub(crate) use mask::Mask;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use trial::Trial;
