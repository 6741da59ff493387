//! Mistral: Llama, with a window in every layer where the configuration has one.

use super::transformer::{Design, LLAMA, Windows};

pub(super) static DESIGN: Design = Design { windows: Windows::Everywhere, ..LLAMA };
