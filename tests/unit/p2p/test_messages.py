import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import encode
from ledger.crypto import KeyPair
from ledger.errors import DecodeError, Rejected
from p2p.addresses import peer_id_of
from p2p.hello import check_hello, default_hello
from p2p.messages import (
    MAX_BODIES,
    MAX_HEADERS,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    BlockReply,
    Bodies,
    GetBlock,
    GetBodies,
    GetHead,
    GetHeaders,
    Head,
    Headers,
    PeerRecord,
    decode_hello,
    decode_records,
    decode_reply,
    decode_reply_envelope,
    decode_request,
    decode_request_envelope,
    decode_verdict,
    encode_hello,
    encode_records,
    encode_reply,
    encode_reply_envelope,
    encode_request,
    encode_request_envelope,
    encode_verdict,
    sign_proof,
)
from p2p.network import Hello

HASH, OTHER, GENESIS = b"h" * 32, b"o" * 32, b"g" * 32
KEY = KeyPair.from_seed(b"k" * 32)
FULL = Hello(1, GENESIS, ((0, GENESIS), (9, HASH)), 12, b"certificate", "full")
PROVEN = Hello(1, GENESIS, ((0, GENESIS),), 12, b"", "authority", KEY.public, 99, b"s" * 64)
RECORD = PeerRecord.sign(KEY, GENESIS, b"\x7f\0\0\1", 9920, 5, 10**12)

REQUESTS = [GetHead(0), GetHead(2**64 - 1), GetHeaders(5, 512), GetBodies((HASH,) * 512), GetBlock(HASH)]
REPLIES = [
    (GetHead(0), Head(5, HASH, b"header", b"certificate")), (GetHeaders(1, 512), Headers((b"h" * 1024,) * 512)),
    (GetHeaders(1, 1), Headers(())), (GetBodies((HASH, HASH)), Bodies((b"", b"x" * 1_000_000))),
    (GetBlock(HASH), BlockReply(b"header", b"body")), (GetBlock(HASH), BlockReply(b"", b"")),
]


def test_everything_round_trips():
    for hello in (FULL, PROVEN):
        assert decode_hello(encode_hello(hello)) == hello
    for request in REQUESTS:
        assert decode_request(encode_request(request)) == request
    for request, reply in REPLIES:
        assert decode_reply(encode_reply(reply), request) == reply
    assert decode_request_envelope(encode_request_envelope(7, b"x" * MAX_REQUEST_BYTES)) == (7, b"x" * MAX_REQUEST_BYTES)
    assert decode_reply_envelope(encode_reply_envelope(2**32 - 1, False, b"x")) == (2**32 - 1, False, b"x")
    assert decode_reply_envelope(encode_reply_envelope(1, True, bytes(MAX_REPLY_BYTES)))[2] == bytes(MAX_REPLY_BYTES)
    assert decode_records(encode_records([RECORD] * 16)) == [RECORD] * 16
    assert RECORD.verify(GENESIS) and not RECORD.verify(OTHER)
    assert decode_verdict(encode_verdict("")) == "" and decode_verdict(encode_verdict("Banned")) == "Banned"


DECODERS = {
    "hello": (decode_hello, encode_hello(PROVEN)),
    "request": (decode_request, encode_request(GetBodies((HASH, OTHER)))),
    "reply": (lambda data: decode_reply(data, GetHead(0)), encode_reply(REPLIES[0][1])),
    "request envelope": (decode_request_envelope, encode_request_envelope(7, b"payload")),
    "reply envelope": (decode_reply_envelope, encode_reply_envelope(7, True, b"payload")),
    "records": (decode_records, encode_records([RECORD])),
    "verdict": (decode_verdict, encode_verdict("Banned")),
}


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
def test_decoders_raise_nothing_but_decode_errors(name, data):
    decoder, good = DECODERS[name]
    mutated = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        if not mutated:
            break
    for candidate in (bytes(mutated), data.draw(st.binary(max_size=64)), good + b"\0", good[:-1]):
        try:
            decoder(candidate)
        except DecodeError:
            continue
        assert candidate not in (good + b"\0", good[:-1])


def hello_value(**changes):
    fields = {
        "version": 1, "genesis": GENESIS, "domains": [[0, GENESIS]], "height": 1, "certificate": b"", "role": 1,
        "proof": [KEY.public, 9, bytes(64)],
    }
    return encode(list((fields | changes).values()))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"version": -1}, "version"), ({"version": 2**16}, "version"), ({"genesis": b"g"}, "genesis_hash"),
        ({"domains": []}, "domains"), ({"domains": [[0, GENESIS]] * 65}, "domains"),
        ({"domains": [[5, GENESIS], [5, HASH]]}, "domains"), ({"domains": [[5, GENESIS], [4, HASH]]}, "domains"),
        ({"domains": [[0, b"x"]]}, "domains"), ({"height": -1}, "height"), ({"height": True}, "height"),
        ({"certificate": bytes(8193)}, "certificate"), ({"role": 2}, "role"), ({"role": 0}, "proof"), ({"proof": []}, "proof"),
        ({"proof": [KEY.public, 9]}, "proof"), ({"proof": [KEY.public, 9, bytes(63)]}, "proof"), ({"proof": 0}, "proof"),
        ({"proof": [b"", 0, b""]}, "proof"),
    ],
)
def test_bad_hellos_are_refused_by_field(changes, where):
    with pytest.raises(DecodeError) as refused:
        decode_hello(hello_value(**changes))
    assert where in refused.value.where or where in refused.value.cause


@pytest.mark.parametrize(
    "value",
    [
        [], [0], [5], [1], [1, -1], [1, 2**64], [1, 0, 0], [2, 1, 0], [2, 1, 513], [2, 1], [3, []], [3, [b"x"]],
        [3, [HASH] * 513], [3, HASH], [4, b"x"], [4], ["head", 1], [True, 1], 7, None, [[1], 0],
    ],
)
def test_bad_requests_are_refused(value):
    with pytest.raises(DecodeError):
        decode_request(encode(value))


@pytest.mark.parametrize(
    ("request_", "value"),
    [
        (GetHead(0), [2, []]), (GetHead(0), [1, 5, HASH, b"", bytes(8193)]), (GetHead(0), [1, 5, b"x", b"", b""]),
        (GetHead(0), [1, 5, HASH, bytes(1025), b""]), (GetHeaders(1, 1), [2, [b"a", b"b"]]), (GetHeaders(1, 512), [2, 5]),
        (GetHeaders(1, 512), [2, [b"a"] * 513]), (GetBodies((HASH,)), [3, [b"a", b"b"]]),
        (GetBodies((HASH,)), [3, [bytes((1 << 20) + 16385)]]), (GetBlock(HASH), [4, b"a"]), (GetBlock(HASH), [4, b"a", 1]),
        (GetBlock(HASH), [1, 5, HASH, b"", b""]), (GetBlock(HASH), []), (GetBlock(HASH), [9]),
    ],
)
def test_bad_replies_are_refused(request_, value):
    with pytest.raises(DecodeError):
        decode_reply(encode(value), request_)


def test_sizes_are_bounded():
    with pytest.raises(DecodeError):
        decode_request(encode([4, bytes(MAX_REQUEST_BYTES)]))
    with pytest.raises(DecodeError):
        decode_request_envelope(encode([1, bytes(MAX_REQUEST_BYTES + 1)]))
    with pytest.raises(DecodeError):
        decode_reply_envelope(encode([1, True, bytes(MAX_REPLY_BYTES + 1)]))
    with pytest.raises(DecodeError):
        decode_records(encode([RECORD.encode()] * 17))
    with pytest.raises(DecodeError):
        decode_records(encode([]))
    assert MAX_HEADERS == MAX_BODIES == 512
    assert len(encode_request(GetBodies((HASH,) * MAX_BODIES))) <= MAX_REQUEST_BYTES


@pytest.mark.parametrize("text", ["x" * 65, "two words", "a1", "é", 5, None, b"x"])
def test_bad_verdicts_are_refused(text):
    with pytest.raises(DecodeError):
        decode_verdict(encode(text))


def test_records_of_nowhere_are_refused():
    for ip, port in ((b"12345", 1), (b"1234", 0)):
        with pytest.raises(DecodeError):
            PeerRecord.decode(PeerRecord.sign(KEY, GENESIS, ip, port, 1, 1).encode())


def test_hello_rules():
    peer = peer_id_of(bytes(32))
    mine = default_hello(GENESIS)
    signature = sign_proof(KEY, GENESIS, GENESIS, peer, 50)
    good = Hello(1, GENESIS, ((0, GENESIS),), 3, b"", "authority", KEY.public, 50, signature)
    check_hello(mine, good, peer)

    def refusal(**changes):
        with pytest.raises(Rejected) as refused:
            check_hello(mine, Hello(**({name: getattr(good, name) for name in Hello.__dataclass_fields__} | changes)), peer)
        return refused.value.error_name

    assert refusal(version=9) == "OtherVersion"
    assert refusal(genesis_hash=OTHER) == "WrongGenesis"
    assert refusal(domains=((0, GENESIS), (4, OTHER))) == "OtherDomains"
    assert refusal(signature=bytes(64)) == "BadProof"
    assert refusal(session_key=bytes(32)) == "BadProof"
    assert refusal(expiry_height=51) == "BadProof"
    with pytest.raises(Rejected, match="BadProof"):
        check_hello(mine, good, peer_id_of(b"1" * 32))
    with pytest.raises(Rejected, match="ExpiredProof"):
        check_hello(Hello(1, GENESIS, ((0, GENESIS),), 51, b"", "full"), good, peer)
    rewound = Hello(1, GENESIS, ((0, GENESIS), (4, OTHER)), 3, b"", "authority", KEY.public, 50, signature)
    with pytest.raises(Rejected, match="BadProof"):  # signed under the domain before the rewind
        check_hello(Hello(1, GENESIS, rewound.domains, 3, b"", "full"), rewound, peer)
