"""The decoders of text and of files: JSON-RPC both ways, chain specifications, addresses, settings, key files."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from ledger.blocks import Header
from ledger.errors import DecodeError, Error, KeyFileError, KeyLocked, Rejected, UsageError
from ledger.recovery import Recovery
from tools.node.rewinds import parse_rewinds, rewinds_text

from . import samples as made
from .target import Reader, Target, one

# --- text --------------------------------------------------------------------------------------------------------


def text_targets() -> list[Target]:
    from ai.gateway.openai import ApiError
    from genesis.cast import devnet_spec
    from genesis.spec import format_spec, parse_spec
    from ledger.client.keys import decode_address, encode_address
    from p2p.addresses import parse_address, peer_id_of

    address = encode_address(made.PUBLIC[0])
    peer = peer_id_of(made.KEYS[0].seed)

    def text(read: Callable[[str], Any]) -> Reader:
        return lambda data: read(data.decode(errors="replace"))

    spec = format_spec(devnet_spec(1, authorities=1)).encode()
    return [
        Target("chain specification", "toml", lambda: [spec, _small_spec()], text(parse_spec), refuses=(UsageError,),
               max_ms=60, slow=True),
        Target("address", "bytes", one(address.encode()), text(decode_address),
               lambda public: encode_address(public).encode(), refuses=(UsageError,),
               covers=("ledger.client.keys.decode_address",)),
        Target("multiaddress", "bytes",
               lambda: [f"/ip4/8.8.8.8/tcp/9920/p2p/{peer}".encode(), b"/ip6/::1/tcp/1/p2p/" + peer.encode()],
               text(parse_address), refuses=(UsageError,)),
        Target("JSON-RPC request", "json", _rpc_requests, _rpc_answer, refuses=()),
        Target("JSON-RPC reply", "json", _rpc_replies, _rpc_reply, refuses=(Error,)),
        Target("light client's proof", "json", _light_proofs, _light_client, refuses=(DecodeError, Rejected), slow=True),
        Target("proof file", "json", _proof_files, _proof_file, refuses=(DecodeError, Rejected, UsageError), slow=True),
        Target("gateway request", "json", _chats, _chat, refuses=(ApiError,), covers=("ai.gateway.openai.parse_request",)),
    ]


def _small_spec() -> bytes:
    session, account, sudo = ("0x" + made.PUBLIC[index].hex() for index in (0, 1, 3))
    return f'''version = 1
[chain]
name = "small"
sudo = "{sudo}"
[[authorities]]
session = "{session}"
account = "{account}"
'''.encode()


class _EmptyApi:
    """A chain that knows nothing: what is fuzzed is the way to it."""

    def __getattr__(self, name: str) -> Any:
        async def nothing(**_: Any) -> None:
            return None

        return nothing


@cache
def _rpc() -> Any:
    from tools.rpc.jsonrpc import Dispatcher
    from tools.rpc.limits import Limits

    return Dispatcher(_EmptyApi(), Limits()), asyncio.new_event_loop()


def _rpc_requests() -> list[bytes]:
    from ledger.client.registry import methods

    key = "0x" + made.PUBLIC[0].hex()
    found = []
    for number, method in enumerate(methods().values()):
        params = {parameter.name: key if parameter.kind is bytes else 7 for parameter in method.parameters}
        found.append(json.dumps({"jsonrpc": "2.0", "id": number, "method": method.wire, "params": params}).encode())
    return [*found, b"[" + found[0] + b"," + found[1] + b"]", b'{"jsonrpc":"2.0","method":"rpc_methods"}']


def _rpc_answer(data: bytes) -> None:
    """Every request gets an answer that is JSON; none is a failure of the server's own."""
    from tools.rpc.jsonrpc import Caller

    dispatcher, loop = _rpc()
    log = logging.getLogger("quorix.rpc")
    log.disabled = True  # what it would say is asserted below
    try:
        answer = loop.run_until_complete(dispatcher.answer(data, Caller("")))
    finally:
        log.disabled = False
    if answer is not None:
        assert '"Internal"' not in answer, "an internal error was answered"
        json.loads(answer)


def _rpc_replies() -> list[bytes]:
    from ledger.client.records import to_json

    reading = {"at": {"height": 1, "hash": "0x00"}, "value": []}
    rows = [to_json(_finality(made.header())), to_json(made.header().hash), 7, None, reading]
    data = {"name": "NonceTooLow", "cause": "", "hint": "", "details": {}}
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32003, "message": "no", "data": data}}
    return [*(json.dumps({"jsonrpc": "2.0", "id": 1, "result": row}).encode() for row in rows), json.dumps(error).encode()]


def _rpc_reply(data: bytes) -> None:
    """A client may believe nothing that a node says: all types are rebuilt from the same reply."""
    from ledger.client.records import from_json
    from ledger.client.registry import methods
    from ledger.client.remote import _parse, _result

    result = _result(_parse(data), 1)
    for method in methods().values():
        try:
            from_json(method.returns, result, method.wire)
        except DecodeError:
            continue


def _finality(header: Header) -> Any:
    from ledger.client.records import Finality
    from ledger.votes import PRECOMMIT

    return Finality(header.encode(), made.certificate(PRECOMMIT, header.hash).encode(), made.PUBLIC)


def _light_proofs() -> list[bytes]:
    from ledger.client.records import to_json

    root, (proof, absent, _) = made.proofs()
    header = made.header(state_root=root)
    at = {"height": 7, "hash": to_json(header.hash)}
    return [
        json.dumps({"at": at, "key": to_json(key), "value": value, "state_root": to_json(root), "proof": to_json(row),
                    "finality": to_json(_finality(header))}).encode()
        for key, value, row in ((b"key 3", to_json(b"value 3"), proof), (b"absent", None, absent))
    ]


def _light_client(data: bytes) -> None:
    from ledger.client.light import verify_state_proof
    from ledger.client.records import StateProof, from_json
    from ledger.client.remote import _parse

    verify_state_proof(from_json(StateProof, _parse(data)), made.DOMAIN, made.PUBLIC)


def _proof_files() -> list[bytes]:
    """What `quorix query state KEY KEY --proof` writes: one key that is there and one that is not."""
    from ledger.client.records import At, Finality, StateEntry, StateProofs, to_json
    from ledger.state_tree import StateTree

    chain = made.chain()
    head, state = chain.head, dict(chain.view().items(b""))
    present = max(state)
    keys = (present, b"absent")
    entries = [StateEntry(key, state.get(key)) for key in keys]
    finality = Finality(
        chain.header(head.height).encode(), chain.certificate(head.height).encode(), list(chain.authority_keys(head.height))
    )
    proof = StateTree().updated(state)[0].prove(*keys)
    proofs = StateProofs(At(head.height, head.hash), entries, head.state_root, proof, finality, [])
    return [json.dumps(to_json(proofs)).encode()]


def _proof_file(data: bytes) -> None:
    """Whatever a file says: what it proves is so."""
    from ledger.client.light import verify_state_proofs
    from ledger.client.records import StateProofs, from_json
    from ledger.client.remote import _parse

    chain = made.chain()
    proofs = from_json(StateProofs, _parse(data), "proof")
    verify_state_proofs(proofs, chain.params.genesis_hash, chain.authority_keys(1))
    view = chain.view(proofs.at.height)
    assert all(view.get(entry.key) == entry.value for entry in proofs.entries), "a wrong value was proven"


def _chats() -> list[bytes]:
    options = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 16, "seed": 1, "stop": ["x"], "stream": True}
    return [
        json.dumps({"model": "quorix", "messages": [{"role": "user", "content": "hello"}], **options}).encode(),
        json.dumps({"model": "quorix", "prompt": "hello", "stream_options": {"include_usage": True}}).encode(),
    ]


def _chat(data: bytes) -> None:
    from ai.gateway.openai import ApiError, parse_request

    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError(400, "not JSON") from None
    for chat in (True, False):
        try:
            parse_request(body, chat=chat, default_seed=0)
        except ApiError:
            continue


# --- files -------------------------------------------------------------------------------------------------------


@cache
def _folder() -> Path:
    """A folder in memory for what can only be read from files. Goes away with this process."""
    import tempfile

    held = tempfile.TemporaryDirectory(prefix="quorix-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    _HELD.append(held)
    return Path(held.name)


_HELD: Final[list[Any]] = []


def _in_file(name: str, read: Callable[[Path], Any]) -> Reader:
    def run(data: bytes) -> Any:
        path = _folder() / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        return read(path)

    return run


def _key_files() -> list[bytes]:
    from ledger.client.keys import write_key_file

    for name, password in (("clear", None), ("locked", "password")):
        path = _folder() / name
        path.unlink(missing_ok=True)
        write_key_file(path, made.KEYS[0], "coldkey", password=password, profile="interactive")
    return [(_folder() / name).read_bytes() for name in ("clear", "locked")]


def _dumps() -> list[bytes]:
    return [b"".join(len(raw).to_bytes(4, "big") + raw for raw in made.extrinsics()[:4])]


def _recovery(data: bytes) -> None:
    found = Recovery.parse(data)
    assert Recovery.parse(found.text().encode()) == found, "a recovery file says something else when it is written again"


def _rewinds(data: bytes) -> None:
    found = parse_rewinds(data)
    assert parse_rewinds(rewinds_text(*found).encode()) == found, "a file of rewinds reads otherwise when it is written again"


def file_targets() -> list[Target]:
    from ai.judge.memory import Pending
    from ai.judge.shapley import ScoreBook
    from ledger.client.keys import read_key_file
    from ledger.errors import NotFound
    from ledger.pool import read_dump
    from tools.node.config import load_config

    config = b'rpc_port = 9900\npeers = ["/ip4/127.0.0.1/tcp/1/p2p/x"]\nlog = "info"\n'
    members = tuple((key, made.PUBLIC[3]) for key in made.PUBLIC[:2])
    recovery = Recovery(made.DOMAIN, 7, made.header().hash, members, "two of three disks were lost").text().encode()
    rewinds = rewinds_text(made.DOMAIN, ((1, made.DOMAIN), (7, bytes(32))))
    rows = {"uids": [3, 4], "values": [1, 65535], "version_key": 0, "salt": "00" * 32, "confirmed": True}
    pending = {"netuid": 1, "epoch": 5, **rows}
    scores = [[[made.PUBLIC[0].hex(), 0.5, 3]], 0.25, 2]
    return [
        Target("recovery file", "json", one(recovery), _recovery),
        Target("file of rewinds", "json", one(rewinds.encode()), _rewinds),
        Target("validator's commitments", "json", one(json.dumps(pending).encode()),
               lambda data: Pending.from_json(data.decode()), refuses=(ValueError, TypeError)),
        Target("validator's scores", "json", one(json.dumps(scores).encode()),
               lambda data: ScoreBook.from_value(json.loads(data)), refuses=(ValueError, TypeError, RecursionError),
               max_ms=20),
        Target("key file", "json", _key_files, _in_file("key", read_key_file), refuses=(KeyFileError, KeyLocked, UsageError)),
        Target("node settings", "toml", one(config),
               _in_file("config.toml", lambda path: load_config(path.parent, environment={})), refuses=(UsageError, NotFound)),
        Target("pool file", "bytes", _dumps, read_dump, refuses=(), covers=("ledger.pool.read_dump",)),
    ]


