//! Phi 3 and 4: Llama with fused tensors, and perhaps only a part of each head turned.

use super::transformer::{Design, LLAMA, Windows};

pub(super) static DESIGN: Design = Design { fused: true, windows: Windows::Everywhere, ..LLAMA };
