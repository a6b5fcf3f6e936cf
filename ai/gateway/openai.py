"""The shapes of the OpenAI-compatible API: requests checked, replies and errors built. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ai.models.model import Sampling

MAX_PROMPT_BYTES: Final = 8 * 1024
MAX_OUTPUT_UNITS: Final = 512
DEFAULT_OUTPUT_UNITS: Final = 64
MAX_STOPS: Final = 4
MAX_STOP_BYTES: Final = 64
MAX_MESSAGES: Final = 64
MAX_MODEL_CHARACTERS: Final = 128
# What would change the shape or the meaning of a reply and is not served, with the values that ask for nothing.
UNSERVED: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "logprobs": (False,), "top_logprobs": (0,),
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "logit_bias": ({},), "response_format": ({"type": "text"},), "frequency_penalty": (0,), "presence_penalty": (0,),
    "modalities": (["text"],), "audio": (), "prediction": (), "web_search_options": (),
}


class ApiError(Exception):
    """An error as OpenAI's clients expect it."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None, retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Request:
    """A checked request. `chat`: messages in, a message out."""

    model: str
    prompt: bytes
    sampling: Sampling
    stream: bool
    include_usage: bool
    chat: bool


def parse_request(body: Any, *, chat: bool, default_seed: int) -> Request:
    """Check a decoded JSON body. Raises ApiError 400 naming the parameter."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    model = body.get("model")
    if not isinstance(model, str) or not model or len(model) > MAX_MODEL_CHARACTERS:
        raise ApiError(400, "model is required", param="model")
    prompt = _messages(body.get("messages")) if chat else _prompt(body.get("prompt"))
    if len(prompt) > MAX_PROMPT_BYTES:
        message = f"the prompt has {len(prompt)} bytes, at most {MAX_PROMPT_BYTES} are taken"
        raise ApiError(400, message, param="messages" if chat else "prompt", code="context_length_exceeded")
    for name, harmless in UNSERVED.items():
        value = body.get(name)  # False is not 0 here: 0 log probabilities are those of the chosen units
        if value is not None and not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in harmless):
            raise ApiError(400, f"{name} = {_shown(value)} is not served here", param=name, code="unsupported_value")
    sampling = Sampling(
        max_units=_max_units(body), temperature=_number(body, "temperature", 1.0, 0.0, 2.0),
        top_p=_number(body, "top_p", 1.0, 0.001, 1.0), seed=_seed(body, default_seed), stops=_stops(body.get("stop")),
    )
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", param="stream_options")
    include_usage = _flag(options or {}, "include_usage")
    return Request(model, prompt, sampling, _flag(body, "stream"), include_usage, chat)


def _shown(value: Any) -> str:
    """The start of what a caller sent, in ASCII, whatever it is and however deep."""
    return ascii(value)[:40] if not isinstance(value, list | dict) else "[...]" if isinstance(value, list) else "{...}"


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and type(value) is not bool:
        raise ApiError(400, f"{name} must be true or false", param=name)
    return value is True


def _prompt(value: Any) -> bytes:
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(each, int | list) for each in texts):
        raise ApiError(400, "a prompt of token ids is not served: send text", param="prompt", code="unsupported_value")
    if len(texts) != 1:
        raise ApiError(400, "one prompt a request is served", param="prompt", code="unsupported_value")
    (value,) = texts
    if not isinstance(value, str):
        raise ApiError(400, "prompt must be a string (or a list of one)", param="prompt")
    return _utf8(value, "prompt")


def _messages(value: Any) -> bytes:
    """The texts of all messages, one a line: byte models know no roles."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise ApiError(400, f"messages must be a list of 1 to {MAX_MESSAGES} messages", param="messages")
    texts = []
    for message in value:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            content = "".join(_text_of(part) for part in content)
        if not isinstance(content, str):
            raise ApiError(400, "each message needs a content of text", param="messages")
        texts.append(content)
    return _utf8("\n".join(texts), "messages")


def _text_of(part: Any) -> str:
    """The text of one part of a message's content."""
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise ApiError(400, "only parts of text are served", param="messages", code="unsupported_value")
    return text


def _utf8(text: str, param: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the text holds a lone surrogate", param=param) from None


def _max_units(body: dict[str, Any]) -> int:
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    value = body.get(name)
    if value is None:
        return DEFAULT_OUTPUT_UNITS
    if type(value) is not int or not 1 <= value <= MAX_OUTPUT_UNITS:
        raise ApiError(400, f"{name} must be from 1 to {MAX_OUTPUT_UNITS} (one token is one byte)", param=name)
    return value


def _number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ApiError(400, f"{name} must be a number from {low:g} to {high:g}", param=name)
    return float(value)


def _seed(body: dict[str, Any], default: int) -> int:
    value = body.get("seed")
    if value is None:
        return default
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise ApiError(400, "seed must be an integer of 64 bits", param="seed")
    return value & 0xFFFFFFFF


def _stops(value: Any) -> tuple[bytes, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise ApiError(400, f"stop must be a string or a list of at most {MAX_STOPS}", param="stop")
    encoded = tuple(_utf8(stop, "stop") for stop in stops)
    if any(len(stop) > MAX_STOP_BYTES for stop in encoded):
        raise ApiError(400, f"a stop has at most {MAX_STOP_BYTES} bytes", param="stop")
    return encoded


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts; a token is a byte here."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def model_record(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "quorix"}


def completion(request: Request, name: str, created: int, text: str, finish: str, used: dict[str, int]) -> dict[str, Any]:
    """The whole reply."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
    if request.chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    kind = "chat.completion" if request.chat else "text_completion"
    return {"id": name, "object": kind, "created": created, "model": request.model, "choices": [choice], "usage": used}


def chunk(
    request: Request, name: str, created: int, text: str | None, *, finish: str | None = None, first: bool = False,
    **extra: Any,
) -> dict[str, Any]:
    """One piece of a streamed reply; with `text` and `finish` None, a chunk without choices (usage)."""
    choices: list[dict[str, Any]] = []
    if text is not None or finish is not None or first:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
        if request.chat:
            delta: dict[str, Any] = {"role": "assistant"} if first else {}
            choice["delta"] = delta if text is None else {**delta, "content": text}
        else:
            choice["text"] = text or ""
        choices = [choice]
    kind = "chat.completion.chunk" if request.chat else "text_completion"
    return {"id": name, "object": kind, "created": created, "model": request.model, "choices": choices, **extra}
