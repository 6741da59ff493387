"""A real model of sentences: its vectors are those of `transformers`, and near where texts mean the same."""

import json
import pathlib

import openai

from checks import MODEL, check, run

client = openai.OpenAI(max_retries=0, timeout=120)
# Made by make_sentences.py.
GOLDEN = json.loads((pathlib.Path(__file__).parent / "sentences.json").read_text())
ANSWER = client.embeddings.create(model=MODEL, input=GOLDEN["texts"])
VECTORS = [vector.embedding for vector in ANSWER.data]


def likeness(one, other):
    return sum(x * y for x, y in zip(one, other, strict=True))


@check
def every_vector_is_that_of_another_implementation():
    for text, found, expected in zip(GOLDEN["texts"], VECTORS, GOLDEN["vectors"], strict=True):
        off = max(abs(x - y) for x, y in zip(found, expected, strict=True))
        assert off < 1e-4, (text, off)
        assert likeness(found, expected) > 0.99999, text


@check
def every_token_is_counted():
    assert ANSWER.usage.prompt_tokens == sum(GOLDEN["tokens"]), ANSWER.usage


@check
def a_vector_does_not_depend_on_what_else_was_asked():
    for text, together in zip(GOLDEN["texts"], VECTORS, strict=True):
        alone = client.embeddings.create(model=MODEL, input=text).data[0].embedding
        assert alone == together, text


@check
def what_means_the_same_is_nearer_than_what_does_not():
    invoice, bill, cat, *_ = VECTORS
    assert likeness(invoice, bill) > 2 * likeness(invoice, cat)


run()
