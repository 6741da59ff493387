"""Clients that give up: their timeouts, streams they leave, and that the next request still works."""

import asyncio
import time

import openai

from checks import LONG, MODEL, WHO, check, expect, run

client = openai.OpenAI(max_retries=0, timeout=60)


def works():
    answer = client.chat.completions.create(model=MODEL, messages=WHO, temperature=0)
    assert "Tollgate demo model" in answer.choices[0].message.content, answer


def story(caller, **changes):
    request = {"model": MODEL, "messages": LONG, "temperature": 0, "max_tokens": 600, **changes}
    return caller.chat.completions.create(**request)


@check
def a_tiny_timeout_is_a_timeout_error():
    hasty = client.with_options(timeout=0.001)
    expect(openai.APITimeoutError, lambda: story(hasty))
    works()


@check
def a_timeout_in_the_middle_of_the_work_frees_the_slot():
    hasty = client.with_options(timeout=0.05)
    for number in range(10):
        # Ten different prompts, so that no cache can answer them in time.
        messages = [{"role": "user", "content": f"Tell me a long story about {number} dragons."}]
        try:
            story(hasty, messages=messages)
        except openai.APITimeoutError:
            pass
    started = time.monotonic()
    works()
    assert time.monotonic() - started < 30, "abandoned requests still hold their slots"


@check
def a_closed_stream_leaves_the_gateway_usable():
    for _ in range(5):
        stream = story(client, stream=True)
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        stream.close()
    works()


@check
def leaving_the_stream_helper_early_is_fine():
    request = {"model": MODEL, "messages": LONG, "temperature": 0}
    with client.chat.completions.stream(**request) as stream:
        next(event for event in stream if event.type == "content.delta")
    works()


@check
async def a_cancelled_task_leaves_the_gateway_usable():
    async with openai.AsyncOpenAI(max_retries=0, timeout=60) as remote:
        arrived = asyncio.Event()

        async def read():
            async for _ in await story(remote, stream=True):
                arrived.set()

        tasks = [asyncio.create_task(read()) for _ in range(4)]
        await asyncio.wait_for(arrived.wait(), 30)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        answer = await remote.chat.completions.create(model=MODEL, messages=WHO, temperature=0)
        assert "Tollgate demo model" in answer.choices[0].message.content, answer


@check
def one_connection_serves_many_requests():
    with openai.OpenAI(max_retries=0, timeout=60) as single:
        for _ in range(5):
            assert single.models.list().data


run()
