"""Makes the tiny embedding models beside this file, and what `transformers` computes with them in float32.

    pip install torch transformers
    python make.py

Random weights from a fixed seed; `golden.json` holds texts of token ids and their vectors. Texts go through the model in
one batch, the shorter ones padded.
With names as arguments, only those are made.
"""

import json
import pathlib
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).parent
COMMON = dict(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=130,
)
SPECIAL = dict(pad_token_id=0, bos_token_id=0, eos_token_id=0, cls_token_id=0, sep_token_id=0)
MODELS = {
    "bert": (transformers.BertConfig, transformers.BertModel, dict(type_vocab_size=2), "mean", True),
    "bert-cls": (transformers.BertConfig, transformers.BertModel, dict(type_vocab_size=2), "cls", False),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaModel, dict(type_vocab_size=1, pad_token_id=1),
                    "mean", True),
    # Windows shorter than the texts, and odd.
    "modernbert": (transformers.ModernBertConfig, transformers.ModernBertModel,
                   dict(num_hidden_layers=5, local_attention=17, **SPECIAL), "mean", True),
    # Another period, other bases, biases everywhere.
    "modernbert-cls": (transformers.ModernBertConfig, transformers.ModernBertModel,
                       dict(num_hidden_layers=4, local_attention=64, global_attn_every_n_layers=2,
                            global_rope_theta=500.0, local_rope_theta=30.0, norm_bias=True, attention_bias=True,
                            mlp_bias=True, **SPECIAL),
                       "cls", False),
    "nomic": (transformers.NomicBertConfig, transformers.NomicBertModel, {}, "mean", True),
    "nomic-cls": (transformers.NomicBertConfig, transformers.NomicBertModel, dict(type_vocab_size=1), "cls", False),
}
# What the files of published models say instead of what `transformers` writes now.
PUBLISHED = {
    "modernbert-cls": dict(global_attn_every_n_layers=2, global_rope_theta=500.0, local_rope_theta=30.0),
    "nomic-cls": dict(activation_function="swiglu", layer_norm_epsilon=1e-12, n_embd=64, n_head=4, n_inner=96, n_layer=2,
                      n_positions=8192, max_trained_positions=128, prenorm=False, causal=False, qkv_proj_bias=False,
                      mlp_fc1_bias=False, mlp_fc2_bias=False, rotary_emb_base=1000, rotary_emb_fraction=1.0,
                      rotary_emb_interleaved=False, rotary_emb_scale_base=None, rotary_scaling_factor=None,
                      use_rms_norm=False),
}
UNPUBLISHED = {
    "modernbert-cls": ["layer_types", "rope_parameters"],
    "nomic-cls": ["hidden_act", "layer_norm_eps", "hidden_size", "num_attention_heads", "head_dim", "intermediate_size",
                  "num_hidden_layers", "max_position_embeddings", "rope_parameters"],
}


def make(name):
    config, kind, changes, pooling, normalised = MODELS[name]
    model = kind(config(**{**COMMON, **changes})).float().eval()
    model.pooler = None
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    for parameter_name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm.weight" in parameter_name.lower():
            parameter.data = 1 + 0.2 * noise
        elif parameter.dim() == 1:
            parameter.data = 0.3 * noise
        elif "embeddings" in parameter_name:
            parameter.data = 0.5 * noise
        else:
            parameter.data = noise * 1.2 / parameter.shape[-1] ** 0.5
        parameter.data = parameter.data.half().float()
    folder = HERE / name
    model.half().save_pretrained(folder)
    if name in PUBLISHED:
        written = json.loads((folder / "config.json").read_text())
        written = {key: value for key, value in written.items() if key not in UNPUBLISHED[name]}
        (folder / "config.json").write_text(json.dumps({**written, **PUBLISHED[name]}, indent=2) + "\n")
    # What is read is what was written; `transformers` does not know the names that Nomic's own code gives to settings.
    settings = model.config if name.startswith("nomic") else config.from_pretrained(folder)
    model = kind.from_pretrained(folder, config=settings).float().eval()
    lengths = [1, 2, 31, 33, 128]
    texts = [torch.randint(2, 96, (length,), generator=generator) for length in lengths]
    batch = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=model.config.pad_token_id)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        outputs = model(batch, attention_mask=mask.long()).last_hidden_state
    vectors = []
    for rows, length in zip(outputs, lengths):
        vector = rows[0] if pooling == "cls" else rows[:length].mean(dim=0)
        if normalised:
            vector = torch.nn.functional.normalize(vector, dim=0)
        vectors.append([round(x, 6) for x in vector.tolist()])
    texts = [text.tolist() for text in texts]
    vocabulary = {f"t{token}": token for token in range(96)}
    tokenizer = dict(version="1.0", model=dict(type="WordLevel", vocab=vocabulary, unk_token="t0"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer) + "\n")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooled = dict(pooling_mode_cls_token=pooling == "cls", pooling_mode_mean_tokens=pooling == "mean")
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooled) + "\n")
    types = ["Transformer", "Pooling"] + (["Normalize"] if normalised else [])
    modules = [dict(type=f"sentence_transformers.models.{one}") for one in types]
    (folder / "modules.json").write_text(json.dumps(modules) + "\n")
    (folder / "golden.json").write_text(json.dumps(dict(texts=texts, vectors=vectors)) + "\n")
    print(name, "transformers", transformers.__version__)


for name in sys.argv[1:] or MODELS:
    make(name)
