//! Qwen 2 and 2.5: Llama with biases on queries, keys and values.

use super::transformer::{Design, LLAMA, Windows};

pub(super) static DESIGN: Design = Design { biases: true, windows: Windows::Above, ..LLAMA };
