"""A small runner: every check has a name, runs alone, and says on one line how it went.

A script registers its checks with `@check` and ends with `run()`. The first line of a failure is
`FAILED name`, followed by the traceback; the exit status is the number of failures.
"""

import asyncio
import inspect
import os
import sys
import traceback

MODEL = os.environ["TOLLGATE_MODEL"]
WHO = [{"role": "user", "content": "Who are you?"}]
LONG = [{"role": "user", "content": "Tell me a long story about a dragon."}]

_checks = []


def check(function):
    """Registers a check; its name is the function's, read as a sentence."""
    _checks.append(function)
    return function


def run():
    """Runs every check in the order written, also after a failure."""
    failures = 0
    for function in _checks:
        name = function.__name__.replace("_", " ")
        try:
            outcome = function()
            if inspect.isawaitable(outcome):
                asyncio.run(outcome)
        except Exception:
            failures += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
        else:
            print(f"ok     {name}", flush=True)
    sys.exit(min(failures, 100))


def expect(error, call):
    """Runs the call and returns the error it must raise, of exactly this class."""
    try:
        outcome = call()
    except Exception as raised:
        assert type(raised) is error, f"raised {raised!r} instead of {error.__name__}"
        return raised
    raise AssertionError(f"answered {outcome!r} instead of raising {error.__name__}")


def counting(client, seen):
    """The same client, over a transport that notes the status of every answer it gets."""
    import openai

    def note(response):
        seen.append(response.status_code)

    transport = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    return client.with_options(http_client=transport)
