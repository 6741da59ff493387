"""Makes the tiny embedding models beside this file, and what `transformers` computes with them in float32.

    pip install torch transformers
    python make.py

Random weights from a fixed seed; `golden.json` holds texts of token ids and their vectors.
"""

import json
import pathlib

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
MODELS = {
    "bert": (transformers.BertConfig, transformers.BertModel, dict(type_vocab_size=2), "mean", True),
    "bert-cls": (transformers.BertConfig, transformers.BertModel, dict(type_vocab_size=2), "cls", False),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaModel, dict(type_vocab_size=1, pad_token_id=1),
                    "mean", True),
}


def make(name):
    config, kind, changes, pooling, normalised = MODELS[name]
    model = kind(config(**{**COMMON, **changes}), add_pooling_layer=False).float().eval()
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    for parameter_name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "LayerNorm.weight" in parameter_name:
            parameter.data = 1 + 0.2 * noise
        elif parameter.dim() == 1:
            parameter.data = 0.3 * noise
        elif "embeddings" in parameter_name:
            parameter.data = 0.5 * noise
        else:
            parameter.data = noise * 1.2 / parameter.shape[-1] ** 0.5
        parameter.data = parameter.data.half().float()
    texts, vectors = [], []
    for length in [1, 2, 31, 33, 128]:
        text = torch.randint(2, 96, (1, length), generator=generator)
        with torch.no_grad():
            rows = model(text).last_hidden_state[0]
        vector = rows[0] if pooling == "cls" else rows.mean(dim=0)
        if normalised:
            vector = torch.nn.functional.normalize(vector, dim=0)
        texts.append(text[0].tolist())
        vectors.append([round(x, 6) for x in vector.tolist()])
    folder = HERE / name
    model.half().save_pretrained(folder)
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


for name in MODELS:
    make(name)
