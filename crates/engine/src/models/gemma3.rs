//! Gemma 3 (text): five layers with a window and rotations of their own to each without, heads of queries
//! and keys normalised.

use super::transformer::{Design, LLAMA, Windows};
use crate::ops::gate::Activation;

pub(super) static DESIGN: Design = Design {
    head_norms: true,
    sandwich: true,
    norms_from_one: true,
    scaled_embedding: true,
    activation: Activation::Gelu,
    windows: Windows::AllButEach,
    tied: true,
    ..LLAMA
};
