"""Calls of functions, answers of a form, log-probabilities and several choices, as the SDK reads them."""

import json

import openai
from pydantic import BaseModel

from checks import MODEL, WHO, check, run

client = openai.OpenAI(max_retries=0, timeout=60)

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather of a city.", "parameters": SCHEMA}}]
WEATHER = [{"role": "user", "content": "What is the weather in Rome?"}]


class Forecast(BaseModel):
    city: str
    sunny: bool


def chat(**changes):
    request = {"model": MODEL, "messages": WEATHER, "temperature": 0, "max_tokens": 200, **changes}
    return client.chat.completions.create(**request)


def checked(arguments):
    arguments = json.loads(arguments)
    assert arguments["city"] in ("Rome", "Oslo") and 1 <= arguments["days"] <= 9, arguments
    assert set(arguments) == {"city", "days"}, arguments


@check
def a_required_call_is_valid():
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False).choices[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None, answer
        call = answer.message.tool_calls[0]
        assert call.id and call.type == "function" and call.function.name == "weather", call
        checked(call.function.arguments)


@check
def a_call_streams_and_is_put_together_by_the_sdk():
    with client.chat.completions.stream(
        model=MODEL, messages=WEATHER, temperature=0, max_tokens=200, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    ) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_completion().choices[0]
    assert kinds.count("tool_calls.function.arguments.delta") > 0, kinds
    assert answer.finish_reason == "tool_calls", answer
    checked(answer.message.tool_calls[0].function.arguments)


@check
def a_conversation_goes_on_after_a_call():
    called = chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=False).choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": '{"sky": "clear"}'}
    assert chat(tools=TOOLS, messages=[*WEATHER, called, result]).choices[0].finish_reason


@check
def an_answer_keeps_to_a_schema():
    wanted = {"type": "json_schema", "json_schema": {"name": "trip", "strict": True, "schema": SCHEMA}}
    answer = chat(response_format=wanted)
    assert answer.choices[0].finish_reason == "stop", answer
    checked(answer.choices[0].message.content)


@check
def a_class_of_pydantic_is_a_form():
    answer = client.chat.completions.parse(
        model=MODEL, messages=WEATHER, temperature=0, max_tokens=200, response_format=Forecast
    )
    assert isinstance(answer.choices[0].message.parsed, Forecast), answer


@check
def forms_of_vllm_are_known():
    answer = chat(extra_body={"guided_choice": ["sunny", "rainy"]})
    assert answer.choices[0].message.content in ("sunny", "rainy"), answer
    answer = chat(extra_body={"structured_outputs": {"regex": "[0-9]{3}"}})
    content = answer.choices[0].message.content
    assert len(content) == 3 and content.isdigit(), answer


@check
def log_probabilities_are_told_for_each_token():
    answer = chat(messages=WHO, logprobs=True, top_logprobs=3).choices[0]
    tokens = answer.logprobs.content
    text = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert text == answer.message.content, (text, answer.message.content)
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3, token
        assert token.top_logprobs[0].logprob >= token.logprob, token
    answer = client.completions.create(model=MODEL, prompt="The capital of", max_tokens=5, temperature=0, logprobs=2).choices[0]
    assert "".join(answer.logprobs.tokens) == answer.text, answer
    assert len(answer.logprobs.token_logprobs) == len(answer.logprobs.text_offset) == len(answer.logprobs.tokens), answer


@check
def several_choices_are_drawn_from_one_seed():
    def texts(n):
        answer = chat(messages=WHO, temperature=1, seed=4, n=n)
        assert [choice.index for choice in answer.choices] == list(range(n)), answer
        return [choice.message.content for choice in answer.choices]

    assert texts(3) == texts(3)
    assert texts(3)[0] == texts(1)[0]


run()
