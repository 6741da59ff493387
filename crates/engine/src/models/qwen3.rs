//! Qwen 3: Llama with heads of queries and keys normalised.

use super::transformer::{Design, LLAMA, Windows};

pub(super) static DESIGN: Design = Design { head_norms: true, windows: Windows::Above, ..LLAMA };
