//! What GGUF files call the tensors that we know by their Hugging Face names.

/// A tensor in a file, or one expert's part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InFile {
    pub(super) name: String,
    /// Of a tensor that holds all experts of a layer: which one.
    pub(super) expert: Option<usize>,
}

/// The GGUF name of a tensor; a name we do not know stays as it is. In a `sandwich` there are norms on both sides
/// of attention and feed-forward.
pub(super) fn gguf_name(name: &str, sandwich: bool) -> String {
    let mut name = name.to_owned();
    let norm = if sandwich { SANDWICH_NAMES } else { PLAIN_NAMES };
    for (theirs, gguf) in norm.iter().chain(NAMES) {
        name = name.replace(theirs, gguf);
    }
    name
}

/// Where a tensor is, experts among them.
pub(super) fn in_file(name: &str, sandwich: bool) -> InFile {
    if let Some(expert) = expert(name) {
        return expert;
    }
    InFile { name: gguf_name(name, sandwich), expert: None }
}

/// What older files call an expert's tensor, which have one for each.
pub(super) fn old_expert_name(name: &str, expert: usize) -> String {
    name.replace("_exps.", &format!(".{expert}."))
}

/// The tensor that says how a layer chooses its experts.
pub(super) fn router(layer: usize) -> String {
    format!("blk.{layer}.ffn_gate_inp.weight")
}

/// `model.layers.3.mlp.experts.7.up_proj.weight`: part 7 of `blk.3.ffn_up_exps.weight`.
fn expert(name: &str) -> Option<InFile> {
    let (before, after) = name.split_once(".experts.")?;
    let layer = before.strip_prefix("model.layers.")?.split('.').next()?;
    let (number, part) = after.split_once('.')?;
    let (_, gguf) = EXPERT_PARTS.iter().find(|(theirs, _)| *theirs == part)?;
    Some(InFile { name: format!("blk.{layer}.{gguf}"), expert: Some(number.parse().ok()?) })
}

/// Pieces of Hugging Face names, and what GGUF calls them; longer pieces first.
const NAMES: &[(&str, &str)] = &[
    ("model.embed_tokens.", "token_embd."),
    ("lm_head.", "output."),
    ("model.norm.", "output_norm."),
    ("model.layers.", "blk."),
    (".input_layernorm.", ".attn_norm."),
    (".self_attn.qkv_proj.", ".attn_qkv."),
    (".self_attn.q_proj.", ".attn_q."),
    (".self_attn.k_proj.", ".attn_k."),
    (".self_attn.v_proj.", ".attn_v."),
    (".self_attn.o_proj.", ".attn_output."),
    (".self_attn.q_norm.", ".attn_q_norm."),
    (".self_attn.k_norm.", ".attn_k_norm."),
    (".block_sparse_moe.gate.", ".ffn_gate_inp."),
    (".mlp.gate.", ".ffn_gate_inp."),
    (".mlp.gate_up_proj.", ".ffn_up."),
    (".mlp.gate_proj.", ".ffn_gate."),
    (".mlp.up_proj.", ".ffn_up."),
    (".mlp.down_proj.", ".ffn_down."),
];

/// What the norm before the feed-forward layer is called where it is the only other one.
const PLAIN_NAMES: &[(&str, &str)] = &[(".post_attention_layernorm.", ".ffn_norm.")];

/// And where there are norms on both sides.
const SANDWICH_NAMES: &[(&str, &str)] = &[
    (".post_attention_layernorm.", ".post_attention_norm."),
    (".pre_feedforward_layernorm.", ".ffn_norm."),
    (".post_feedforward_layernorm.", ".post_ffw_norm."),
];

/// Parts of an expert, as Mixtral and Qwen call them.
const EXPERT_PARTS: &[(&str, &str)] = &[
    ("w1.weight", "ffn_gate_exps.weight"),
    ("w2.weight", "ffn_down_exps.weight"),
    ("w3.weight", "ffn_up_exps.weight"),
    ("gate_proj.weight", "ffn_gate_exps.weight"),
    ("down_proj.weight", "ffn_down_exps.weight"),
    ("up_proj.weight", "ffn_up_exps.weight"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expert_is_a_part_of_its_layers_tensor() {
        let mixtral = in_file("model.layers.3.block_sparse_moe.experts.7.w3.weight", false);
        let expected = InFile { name: "blk.3.ffn_up_exps.weight".to_owned(), expert: Some(7) };
        assert_eq!(mixtral, expected);
        assert_eq!(in_file("model.layers.3.mlp.experts.7.up_proj.weight", false), expected);
        assert_eq!(old_expert_name(&expected.name, 7), "blk.3.ffn_up.7.weight");
        assert_eq!(in_file("model.layers.3.mlp.gate.weight", false).name, router(3));
    }
}
