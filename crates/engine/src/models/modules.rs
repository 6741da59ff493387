//! The projections of a layer by the names that Hugging Face gives them, and where they are in what a layer
//! computes: what an adapter may be beside.

use super::transformer::Design;
use super::{Experts, Shape};
use crate::ops::rope::Pairing;

/// What a layer multiplies by one matrix, possibly of several projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    QueryKeyValue,
    AttentionOutput,
    GateAndUp,
    Down,
}

/// One projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Below its layer.
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    /// Its first output among those of its place.
    pub(crate) column: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Heads whose outputs are in another order here than in safetensors: neighbours, not halves, are turned.
    pub(crate) interleaved: Option<usize>,
}

/// The projections of a layer, but not those of experts.
pub(crate) fn of_layer(design: &Design, shape: &Shape, layer: usize) -> Vec<Module> {
    let Shape { hidden, heads, kv_heads, head_width, feed_forward, .. } = *shape;
    let (queries, keys) = (heads * head_width, kv_heads * head_width);
    let module = |name, place, column, inputs, outputs| Module {
        name,
        place,
        column,
        inputs,
        outputs,
        interleaved: None,
    };
    let mut modules = Vec::new();
    if design.fused {
        let outputs = queries + 2 * keys;
        modules.push(module("self_attn.qkv_proj", Place::QueryKeyValue, 0, hidden, outputs));
    } else {
        let turned = |heads| (shape.pairing == Pairing::Neighbours).then_some(heads);
        let attention =
            |name, column, outputs| module(name, Place::QueryKeyValue, column, hidden, outputs);
        let query = attention("self_attn.q_proj", 0, queries);
        modules.push(Module { interleaved: turned(heads), ..query });
        let key = attention("self_attn.k_proj", queries, keys);
        modules.push(Module { interleaved: turned(kv_heads), ..key });
        modules.push(attention("self_attn.v_proj", queries + keys, keys));
    }
    modules.push(module("self_attn.o_proj", Place::AttentionOutput, 0, queries, hidden));
    if is_mixture(design, shape.experts.as_ref(), layer) {
        return modules;
    }
    if design.fused {
        modules.push(module("mlp.gate_up_proj", Place::GateAndUp, 0, hidden, 2 * feed_forward));
    } else {
        modules.push(module("mlp.gate_proj", Place::GateAndUp, 0, hidden, feed_forward));
        modules.push(module("mlp.up_proj", Place::GateAndUp, feed_forward, hidden, feed_forward));
    }
    modules.push(module("mlp.down_proj", Place::Down, 0, feed_forward, hidden));
    modules
}

fn is_mixture(design: &Design, experts: Option<&Experts>, layer: usize) -> bool {
    let experts = experts.filter(|_| design.experts.is_some());
    experts.is_some_and(|experts| !experts.plain_layers.contains(&layer))
}
