"""The sync transport against peers that break it, over streams in memory and virtual time."""

import pytest
import trio
from trio.testing import MockClock

from ledger.errors import DecodeError, Timeout, Unreachable
from p2p.frames import FrameStream
from p2p.messages import (
    decode_reply_envelope,
    decode_request_envelope,
    encode_reply_envelope,
    encode_request_envelope,
)
from p2p.requests import MAX_SILENCES, PIPELINE, SERVE_SECONDS, RequestClient, RequestServer


class End:
    """One end of a stream in memory, with the face of the library's."""

    def __init__(self, send, receive):
        self._send, self._receive = send, receive

    async def read(self, n):
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            return b""

    async def write(self, data):
        await self._send.send(data)

    async def close(self):
        self._send.close()

    reset = close


def pipe():
    a, b = trio.open_memory_channel(1000), trio.open_memory_channel(1000)
    return End(a[0], b[1]), End(b[0], a[1])


def run(function):
    return trio.run(function, clock=MockClock(autojump_threshold=0))


class Client:
    """A client whose streams end at `self.peers`, to be served by hand."""

    def __init__(self, nursery):
        self.peers, self.losses, self.faults = [], 0, []
        self.client = RequestClient(nursery, self.open, self.lose, self.faults.append)

    async def open(self):
        ours, theirs = pipe()
        self.peers.append(FrameStream(theirs, 1 << 20))
        return ours

    def lose(self):
        self.losses += 1


async def echo(stream):
    while True:
        number, payload = decode_request_envelope(await stream.read())
        await stream.write(encode_reply_envelope(number, True, payload * 2))


def test_requests_share_one_stream_and_answers_may_come_in_any_order():
    async def main():
        async with trio.open_nursery() as nursery:
            side, got = Client(nursery), {}

            async def ask(data):
                got[data] = await side.client.request(data, 5000)

            for data in (b"a", b"b", b"c"):
                nursery.start_soon(ask, data)
            await trio.sleep(1)
            (stream,) = side.peers
            frames = [decode_request_envelope(await stream.read()) for _ in range(3)]
            for number, payload in reversed(frames):
                await stream.write(encode_reply_envelope(number, True, payload * 2))
            await trio.sleep(1)
            assert got == {b"a": b"aa", b"b": b"bb", b"c": b"cc"}
            nursery.cancel_scope.cancel()

    run(main)


def test_no_more_than_the_pipeline_is_under_way():
    async def main():
        async with trio.open_nursery() as nursery:
            side = Client(nursery)
            for _ in range(3 * PIPELINE):
                nursery.start_soon(side.client.request, b"x", 5000)
            await trio.sleep(1)
            for _ in range(PIPELINE):
                await side.peers[0].read()
            with trio.move_on_after(1) as waiting:
                await side.peers[0].read()
            assert waiting.cancelled_caught
            nursery.cancel_scope.cancel()

    run(main)


def test_a_stream_that_was_closed_is_replaced_once():
    async def main():
        async with trio.open_nursery() as nursery:
            side = Client(nursery)
            nursery.start_soon(_serve_first_then_end, side)
            assert await side.client.request(b"a", 5000) == b"aa"
            await trio.sleep(1)
            nursery.start_soon(_serve_next, side)
            assert await side.client.request(b"b", 5000) == b"bb"
            assert len(side.peers) == 2 and not side.faults
            nursery.cancel_scope.cancel()

    async def _serve_first_then_end(side):
        await trio.sleep(0.1)
        number, payload = decode_request_envelope(await side.peers[0].read())
        await side.peers[0].write(encode_reply_envelope(number, True, payload * 2))
        await side.peers[0].close()

    async def _serve_next(side):
        while len(side.peers) < 2:
            await trio.sleep(0.1)
        await echo(side.peers[1])

    run(main)


@pytest.mark.parametrize("garbage", [b"\xff" * 5, encode_reply_envelope(77, True, b"x")])
def test_garbage_and_answers_to_nothing_are_faults(garbage):
    async def main():
        async with trio.open_nursery() as nursery:
            side = Client(nursery)

            async def lie():
                for k in range(2):
                    while len(side.peers) <= k:
                        await trio.sleep(0.1)
                    await side.peers[k].write(garbage)

            nursery.start_soon(lie)
            with pytest.raises(Unreachable):
                await side.client.request(b"a", 5000)
            assert side.faults and all(isinstance(fault, DecodeError) for fault in side.faults)
            nursery.cancel_scope.cancel()

    run(main)


def test_a_late_answer_is_ignored_and_three_silences_lose_the_peer():
    async def main():
        async with trio.open_nursery() as nursery:
            side = Client(nursery)
            for _ in range(MAX_SILENCES):
                assert side.losses == 0
                with pytest.raises(Timeout):
                    await side.client.request(b"a", 100)
            assert side.losses == 1
            number, _ = decode_request_envelope(await side.peers[0].read())
            await side.peers[0].write(encode_reply_envelope(number, True, b"late"))
            nursery.start_soon(echo, side.peers[0])
            assert await side.client.request(b"b", 5000) == b"bb"
            assert not side.faults and len(side.peers) == 1
            nursery.cancel_scope.cancel()

    run(main)


def test_a_request_given_up_while_it_is_written_does_not_spoil_the_stream():
    async def main():
        async with trio.open_nursery() as nursery:
            side = Client(nursery)
            opened = side.open

            async def narrow():
                end = await opened()
                if len(side.peers) == 1:
                    end.write = lambda data: trio.sleep_forever()
                return end

            side.client._open_stream = narrow
            with pytest.raises(Timeout):
                await side.client.request(b"a", 100)

            async def serve():
                while len(side.peers) < 2:
                    await trio.sleep(0.1)
                await echo(side.peers[1])

            nursery.start_soon(serve)
            assert await side.client.request(b"b", 5000) == b"bb"
            nursery.cancel_scope.cancel()

    run(main)


# --- serving


async def no_pace():
    await trio.lowlevel.checkpoint()


def test_a_server_bounds_what_it_does_at_once_and_how_long():
    async def main():
        busy = most = 0

        async def answer(_, data):
            nonlocal busy, most
            busy, most = busy + 1, max(most, busy + 1)
            try:
                await trio.sleep_forever()
            finally:
                busy -= 1
            return b""

        async with trio.open_nursery() as nursery:
            server = RequestServer(answer, lambda *_: None)
            ours, theirs = pipe()
            nursery.start_soon(server.serve, "peer", theirs, no_pace)
            stream = FrameStream(ours, 1 << 20)
            for number in range(3 * PIPELINE):
                await stream.write(encode_request_envelope(number, b"x"))
            began = trio.current_time()
            replies = [decode_reply_envelope(await stream.read()) for _ in range(3 * PIPELINE)]
            assert {reply[1:] for reply in replies} == {(False, b"Timeout")} and most == PIPELINE
            assert trio.current_time() - began == pytest.approx(3 * SERVE_SECONDS)
            nursery.cancel_scope.cancel()

    run(main)


def test_a_malformed_envelope_ends_the_stream_as_a_fault():
    async def main():
        async def answer(_, data):
            return data

        ours, theirs = pipe()
        await FrameStream(ours, 100).write(b"\xff")
        with pytest.raises(DecodeError):
            await RequestServer(answer, lambda *_: None).serve("peer", theirs, no_pace)

    run(main)


def test_a_peer_that_leaves_ends_its_serving_quietly():
    async def main():
        async def answer(_, data):
            await trio.sleep_forever()

        ours, theirs = pipe()
        await FrameStream(ours, 100).write(encode_request_envelope(1, b"x"))
        await ours.close()
        await RequestServer(answer, lambda *_: None).serve("peer", theirs, no_pace)

    run(main)
