"""Makes the tiny checkpoints beside this file, and what `transformers` computes with them in float32.

    pip install torch transformers
    python make.py

Every checkpoint has random weights from a fixed seed. `golden.json` of each holds one text of token ids, the
logits at some of its positions, and the greedy continuation of its first half.
"""

import json
import pathlib
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
COMMON = dict(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    tie_word_embeddings=False,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=None,
    torch_dtype="float32",
)


def rope(kind, theta=10000.0, **more):
    return dict(rope_type=kind, rope_theta=theta, **more)


CHECKPOINTS = {
    "llama": (
        transformers.LlamaConfig,
        dict(rope_parameters=rope("llama3", 500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                  original_max_position_embeddings=64)),
    ),
    "llama-linear": (transformers.LlamaConfig, dict(rope_parameters=rope("linear", factor=2.0), head_dim=32)),
    "mistral": (transformers.MistralConfig, dict(sliding_window=20, head_dim=16)),
    "qwen2": (transformers.Qwen2Config, dict(use_sliding_window=True, sliding_window=24, max_window_layers=1)),
    "qwen2-yarn": (
        transformers.Qwen2Config,
        dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    ),
    "qwen3": (transformers.Qwen3Config, dict(head_dim=32, tie_word_embeddings=True)),
    "gemma2": (
        transformers.Gemma2Config,
        dict(head_dim=32, sliding_window=16, query_pre_attn_scalar=24, attn_logit_softcapping=5.0,
             final_logit_softcapping=20.0, num_hidden_layers=3, tie_word_embeddings=True),
    ),
    "gemma3": (
        transformers.Gemma3TextConfig,
        dict(head_dim=32, sliding_window=16, query_pre_attn_scalar=48, num_hidden_layers=3, tie_word_embeddings=True,
             layer_types=["sliding_attention", "full_attention", "sliding_attention"],
             architectures=["Gemma3ForCausalLM"]),
    ),
    # The text part of a model that reads images; every sixth layer sees everything, at an eighth of the speed.
    "gemma3-images": (
        transformers.Gemma3Config,
        dict(text_config=dict(COMMON, hidden_size=32, intermediate_size=48, head_dim=16, sliding_window=16,
                              query_pre_attn_scalar=16, num_hidden_layers=7, tie_word_embeddings=True,
                              rope_parameters=dict(full_attention=rope("linear", 1e6, factor=8.0),
                                                   sliding_attention=rope("default"))),
             vision_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                                image_size=32, patch_size=8),
             mm_tokens_per_image=4, tie_word_embeddings=True),
    ),
    "phi3": (transformers.Phi3Config, dict(sliding_window=30)),
    "phi3-partial": (
        transformers.Phi3Config,
        dict(partial_rotary_factor=0.5, num_attention_heads=2, num_key_value_heads=1, original_max_position_embeddings=128,
             rope_parameters=rope("longrope", short_factor=[1.0 + i / 10 for i in range(8)],
                                  long_factor=[2.0 + i for i in range(8)], partial_rotary_factor=0.5,
                                  original_max_position_embeddings=128)),
    ),
    "mixtral": (transformers.MixtralConfig, dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=None)),
    "qwen3-moe": (
        transformers.Qwen3MoeConfig,
        dict(head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=48, norm_topk_prob=True,
             decoder_sparse_step=1, mlp_only_layers=[1]),
    ),
}


def shake(model, seed):
    """Weights large enough that every part of the architecture shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.data = parameter.data + 0.2 * noise
        elif "embed" in name:
            parameter.data = 0.5 * noise
        elif parameter.dim() == 1:
            parameter.data = 0.3 * noise
        else:
            parameter.data = noise * 1.2 / parameter.shape[-1] ** 0.5
        # Files hold 16 bits; both sides compute with the numbers as they are there.
        parameter.data = parameter.data.half().float()


def make(name):
    kind, changes = CHECKPOINTS[name]
    config = kind(**(changes if "text_config" in changes else {**COMMON, **changes}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    shake(model, sum(map(ord, name)))
    folder = HERE / name
    generator = torch.Generator().manual_seed(7)
    text = torch.randint(2, config.get_text_config().vocab_size, (1, 60), generator=generator)
    with torch.no_grad():
        logits = model(text).logits[0]
        half = text[:, :30]
        greedy = []
        for _ in range(40):
            following = model(half).logits[0, -1].argmax().reshape(1, 1)
            greedy.append(int(following))
            half = torch.cat([half, following], dim=1)
    model.half().save_pretrained(folder)
    vocabulary = {f"t{token}": token for token in range(config.get_text_config().vocab_size)}
    bytes_only = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = dict(version="1.0", pre_tokenizer=bytes_only, model=dict(type="BPE", vocab=vocabulary, merges=[]))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)
    positions = [0, 1, 15, 16, 31, 32, 47, 59]
    golden = dict(
        text=text[0].tolist(),
        logits={str(position): [round(x, 6) for x in logits[position].tolist()] for position in positions},
        greedy=greedy,
    )
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, float(logits.abs().max()), "transformers", transformers.__version__)


for name in sys.argv[1:] or CHECKPOINTS:
    make(name)
