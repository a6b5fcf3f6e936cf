"""The shapes of the HTTP API without HTTP: requests checked, and bytes turned into text."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.gateway.openai import MAX_PROMPT_BYTES, ApiError, parse_request
from ai.gateway.text import TextCutter, stop_length


def parsed(chat=False, **body):
    base = {"model": "net/moe", **({"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"})}
    return parse_request({**base, **body}, chat=chat, default_seed=7)


def test_defaults_and_what_a_request_says():
    request = parsed()
    assert (request.model, request.prompt, request.stream, request.include_usage) == ("net/moe", b"hi", False, False)
    sampling = request.sampling
    assert (sampling.max_units, sampling.temperature, sampling.top_p, sampling.seed) == (64, 1.0, 1.0, 7)
    request = parsed(
        max_tokens=3, temperature=0, top_p=0.5, seed=-1, stop="\n", stream=True, stream_options={"include_usage": True},
        n=1, user="me", logprobs=None, frequency_penalty=0.0,
    )  # fmt: skip
    assert request.sampling.max_units == 3 and request.sampling.stops == (b"\n",) and request.include_usage
    assert request.sampling.seed == 0xFFFFFFFF and request.sampling.temperature == 0.0
    assert parsed(prompt=["one"]).prompt == b"one" and parsed(prompt="").prompt == b""
    assert parsed(chat=True, max_completion_tokens=5, max_tokens=9).sampling.max_units == 5


def test_messages_become_lines():
    content = [{"type": "text", "text": "look "}, {"type": "text", "text": "here"}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": content}]
    assert parsed(chat=True, messages=messages).prompt == b"be brief\nlook here"


@pytest.mark.parametrize(
    "param, body",
    [
        ("model", {"model": None}), ("model", {"model": 3}), ("model", {"model": "x" * 129}), ("model", {"model": ""}),
        ("prompt", {"prompt": None}), ("prompt", {"prompt": [1, 2]}), ("prompt", {"prompt": ["a", "b"]}),
        ("prompt", {"prompt": "x" * (MAX_PROMPT_BYTES + 1)}), ("prompt", {"prompt": "\ud800"}),
        ("max_tokens", {"max_tokens": 0}), ("max_tokens", {"max_tokens": 513}), ("max_tokens", {"max_tokens": True}),
        ("max_tokens", {"max_tokens": 1.5}), ("max_tokens", {"max_tokens": "5"}),
        ("temperature", {"temperature": -0.1}), ("temperature", {"temperature": 2.1}), ("temperature", {"temperature": "hot"}),
        ("temperature", {"temperature": float("nan")}), ("temperature", {"temperature": True}),
        ("top_p", {"top_p": 0}), ("top_p", {"top_p": float("inf")}),
        ("seed", {"seed": 1.5}), ("seed", {"seed": 1 << 63}), ("seed", {"seed": True}),
        ("stop", {"stop": [""]}), ("stop", {"stop": ["a"] * 5}), ("stop", {"stop": 3}), ("stop", {"stop": "x" * 65}),
        ("stop", {"stop": {"a": 1}}), ("stop", {"stop": ["\udfff"]}),
        ("stream", {"stream": "yes"}), ("stream", {"stream": 1}), ("include_usage", {"stream_options": {"include_usage": 1}}),
        ("stream_options", {"stream_options": []}),
        ("n", {"n": 2}), ("echo", {"echo": True}), ("logprobs", {"logprobs": 5}), ("tools", {"tools": [{"type": "function"}]}),
        ("logprobs", {"logprobs": 0}), ("logprobs", {"logprobs": True}), ("tool_choice", {"tool_choice": "required"}),
        ("modalities", {"modalities": ["text", "audio"]}), ("audio", {"audio": {"voice": "x"}}), ("prompt", {"prompt": [[1]]}),
        ("prompt", {"prompt": []}), ("prompt", {"prompt": 7}),
        ("response_format", {"response_format": {"type": "json_object"}}), ("presence_penalty", {"presence_penalty": 0.5}),
    ],
)  # fmt: skip
def test_each_wrong_parameter_is_named(param, body):
    with pytest.raises(ApiError) as caught:
        parsed(**body)
    assert caught.value.status == 400
    error = caught.value.body()["error"]
    assert error["param"] == param and error["type"] == "invalid_request_error" and error["message"]


def test_token_ids_are_named_as_what_is_not_served():
    for prompt in ([1, 2], [[1, 2]], 5):
        with pytest.raises(ApiError, match="token ids"):
            parsed(prompt=prompt)


def test_values_that_ask_for_nothing_are_taken():
    parsed(tools=[], tool_choice="none", logprobs=False, n=1, modalities=["text"], logit_bias={}, top_logprobs=0)
    parsed(chat=True, tool_choice="auto", logprobs=False, response_format={"type": "text"})


@pytest.mark.parametrize(
    "messages",
    [
        None, [], "hi", [{"role": "user"}], [{"role": "user", "content": None}], ["hi"], [{"role": "user", "content": 3}],
        [{"role": "user", "content": [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {}}]}],
        [{"role": "user", "content": [{"type": "text"}]}], [{"role": "user", "content": ["x"]}],
        [{"role": "user", "content": "x"}] * 65, [{"role": "user", "content": "x" * 9000}],
    ],
)  # fmt: skip
def test_wrong_messages(messages):
    with pytest.raises(ApiError) as caught:
        parsed(chat=True, messages=messages)
    assert (caught.value.status, caught.value.param) == (400, "messages")


@pytest.mark.parametrize("body", [None, [], "x", 3, True])
def test_a_body_that_is_no_object(body):
    with pytest.raises(ApiError, match="object"):
        parse_request(body, chat=False, default_seed=0)


def cut(data, stops):
    cutter, pieces = TextCutter(stops), []
    for byte in data:
        pieces.append(cutter.feed(byte))
        if cutter.stopped:
            break
    return pieces + [cutter.finish()], cutter


def test_a_stop_that_straddles_pieces_never_shows():
    pieces, cutter = cut(b"one two three four", (b"three", b"thr!"))
    assert "".join(pieces) == "one two " and cutter.stopped and cutter.units == 13
    assert cut(b"abcabd", (b"abd",))[0][-1] == "" and "".join(cut(b"abcabd", (b"abd",))[0]) == "abc"
    assert "".join(cut(b"stop", (b"stop",))[0]) == "" and "".join(cut(b"sto", (b"stop",))[0]) == "sto"
    assert "".join(cut(b"xxab", (b"b", b"ab"))[0]) == "xx", "the longest stop that fits is left out"


def test_characters_are_never_torn():
    text = "h\u00e9llo \u2713 \U0001f600!"
    pieces, _ = cut(text.encode(), ())
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    torn, _ = cut(text.encode()[:2], ())
    assert "".join(torn) == "h\ufffd"
    assert "".join(cut(b"\xff\xfea", ())[0]) == "\ufffd\ufffda"


@given(st.binary(max_size=40), st.lists(st.binary(min_size=1, max_size=4), max_size=4))
@settings(max_examples=300, deadline=None)
def test_pieces_together_are_the_text_up_to_the_first_stop(data, stops):
    stops = tuple(stops)
    pieces, cutter = cut(data, stops)
    ends = [(end, stop_length(data[:end], stops)) for end in range(1, len(data) + 1)]
    end, length = next(((end, length) for end, length in ends if length), (len(data), 0))
    # a stop may begin before what was already let out only if it is longer than what was held back: never
    assert "".join(pieces) == data[: end - length].decode("utf-8", "replace")
    assert cutter.units == end and cutter.stopped == bool(length)


def test_a_random_text_is_the_same_whole_and_in_pieces():
    rng = random.Random(3)
    for _ in range(200):
        data = bytes(rng.choice(b"ab\xc3\xa9\xe2\x9c\x93") for _ in range(30))
        pieces, _ = cut(data, (b"abab",))
        assert "".join(pieces) == data.split(b"abab")[0].decode("utf-8", "replace")
