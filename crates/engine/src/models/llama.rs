//! Llama and everything of its shape.

use super::transformer::{Design, LLAMA};

pub(super) static DESIGN: Design = LLAMA;
