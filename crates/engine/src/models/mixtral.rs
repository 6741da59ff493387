//! Mixtral: Mistral with a mixture of experts in every layer.

use super::transformer::{Design, ExpertNames, LLAMA, Windows};

pub(super) static DESIGN: Design = Design {
    windows: Windows::Everywhere,
    experts: Some(ExpertNames {
        router: "block_sparse_moe.gate",
        experts: "block_sparse_moe.experts",
        gate: "w1",
        up: "w3",
        down: "w2",
    }),
    ..LLAMA
};
