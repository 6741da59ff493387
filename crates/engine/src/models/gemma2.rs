//! Gemma 2: every second layer with a window, squeezed scores and logits, norms around everything.

use super::transformer::{Design, LLAMA, Windows};
use crate::ops::gate::Activation;

pub(super) static DESIGN: Design = Design {
    sandwich: true,
    norms_from_one: true,
    scaled_embedding: true,
    activation: Activation::Gelu,
    windows: Windows::EverySecond,
    tied: true,
    ..LLAMA
};
