//! Qwen 3 with a mixture of experts in most layers.

use super::transformer::{Design, ExpertNames, LLAMA, Windows};

pub(super) static DESIGN: Design = Design {
    head_norms: true,
    windows: Windows::Above,
    experts: Some(ExpertNames {
        router: "mlp.gate",
        experts: "mlp.experts",
        gate: "gate_proj",
        up: "up_proj",
        down: "down_proj",
    }),
    ..LLAMA
};
