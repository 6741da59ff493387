"""Chat, completions, models, and the SDK's own exception classes for what a client does wrong."""

import openai

from checks import MODEL, WHO, check, expect, run

client = openai.OpenAI(max_retries=0, timeout=60)


def chat(**changes):
    request = {"model": MODEL, "messages": WHO, "temperature": 0, **changes}
    return client.chat.completions.create(**request)


@check
def a_chat_is_answered():
    answer = chat()
    assert answer.object == "chat.completion", answer
    assert answer.id and answer.created > 0 and answer.model == MODEL, answer
    assert len(answer.choices) == 1 and answer.choices[0].index == 0, answer
    assert answer.choices[0].message.role == "assistant", answer
    assert "Tollgate demo model" in answer.choices[0].message.content, answer
    assert answer.choices[0].finish_reason == "stop", answer


@check
def usage_adds_up_and_has_a_cost():
    # Another length than elsewhere, so that no cache answers it for nothing.
    usage = chat(max_tokens=200).usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    assert usage.model_extra["cost"] > 0, usage


@check
def a_bounded_answer_stops_for_its_length():
    answer = chat(max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length", answer
    assert answer.usage.completion_tokens == 3, answer


@check
def a_greedy_answer_is_the_same_twice():
    assert chat().choices[0].message.content == chat().choices[0].message.content


@check
def a_stop_string_ends_the_answer_and_is_left_out():
    answer = chat(stop=["demo"])
    assert answer.choices[0].message.content == "I am the Tollgate ", answer
    assert answer.choices[0].finish_reason == "stop", answer


@check
def every_answer_has_a_request_id():
    first, second = chat()._request_id, chat()._request_id
    assert first and second and first != second, (first, second)
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=WHO)
    assert raw.headers["x-request-id"] and raw.parse().choices, raw.headers


@check
def unknown_vendor_fields_are_ignored():
    assert chat(extra_body={"ignore_eos": False, "vendor": {"x": 1}}).choices


@check
def a_text_is_completed():
    answer = client.completions.create(model=MODEL, prompt="The capital of", max_tokens=5, temperature=0)
    assert answer.object == "text_completion", answer
    assert answer.choices[0].index == 0 and answer.choices[0].text, answer
    assert answer.choices[0].finish_reason in ("stop", "length"), answer
    assert answer.usage.completion_tokens <= 5, answer


@check
def models_are_listed_and_retrieved():
    assert MODEL in [model.id for model in client.models.list()]
    model = client.models.retrieve(MODEL)
    assert model.id == MODEL and model.object == "model", model


@check
def a_bad_key_is_an_authentication_error():
    stranger = client.with_options(api_key="sk-this-is-no-key")
    for call in (
        lambda: stranger.chat.completions.create(model=MODEL, messages=WHO),
        lambda: stranger.models.list(),
    ):
        error = expect(openai.AuthenticationError, call)
        assert error.status_code == 401 and error.code == "invalid_api_key", error
        assert "sk-this-is-no-key" not in str(error), error


@check
def an_unknown_model_is_a_not_found_error():
    for call in (lambda: chat(model="no-such-model"), lambda: client.models.retrieve("no-such-model")):
        error = expect(openai.NotFoundError, call)
        assert error.code == "model_not_found" and "no-such-model" in error.message, error


@check
def a_wrong_type_names_the_field():
    error = expect(openai.BadRequestError, lambda: chat(temperature="hot"))
    assert error.param == "temperature", (error, error.param)
    assert error.type == "invalid_request_error", error
    assert error.request_id and error.message, error


@check
def a_field_inside_of_a_list_is_named_by_its_path():
    error = expect(openai.BadRequestError, lambda: chat(messages=[{"role": "user", "content": 7}]))
    assert error.param and error.param.startswith("messages"), (error, error.param)


@check
def a_value_out_of_range_names_the_field():
    error = expect(openai.BadRequestError, lambda: chat(temperature=9))
    assert error.param == "temperature", (error, error.param)


@check
def a_prompt_that_does_not_fit_is_told_so():
    long = [{"role": "user", "content": "one two three " * 3000}]
    error = expect(openai.BadRequestError, lambda: chat(messages=long))
    assert error.code == "context_length_exceeded", error
    assert error.param == "messages", (error, error.param)


run()
