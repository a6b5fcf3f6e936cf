"""A text neuron in front of a real HTTP server that speaks the OpenAI protocol, or pretends to."""

import gzip
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ai.models.model import Card, Sampling
from ai.models.upstream import MAX_LINE_BYTES, MAX_REPLY_BYTES, Upstream
from ledger.errors import DecodeError, Error, NotFound, RateLimited, Timeout, Unreachable, UsageError

EVENT = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n'


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        size = int(self.headers["content-length"])
        self.server.requests.append((self.path, dict(self.headers), json.loads(self.rfile.read(size))))
        status, headers, parts = self.server.script
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for part in parts:
                if isinstance(part, float):
                    time.sleep(part)
                else:
                    self.wfile.write(part)
                    self.wfile.flush()
        except OSError:
            pass  # the caller had enough

    do_GET = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.requests, made.script = [], (200, {}, [])
    made.url = f"http://127.0.0.1:{made.server_address[1]}/v1"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def text(upstream, prompt=b"hello", **sampling):
    return b"".join(upstream.write(prompt, Sampling(**sampling)))


def test_chat_is_streamed_and_the_request_says_what_was_asked(server, tmp_path):
    server.script = (200, {"content-type": "text/event-stream"}, [
        b": comment\n\n", b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n', EVENT % b"Hel", EVENT % b"lo",
        b'data: {"choices":[],"usage":{}}\n\n', b"data: [DONE]\n\n", EVENT % b"after the end",
    ])  # fmt: skip
    (tmp_path / "key").write_text("sk-secret\n")
    upstream = Upstream(server.url, "tiny", name="up", key_file=str(tmp_path / "key"))
    assert text(upstream, b"say \xff", max_units=40, temperature=0.5, seed=7, stops=(b"\n",)) == b"Hello"
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["authorization"] == "Bearer sk-secret"
    assert body["messages"] == [{"role": "user", "content": "say \ufffd"}] and body["stop"] == ["\n"]
    assert (body["model"], body["max_tokens"], body["seed"], body["stream"]) == ("tiny", 40, 7, True)
    card = upstream.card()
    assert Card.decode(card.encode()) == card and card.methods == ("text", "card")
    assert card.model_hash != Upstream(server.url, "other").card().model_hash
    assert "secret" not in repr(card)


def test_completions_and_replies_that_are_not_streamed(server):
    server.script = (200, {}, [b'{"choices":[{"text":"plain"}]}'])
    assert text(Upstream(server.url, "m", chat=False)) == b"plain"
    assert server.requests[0][0] == "/v1/completions" and server.requests[0][2]["prompt"] == "hello"


def test_half_a_character_is_no_end(server):
    server.script = (200, {}, [EVENT % b"a\\ud83d", EVENT % b"b"])
    assert text(Upstream(server.url, "m")) == b"a?b"


def test_text_is_cut_at_the_units_asked_for(server):
    server.script = (200, {}, [EVENT % (b"\xc3\xa9" * 100)] * 3)
    assert text(Upstream(server.url, "m"), max_units=5) == b"\xc3\xa9\xc3\xa9\xc3"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ((500, {}, [b"oops"]), Unreachable),
        ((429, {}, []), RateLimited),
        ((302, {"location": "http://127.0.0.1:1/"}, []), Unreachable),
        ((200, {}, [b"data: not json\n\n"]), DecodeError),
        ((200, {}, [b'data: {"choices":[{"delta":{"content":5}}]}\n\n']), DecodeError),
        ((200, {}, [b'data: [1]\n\n']), DecodeError),
        ((200, {}, [b'data: {"choices":{"a":1}}\n\n']), DecodeError),
        ((200, {}, [b"data: " + b"[" * 60_000 + b"\n"]), DecodeError),
        ((200, {}, [b'data: {"error":{"message":"no"}}\n\n']), Error),
        ((200, {"content-encoding": "gzip"}, [gzip.compress(EVENT % b"x")]), DecodeError),
        ((200, {}, [b"x" * (MAX_LINE_BYTES + 1)]), DecodeError),
        ((200, {}, [b": keep alive\n" * 4096] * (1 + MAX_REPLY_BYTES // 13 // 4096)), DecodeError),
    ],
    ids=["500", "429", "redirect", "no json", "number", "list", "choices", "deep", "error", "gzip", "line", "size"],
)  # fmt: skip
def test_whatever_the_other_side_sends_is_an_error_with_a_name(server, script, error):
    server.script = script
    with pytest.raises(error):
        text(Upstream(server.url, "m"))


def test_a_server_that_is_slow_silent_or_gone(server):
    server.script = (200, {}, [1.0])
    with pytest.raises(Timeout):
        text(Upstream(server.url, "m", read_seconds=0.1))
    server.script = (200, {}, [EVENT % b"a", *[0.05, b": still here\n"] * 20])
    with pytest.raises(Timeout, match="too long"):
        text(Upstream(server.url, "m", total_seconds=0.2))
    gone = Upstream("http://127.0.0.1:1025/v1", "m")
    with pytest.raises(Unreachable):
        text(gone)


def test_the_name_of_a_host_is_resolved_and_checked(server):
    server.script = (200, {}, [EVENT % b"x"])
    named = server.url.replace("127.0.0.1", "localhost")
    assert text(Upstream(named, "m")) == b"x"
    assert server.requests[-1][1]["host"].startswith("localhost:")
    with pytest.raises(UsageError, match="may not be dialled"):
        text(Upstream(named, "m", allow_private=False))


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254:8080/v1", "http://127.0.0.1/v1", "http://0.0.0.0:8000", "http://[::ffff:169.254.1.1]:8000"]
)
def test_addresses_that_are_never_dialled(url):
    with pytest.raises(UsageError, match="may not be dialled"):
        text(Upstream(url, "m"))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/v1",
        "file:///etc/passwd",
        "127.0.0.1:8000",
        "http://",
        "http://u:p@h:8000/",
        "http://h:99999/",
        "http://h:8000/?a=b",
        "http://h/" + "x" * 600,
    ],
)
def test_addresses_that_are_none(url):
    with pytest.raises(UsageError):
        Upstream(url, "m")


def test_keys_come_from_a_bounded_file(tmp_path):
    with pytest.raises(NotFound):
        Upstream("http://127.0.0.1:8000/v1", "m", key_file=str(tmp_path / "none"))
    for content in (b"", b"a\nb", b"\xff\xfe"):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(UsageError):
            Upstream("http://127.0.0.1:8000/v1", "m", key_file=str(tmp_path / "key"))
    (tmp_path / "key").write_bytes(b"x" * 513)
    with pytest.raises(NotFound):
        Upstream("http://127.0.0.1:8000/v1", "m", key_file=str(tmp_path / "key"))
    with pytest.raises(UsageError, match="predicts no bytes"):
        Upstream("http://127.0.0.1:8000/v1", "m").next_bytes([b"a"])
