"""Makes the tiny vocabularies beside this file as GGUF files hold them, and what other implementations cut texts into.

    pip install gguf tokenizers sentencepiece
    python make.py                                  # all of them
    python make.py NAME tokenizer.json PRE          # one of a real model, to look at: its name, its file, its kind of words

Byte-level vocabularies are trained and read by `tokenizers`, in the way of the models that have them; those with scores by
`sentencepiece`. `golden.json` of each holds texts and their tokens. The file says nothing but the vocabulary.
"""

import json
import pathlib
import random
import sys
import tempfile
import unicodedata

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def words(digits, tail="[\\r\\n]*", letters=r"[^\r\n\p{L}\p{N}]?\p{L}+", contractions=CONTRACTIONS + "|"):
    return rf"{contractions}{letters}|{digits}| ?[^\s\p{{L}}\p{{N}}]+{tail}|{SPACES}"


def cased(after):
    lead = r"[^\r\n\p{L}\p{N}]?"
    return rf"{lead}{UPPER}*{LOWER}+{after}|{lead}{UPPER}+{LOWER}*{after}"


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
# Expressions, or what `tokenizers` has for them; whether words may be tokens whole; a first token; composed text.
BYTE_LEVEL = {
    "llama-bpe": ([words(r"\p{N}{1,3}")], True, True, False),
    "qwen2": ([words(r"\p{N}")], False, False, True),
    "gpt-4o": ([words(r"\p{N}{1,3}", r"[\r\n/]*", cased(CONTRACTIONS + "?"), "")], False, False, False),
    "tekken": ([words(r"\p{N}", r"[\r\n/]*", cased(""), "")], True, True, False),
    "gpt-2": ([], False, False, False),
    "smollm": ([pre_tokenizers.Digits(individual_digits=True)], False, False, False),
    "default": ([r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], False, False, False),
}
# Whether a text begins with a space of its own; pieces found before all others.
SCORED = {"llama": (True, []), "gemma": (False, ["\n\n", "\t\t", "<tool>", "▁▁", "▁▁▁"])}
CONTROL = ["<|begin|>", "<|end|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "</think>"]

LINES = """
The quick brown fox jumps over the lazy dog, and it's 12345.67 times as quick as the dog's brother's.
WE'RE SURE THEY'VE DONE IT; I'M not, you'd say. She'll see what HE'S got: don't!
def main(argument: int = 1000) -> None:\n    return {"key": [1, 22, 333, 4444]}\r\n\tpass  # done
Ein Märchen über Größe, naïve Façade, el niño y la señorita, garçon, Ærøskøbing.
Съешь же ещё этих мягких французских булок, да выпей чаю. Ωμέγα και άλφα.
いろはにほへと ちりぬるを 漢字かな交じり文。 你好，世界！ 한국어 문장입니다.
مرحبا بالعالم ١٢٣ हिन्दी में लिखा हुआ पाठ १२३ ภาษาไทย
🙂🙃 👩‍👩‍👧‍👦 flags 🇩🇪🇯🇵 and ½ ² Ⅷ ① marks… “quoted” — dashed – text
   leading,   inner  and trailing   \n\n\n  \t \n and\u00a0no-break\u2003spaces\u3000here
https://example.com/a/b?c=d&e=f#g //comment /* x */ $100 €5 50% a+b=c <tag attr='v'/> x^2 ~y |z|
HTTPServer camelCase XMLHttpRequest iPhone McDonald ǅ ʰ ǆ aÀÉb ÀÉa
""".strip("\n").split("\n")


def texts(number):
    generator = random.Random(7)
    found = ["", " ", "  ", "\n", "a", " a", "\u0000\u0001\u007f", *LINES]
    found += [unicodedata.normalize("NFD", LINES[3]), unicodedata.normalize("NFD", LINES[5])]
    pieces = [piece for line in LINES for piece in line.split(" ")] + ["\n", "\r\n", "\t", "  ", "'S", "'ll", "0", "999"]
    special = [*CONTROL, *USER_DEFINED, "<tool>", "\n\n", "\t\t", "<s>", "</s>", "<0x41>", "▁"]
    while len(found) < number:
        chosen = generator.choices(pieces, k=generator.randint(1, 14)) + generator.choices(special, k=generator.randint(0, 3))
        generator.shuffle(chosen)
        found.append(generator.choice(["", " "]).join(chosen))
    return found


def write(name, model, pre, tokens, kinds, number, encode, *, scores=None, merges=None, **more):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(folder / "vocabulary.gguf", "llama")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if scores is not None:
        writer.add_token_scores(scores)
    if merges is not None:
        writer.add_token_merges(merges)
    for key, value in more.items():
        (writer.add_bool if isinstance(value, bool) else writer.add_uint32)(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    cases = [dict(text=text, ids=encode(text)) for text in texts(number)]
    (folder / "golden.json").write_text(json.dumps(cases, ensure_ascii=False) + "\n")
    print(name, len(tokens), "tokens,", sum(len(case["ids"]) for case in cases), "in", len(cases), "texts")


def trained(name):
    steps, whole, begins, composed = BYTE_LEVEL[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole))
    split = [pre_tokenizers.Split(Regex(step), "isolated") if isinstance(step, str) else step for step in steps]
    cuts = not any(isinstance(step, str) for step in steps)
    split.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cuts))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    if composed:
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(LINES * 3, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in USER_DEFINED])
    if begins:
        first = (CONTROL[0], tokenizer.token_to_id(CONTROL[0]))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{CONTROL[0]} $A", special_tokens=[first])
    byte_level(name, json.loads(tokenizer.to_str()), name, 60, tokenizer)


def byte_level(name, file, pre, number, tokenizer):
    """Writes a vocabulary as `convert_hf_to_gguf.py` does."""
    vocabulary = dict(file["model"]["vocab"])
    kinds = {}
    for token in file["added_tokens"]:
        vocabulary[token["content"]] = token["id"]
        kinds[token["id"]] = 3 if token["special"] else 4
    texts = {token: text for text, token in vocabulary.items()}
    tokens = [texts.get(token, f"[PAD{token}]") for token in range(max(texts) + 1)]
    kinds = [kinds.get(token, 1 if token in texts else 5) for token in range(len(tokens))]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in file["model"]["merges"]]
    begins = tokenizer.encode("").ids
    more = dict(bos_token_id=begins[0]) if begins else {}
    encode = lambda text: tokenizer.encode(text).ids
    write(name, "gpt2", pre, tokens, kinds, number, encode, merges=merges, add_bos_token=bool(begins), **more)


def scored(name):
    spaced, user_defined = SCORED[name]
    folder = pathlib.Path(tempfile.mkdtemp())
    corpus, model = folder / "corpus.txt", folder / name
    corpus.write_text("\n".join(LINES * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(model), model_type="bpe", vocab_size=800, byte_fallback=True,
        character_coverage=0.98, add_dummy_prefix=spaced, remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, normalization_rule_name="identity", user_defined_symbols=user_defined,
        minloglevel=2,
    )
    pieces(name, model.with_suffix(".model"), spaced, 60)


def pieces(name, model, spaced, number):
    """Writes a vocabulary as `convert_hf_to_gguf.py` does, which tells user-defined pieces by their spaces."""
    reader = sentencepiece.SentencePieceProcessor(model_file=str(model))
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(pathlib.Path(model).read_bytes())
    tokens = [piece.piece for piece in proto.pieces]
    kinds = [piece.type for piece in proto.pieces]
    tokens = [token.replace("▁", " ") if kind == 4 else token for token, kind in zip(tokens, kinds)]
    special = [token for token, kind in zip(tokens, kinds) if kind in (2, 3)]

    def encode(text):
        # `sentencepiece` never reads a special token in a text; what stands around one is a text of its own.
        parts, ids = [text], [reader.bos_id()]
        for token in special:
            parts = [part for old in parts for part in cut(old, token)]
        for part in parts:
            ids += [reader.piece_to_id(part)] if part in special else reader.encode(part)
        return ids

    scores = [-1000.0 if piece.type == 4 else piece.score for piece in proto.pieces]
    write(name, "llama", "default", tokens, kinds, number, encode, scores=scores, bos_token_id=reader.bos_id(),
          eos_token_id=reader.eos_id(), unknown_token_id=reader.unk_id(), add_space_prefix=spaced)


def cut(text, token):
    if text == token or token not in text:
        return [text]
    parts = []
    for part in text.split(token):
        parts += [part, token]
    return [part for part in parts[:-1] if part]


if len(sys.argv) == 4 and sys.argv[2].endswith(".json"):
    name, path, pre = sys.argv[1:]
    byte_level(name, json.loads(pathlib.Path(path).read_text()), pre, 3000, Tokenizer.from_file(path))
elif len(sys.argv) == 4:
    pieces(sys.argv[1], sys.argv[2], sys.argv[3] == "spaced", 3000)
else:
    for name in sys.argv[1:] or [*BYTE_LEVEL, *SCORED]:
        trained(name) if name in BYTE_LEVEL else scored(name)
