"""Errors, and what a service needs beside answers."""

import threading
import time

import openai
import pytest
from conftest import CHAT, Server
from test_answers import ENDLESS, QUESTION, chat


def error(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "1", "tool_call_id": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"seed": "a"}, "seed"),
        ({"temperature": -1}, None),
        ({"top_p": 1.5}, None),
        ({"stop": [""]}, None),
        ({"n": 1000}, None),
        ({"logit_bias": {"1000000": 1}}, None),
    ],
)
def test_bad_requests(server, options, param):
    failure = error(openai.BadRequestError, lambda: chat(server, **options))
    assert failure.type == "invalid_request_error" and failure.param == param
    assert failure.body["message"]


def test_too_long_a_prompt(server):
    messages = [{"role": "user", "content": "too long " * 1000}]
    for stream in [False, True]:
        failure = error(
            openai.BadRequestError, lambda: chat(server, messages=messages, stream=stream)
        )
        assert failure.code == "context_length_exceeded" and failure.param == "messages"
        assert "max_sequence_tokens is" in failure.message


def test_unknown_model(server):
    ask = server.client.chat.completions.create
    failure = error(openai.NotFoundError, lambda: ask(model="none", messages=QUESTION))
    assert failure.code == "model_not_found" and failure.param == "model"


def test_other_refusals(server):
    complete = server.client.completions.create
    for options in [{"echo": True}, {"suffix": "b"}, {"best_of": 2}, {"prompt": ["a", "b"]}]:
        given = {"prompt": "a"} | options
        failure = error(openai.BadRequestError, lambda: complete(model=server.name, **given))
        assert failure.param == next(iter(options))
    error(openai.NotFoundError, lambda: server.client.embeddings.create(model="m", input="a"))
    error(openai.BadRequestError, lambda: server.client.post("/completions", body=[], cast_to=str))


def test_models(server):
    assert [model.id for model in server.client.models.list()] == [server.name]
    assert server.client.models.retrieve(server.name).id == server.name
    error(openai.NotFoundError, lambda: server.client.models.retrieve("none"))


def test_health_and_metrics(server):
    assert server.get("/healthz") == "ok\n"
    steps = server.metric("steps_total")
    chat(server)
    assert server.metric("steps_total") > steps and server.metric("total_slots") > 0


def test_users_do_not_share_a_cache():
    server = Server(CHAT, "-namespace-per-user", "-name", "mine")
    server.name = "mine"
    users = ["a", "b", "a"]
    usages = [chat(server, user=user).usage for user in users]
    cached = [usage.prompt_tokens_details.cached_tokens for usage in usages]
    assert server.stop() == 0
    assert cached == [0, 0, usages[2].prompt_tokens - 1]


def test_more_requests_than_fit():
    server = Server(CHAT, "-max-requests", "1", "-max-sequences", "1")
    stream = chat(server, stream=True, max_tokens=400, logit_bias=ENDLESS)
    codes = set()
    for _ in range(100):
        try:
            chat(server, max_tokens=1)
        except openai.RateLimitError as failure:
            codes.add(failure.code)
            break
    stream.close()
    assert server.stop() == 0
    assert codes == {"rate_limit_exceeded"}


def test_running_requests_are_finished_at_a_stop():
    server = Server(CHAT)
    stream = iter(chat(server, stream=True, max_tokens=300))
    next(stream)
    exit_code = []
    stopper = threading.Thread(target=lambda: exit_code.append(server.stop()))
    stopper.start()
    chunks = list(stream)
    stopper.join()
    assert chunks[-1].choices[0].finish_reason == "length" and exit_code == [0]
    error(openai.APIConnectionError, lambda: chat(server))


def test_what_takes_too_long_is_cancelled_at_a_stop():
    server = Server(CHAT, "-grace", "1ms")
    begun = time.monotonic()
    failures = []

    def ask():
        try:
            list(chat(server, stream=True, max_tokens=400))
        except openai.APIError as failure:
            failures.append(failure)

    askers = [threading.Thread(target=ask) for _ in range(24)]
    for asker in askers:
        asker.start()
    while server.metric("requests_running") == 0:
        assert time.monotonic() < begun + 20
    assert server.stop() == 0
    for asker in askers:
        asker.join()
    assert failures and all("stopping" in str(f) or "onnection" in str(f) for f in failures)
