"""What a key may not do: too many requests, more than its budget, anything once it is revoked."""

import os
import subprocess
import time

import openai

from checks import MODEL, WHO, check, counting, expect, run

client = openai.OpenAI(max_retries=0, timeout=60)


def chat(caller):
    return caller.chat.completions.create(model=MODEL, messages=WHO, temperature=0)


@check
def one_request_per_minute_is_one_request():
    limited = client.with_options(api_key=os.environ["TOLLGATE_LIMITED_KEY"])
    assert chat(limited).choices
    error = expect(openai.RateLimitError, lambda: chat(limited))
    assert error.status_code == 429 and error.code == "rate_limit_exceeded", error
    assert 0 < float(error.response.headers["retry-after"]) <= 60, error.response.headers
    assert error.response.headers.get("x-should-retry") != "false", error.response.headers
    assert error.request_id, error


@check
def a_spent_budget_is_an_insufficient_quota():
    poor = client.with_options(api_key=os.environ["TOLLGATE_POOR_KEY"])
    error = None
    # The budget may pay for the first token of an answer or two; never for many.
    for _ in range(10):
        try:
            chat(poor)
        except openai.RateLimitError as raised:
            error = raised
            break
    assert error is not None, "a thousandth of a thousandth of a dollar bought ten answers"
    assert error.status_code == 429 and error.code == "insufficient_quota", error
    assert error.type == "insufficient_quota", error
    assert error.response.headers["x-should-retry"] == "false", error.response.headers


@check
def a_spent_budget_is_not_retried_by_the_client():
    seen = []
    poor = client.with_options(api_key=os.environ["TOLLGATE_POOR_KEY"], max_retries=3)
    expect(openai.RateLimitError, lambda: chat(counting(poor, seen)))
    assert seen == [429], seen


@check
def a_revoked_key_stops_working_within_seconds():
    revoked = client.with_options(api_key=os.environ["TOLLGATE_REVOKED_KEY"])
    assert chat(revoked).choices
    command = [os.environ["TOLLGATE_BIN"], "admin", "--data", os.environ["TOLLGATE_DATA"], "keys", "revoke"]
    subprocess.run([*command, os.environ["TOLLGATE_REVOKED_KEY_ID"]], check=True, timeout=30)

    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            revoked.models.list()
        except openai.AuthenticationError as error:
            assert error.code == "invalid_api_key", error
            expect(openai.AuthenticationError, lambda: chat(revoked))
            return
        time.sleep(0.05)
    raise AssertionError("the key still works five seconds after it was revoked")


@check
def other_keys_do_not_notice():
    assert chat(client).choices


run()
