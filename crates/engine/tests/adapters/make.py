"""Makes the tiny adapters beside this file, and what PEFT computes with them in float32.

    pip install torch transformers peft
    python make.py

Every adapter has random weights from a fixed seed, for the checkpoint of `../architectures` that begins its name, or for the
demo model.
`golden.json` of each holds one text of token ids, the logits at some of its positions, and the greedy continuation
of its first half.
"""

import json
import pathlib
import sys

import peft
import torch
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]

ADAPTERS = {
    "llama": dict(r=4, lora_alpha=8, target_modules=ALL),
    "llama-some": dict(r=3, lora_alpha=6, use_rslora=True, target_modules=["v_proj", "down_proj"], layers_to_transform=[1]),
    "qwen2": dict(r=20, lora_alpha=10, target_modules=["q_proj", "k_proj", "gate_proj"]),
    "gemma2": dict(r=4, lora_alpha=8, target_modules=ALL),
    "phi3": dict(r=4, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
    "mixtral": dict(r=4, lora_alpha=8, target_modules=ATTENTION),
    "demo": dict(r=2, lora_alpha=1, target_modules=["q_proj", "v_proj", "o_proj"]),
    "demo-other": dict(r=1, lora_alpha=0.5, target_modules=ALL),
}


def make(name):
    base = HERE.parent / "architectures" / name.split("-")[0]
    if name.startswith("demo"):
        base = HERE.parent.parent / "demo-model"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    torch.manual_seed(0)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.1, **ADAPTERS[name])).eval()
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    for parameter_name, parameter in sorted(model.named_parameters()):
        if "lora_" in parameter_name:
            noise = torch.randn(parameter.shape, generator=generator)
            # As large as the weights that they are beside.
            parameter.data = noise / parameter.shape[-1] ** 0.5
            if name.startswith("demo"):
                # In 16 bits as the base; both sides compute with the numbers as they are there.
                parameter.data = parameter.data.half().float()
    generator = torch.Generator().manual_seed(11)
    text = torch.randint(2, model.config.vocab_size, (1, 60), generator=generator)
    with torch.no_grad():
        logits = model(input_ids=text).logits[0]
        with model.disable_adapter():
            without = model(input_ids=text).logits[0]
        half = text[:, :30]
        greedy = []
        for _ in range(40):
            following = model(input_ids=half).logits[0, -1].argmax().reshape(1, 1)
            greedy.append(int(following))
            half = torch.cat([half, following], dim=1)
    folder = HERE / name
    model.peft_config["default"].base_model_name_or_path = base.name
    if name.startswith("demo"):
        model.half()
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    positions = [0, 1, 15, 16, 31, 32, 47, 59]
    if name.startswith("demo"):
        positions = positions[-2:]
    golden = dict(
        text=text[0].tolist(),
        logits={str(position): [round(x, 5) for x in logits[position].tolist()] for position in positions},
        greedy=greedy,
    )
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, float((logits - without).abs().max() / logits.abs().max()), "peft", peft.__version__)


for name in sys.argv[1:] or ADAPTERS:
    make(name)
