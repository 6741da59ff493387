"""Streams: their events as the wire has them, the SDK's helpers over them, and many at once."""

import asyncio

import openai

from checks import MODEL, WHO, check, expect, run

client = openai.OpenAI(max_retries=0, timeout=60)
greedy = {"model": MODEL, "messages": WHO, "temperature": 0}
# First of all, so that it is computed: what was asked before may come from a cache, in one piece.
fresh = list(client.chat.completions.create(**greedy, stream=True))
whole = client.chat.completions.create(**greedy)
text = whole.choices[0].message.content


def joined(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@check
def a_stream_says_what_the_whole_answer_says():
    chunks = fresh
    assert joined(chunks) == text, chunks
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks), chunks
    assert len({chunk.id for chunk in chunks}) == 1, "one answer has one id"
    assert all(choice.index == 0 for chunk in chunks for choice in chunk.choices), chunks
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert ends[-1] == "stop" and not any(ends[:-1]), ends


@check
def a_long_stream_comes_in_pieces():
    # No lease covers all of it, so the gateway has to read, and pass on, a part before the next is made.
    count = [{"role": "user", "content": "Count up from 0 to 100"}]
    request = {"model": MODEL, "messages": count, "temperature": 0, "max_tokens": 400}
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert joined(chunks).startswith("0, 1, 2, 3"), chunks
    assert len(chunks) > 5, "it came in one piece"


@check
def usage_comes_last_and_in_a_chunk_of_its_own_when_asked_for():
    assert all(chunk.choices for chunk in fresh), fresh
    assert all(chunk.usage is None for chunk in fresh[:-1]), fresh

    # Another length, so that it is computed and costs something.
    request = {**greedy, "max_tokens": 200, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert chunks[-1].choices == [], chunks[-1]
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens, chunks[-1]
    assert chunks[-1].usage.model_extra["cost"] > 0, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1]), chunks


@check
def the_stream_helper_accumulates_the_answer():
    deltas = []
    with client.chat.completions.stream(**greedy, stream_options={"include_usage": True}) as stream:
        for event in stream:
            if event.type == "content.delta":
                deltas.append(event.delta)
        final = stream.get_final_completion()
    assert "".join(deltas) == text, deltas
    assert final.choices[0].message.content == text, final
    assert final.choices[0].finish_reason == "stop", final
    assert final.usage.completion_tokens == whole.usage.completion_tokens, final


@check
def a_completion_streams():
    request = {"model": MODEL, "prompt": "The capital of", "max_tokens": 8, "temperature": 0}
    expected = client.completions.create(**request)
    chunks = list(client.completions.create(**request, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == expected.choices[0].text
    last = [chunk for chunk in chunks if chunk.choices][-1]
    assert last.choices[0].finish_reason == expected.choices[0].finish_reason, chunks


@check
def a_stream_has_a_request_id():
    with client.chat.completions.with_streaming_response.create(**greedy, stream=True) as response:
        assert response.headers["x-request-id"], response.headers
        assert response.headers["content-type"].startswith("text/event-stream"), response.headers
        assert joined(response.parse()) == text


@check
def a_request_that_fails_before_its_stream_raises():
    request = {**greedy, "model": "no-such-model"}
    error = expect(openai.NotFoundError, lambda: client.chat.completions.create(**request, stream=True))
    assert error.code == "model_not_found", error


@check
async def the_async_client_answers_and_streams():
    async with openai.AsyncOpenAI(max_retries=0, timeout=60) as remote:
        answer = await remote.chat.completions.create(**greedy)
        assert answer.choices[0].message.content == text, answer
        stream = await remote.chat.completions.create(**greedy, stream=True)
        assert joined([chunk async for chunk in stream]) == text
        async with remote.chat.completions.stream(**greedy) as helper:
            final = await helper.get_final_completion()
        assert final.choices[0].message.content == text, final
        assert MODEL in [model.id async for model in remote.models.list()]


@check
async def many_streams_at_once_do_not_mix():
    prompts = ["What is the capital of France?", "What is the capital of Japan?", "Who are you?"]
    parts = ["Paris", "Tokyo", "Tollgate demo model"]

    async def one(remote, number):
        messages = [{"role": "user", "content": prompts[number % 3]}]
        stream = await remote.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, stream=True
        )
        said = joined([chunk async for chunk in stream])
        assert parts[number % 3] in said, said
        return number % 3, said

    async with openai.AsyncOpenAI(max_retries=0, timeout=120) as remote:
        answers = await asyncio.gather(*(one(remote, number) for number in range(12)))
    assert len(set(answers)) == 3, "the same question got different greedy answers"


run()
