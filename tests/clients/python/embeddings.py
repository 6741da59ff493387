"""Embeddings: both encodings, every kind of input, and the SDK's own exception classes for what cannot be embedded."""

import base64
import struct

import openai

from checks import MODEL, WHO, check, expect, run

client = openai.OpenAI(max_retries=0, timeout=60)
DIMENSIONS = 64


def embed(text, **changes):
    return client.embeddings.create(model=MODEL, input=text, **changes)


def close(one, other):
    return len(one) == len(other) and all(abs(x - y) < 1e-6 for x, y in zip(one, other))


@check
def a_text_becomes_a_vector():
    # The SDK asks for base64 where nothing is said, and decodes it by itself.
    answer = embed("t22")
    assert answer.object == "list" and answer.model == MODEL, answer
    assert len(answer.data) == 1, answer
    vector = answer.data[0]
    assert vector.object == "embedding" and vector.index == 0, vector
    assert len(vector.embedding) == DIMENSIONS, vector
    assert all(isinstance(number, float) for number in vector.embedding), vector
    assert abs(sum(number * number for number in vector.embedding) - 1) < 1e-5, vector


@check
def both_encodings_hold_the_same_numbers():
    floats = embed("t22", encoding_format="float").data[0].embedding
    text = embed("t22", encoding_format="base64").data[0].embedding
    assert isinstance(text, str), text
    numbers = struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(text))
    assert close(floats, numbers) and close(floats, embed("t22").data[0].embedding)


@check
def several_texts_keep_their_order():
    texts = [f"t{number}" for number in range(2, 96)]
    answer = embed(texts)
    assert [vector.index for vector in answer.data] == list(range(len(texts))), answer
    assert close(answer.data[20].embedding, embed("t22").data[0].embedding)


@check
def token_ids_are_read_as_they_are():
    assert close(embed([22]).data[0].embedding, embed("t22").data[0].embedding)
    answer = embed([[30, 5], [22]])
    assert close(answer.data[1].embedding, embed("t22").data[0].embedding)
    assert not close(answer.data[0].embedding, answer.data[1].embedding)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3, answer.usage


@check
def usage_has_a_cost():
    assert embed([2] * 100).usage.model_extra["cost"] > 0


@check
def an_embedding_model_is_listed():
    model = client.models.retrieve(MODEL)
    assert model.model_extra["embedding_dimensions"] == DIMENSIONS, model


@check
def what_cannot_be_embedded_names_its_field():
    for text, param in (("", "input"), ([], "input"), (["t2", ""], "input[1]"), ([[2], [2] * 131], "input[1]")):
        error = expect(openai.BadRequestError, lambda: embed(text))
        assert error.param == param, (error, error.param)
    error = expect(openai.BadRequestError, lambda: embed("t2", dimensions=8))
    assert error.param == "dimensions", (error, error.param)


@check
def a_chat_with_it_is_a_bad_request():
    error = expect(openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=WHO))
    assert error.param == "model" and "/v1/embeddings" in error.message, error


@check
async def the_asynchronous_client_gets_the_same():
    answer = await openai.AsyncOpenAI(max_retries=0, timeout=60).embeddings.create(model=MODEL, input="t22")
    assert close(answer.data[0].embedding, embed("t22").data[0].embedding)


run()
