"""Writes the checkpoints of `../architectures` as GGUF files beside this file, as `convert_hf_to_gguf.py` does.

    pip install gguf numpy safetensors
    python make.py

What `transformers` computes with each is in its folder there.
"""

import json
import pathlib
import sys

import gguf
import numpy
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__).parent
ARCHITECTURES = HERE.parent / "architectures"
KINDS = {
    "llama": "llama", "llama-linear": "llama", "mixtral": "llama", "qwen2-yarn": "qwen2", "qwen3": "qwen3",
    "qwen3-moe": "qwen3moe", "gemma2": "gemma2", "gemma3": "gemma3", "gemma3-images": "gemma3", "phi3": "phi3",
    "phi3-partial": "phi3",
}
NORMS = {
    False: {"post_attention_layernorm": "ffn_norm"},
    True: {
        "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
PARTS = {
    "input_layernorm": "attn_norm", "self_attn.qkv_proj": "attn_qkv", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.gate": "ffn_gate_inp", "mlp.gate_up_proj": "ffn_up", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
EXPERTS = {"w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "down_proj": "down", "up_proj": "up"}


def interleaved(weights, heads):
    """Halves of a head to neighbours."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def text_part(name):
    for before in ["language_model.model.", "model.language_model."]:
        if name.startswith(before):
            return "model." + name.removeprefix(before)
    return None if name.startswith(("model.vision", "vision", "multi_modal", "model.multi_modal")) else name


def tensors(config, weights, architecture):
    gemma, experts = architecture.startswith("gemma"), {}
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, numbers in weights.items():
        name = text_part(name)
        if name is None or (name == "lm_head.weight" and config["tie_word_embeddings"]):
            continue
        stem, kind = name.rsplit(".", 1)
        if gemma and stem.endswith("norm"):
            numbers = numbers.astype(numpy.float32) + 1
        if stem in WHOLE:
            yield f"{WHOLE[stem]}.{kind}", numbers
            continue
        _, _, layer, part = stem.split(".", 3)
        if ".experts." in part:
            _, number, part = part.rsplit(".", 2)
            experts.setdefault(f"blk.{layer}.ffn_{EXPERTS[part]}_exps.{kind}", {})[int(number)] = numbers
            continue
        if architecture == "llama" and part.split(".")[-1] in heads:
            numbers = interleaved(numbers, heads[part.split(".")[-1]])
        yield f"blk.{layer}.{ {**PARTS, **NORMS[gemma]}[part] }.{kind}", numbers
    for name, parts in experts.items():
        yield name, numpy.stack([parts[number] for number in range(len(parts))])


def llama3_divisors(rope, width):
    frequencies = rope["rope_theta"] ** (-numpy.arange(0, width, 2) / width)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * numpy.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clip(0, 1)
    return (1 / (kept + (1 - kept) / rope["factor"])).astype(numpy.float32)


def write(name):
    architecture, folder = KINDS[name], ARCHITECTURES / name
    config = json.loads((folder / "config.json").read_text())
    config = {"tie_word_embeddings": True, **config["text_config"]} if "text_config" in config else config
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head_width = config.get("head_dim") or hidden // heads
    turned = int(head_width * config.get("partial_rotary_factor", 1.0))
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(turned)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    # Every token is a letter, but for one that two of them make.
    letters = [*(chr(letter) for letter in [*range(0x21, 0x7F), 0xA1]), "!\""]
    assert len(letters) == config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(letters)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(letters))
    writer.add_token_merges(["! \""])
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    # Files say this only where it is neither the width of a head nor known by the number of layers.
    if config.get("query_pre_attn_scalar", head_width) != head_width:
        writer.add_attention_scale(config["query_pre_attn_scalar"] ** -0.5)
    if name == "gemma3":
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if experts := config.get("num_local_experts") or config.get("num_experts"):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if width := config.get("moe_intermediate_size"):
        writer.add_expert_feed_forward_length(width)
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if "original_max_position_embeddings" in rope and rope["rope_type"] != "llama3":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        stretch = config["max_position_embeddings"] / original
        writer.add_rope_scaling_attn_factors(float(numpy.sqrt(1 + numpy.log(stretch) / numpy.log(original))))
        for kind in ["short", "long"]:
            writer.add_tensor(f"rope_factors_{kind}.weight", numpy.array(rope[f"{kind}_factor"], numpy.float32))
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, turned))
    for tensor, numbers in tensors(config, load_file(folder / "model.safetensors"), architecture):
        writer.add_tensor(tensor, numbers.astype(numpy.float16 if numbers.ndim > 1 else numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(name, architecture)


for name in sys.argv[1:] or KINDS:
    write(name)
