"""Snapshots: a chain continued from one is the chain; every altered, cut, doubled or swapped part is refused by name."""

import io
import random

import pytest

from ledger import layout, snapshot
from ledger.blocks import Block
from ledger.codec import decode, encode
from ledger.errors import DecodeError, Error, NotFound, Pruned, Rejected, UsageError
from ledger.framing import FrameWriter, read_frames
from ledger.snapshot import KIND, MAX_FRAME_BYTES, SnapshotReader, read_snapshot, write_snapshot
from ledger.snapshot_chunks import Chunk, cut
from ledger.state_tree import state_root


def grown(new_ledger, blocks=12, **params):
    """A chain with many values whose authority set changes twice."""
    ledger = new_ledger(**params).create()
    rnd = random.Random(3)
    sets = {4: ledger.authority_keys[:3], 8: ledger.authority_keys[1:]}
    keys = ledger.authority_keys
    for height in range(1, blocks + 1):
        inherents = [(7, b"".join(key.public for key in sets[height]))] if height in sets else []
        puts = [
            ledger.extrinsic(0, ledger.nonce(0) + index, 2, [rnd.randbytes(6), rnd.randbytes(rnd.randint(1, 300))])
            for index in range(30)
        ]
        executed = ledger.build(puts, inherents)
        ledger.chain.commit(executed, ledger.certificate(executed.block, keys=keys))
        keys = sets.get(height, keys)
    ledger.authority_keys = keys
    return ledger


def written(ledger, height=None, **options):
    file = io.BytesIO()
    write_snapshot(ledger.chain, ledger.chain.head.height if height is None else height, file, **options)
    return file.getvalue()


def restored(new_ledger, data, checkpoint=None, retain_blocks=256, **params):
    """A ledger that starts from the file."""
    ledger = new_ledger(**params)
    genesis_set = [key.public for key in ledger.authority_keys]
    reader = SnapshotReader(io.BytesIO(data), ledger.params, genesis_set, checkpoint)
    read_snapshot(reader, ledger.store, ledger.params, ledger.machine, retain_blocks=retain_blocks)
    ledger.open(retain_blocks=retain_blocks, domain_at=lambda height: ledger.genesis_hash)
    return ledger


@pytest.mark.parametrize("retain_blocks", [256, None])
def test_a_chain_continues_from_a_snapshot(new_ledger, retain_blocks):
    source = grown(new_ledger)
    copy = restored(new_ledger, written(source, chunk_bytes=2_000), retain_blocks=retain_blocks)
    assert copy.chain.head == source.chain.head
    assert dict(copy.chain.view().items(b"")) == dict(source.chain.view().items(b""))
    assert copy.chain.prove(b"auth") == source.chain.prove(b"auth")
    copy.chain.audit_state()
    for _ in range(3):  # also with a transaction that was born long before the snapshot
        executed = source.build([source.extrinsic(1, birth=1), source.extrinsic(2)])
        certificate = source.certificate(executed.block)
        source.chain.commit(executed, certificate)
        copy.chain.apply(copy.chain.import_block(Block.decode(executed.block.encode()), certificate))
        assert copy.chain.head == source.chain.head
    assert copy.chain.view(13).get(b"auth") == source.chain.view(13).get(b"auth")
    assert copy.chain.first_readable_height() == 12
    with pytest.raises(Pruned):
        copy.chain.view(11)
    with pytest.raises(NotFound, match="is not kept here"):
        copy.chain.body(12)
    assert [header.height for header in copy.chain.set_changes()] == [4, 8]
    again = restored(new_ledger, written(copy, 15))  # a snapshot of a chain that began with one
    assert again.chain.head == source.chain.head


def test_a_snapshot_of_an_earlier_height(new_ledger):
    source = grown(new_ledger)
    copy = restored(new_ledger, written(source, 6))
    assert copy.chain.head.height == 6
    assert dict(copy.chain.view().items(b"")) == dict(source.chain.view(6).items(b""))
    for height in range(7, 13):
        copy.chain.apply(copy.chain.import_block(source.chain.block(height), source.chain.certificate(height)))
    assert copy.chain.head == source.chain.head
    with pytest.raises(UsageError):
        written(source, 0)


def frames_of(data):
    return list(read_frames(io.BytesIO(data), KIND, MAX_FRAME_BYTES))


def joined(frames, manifest=None):
    """A file of these frames whose checksums are right, as a forger makes it."""
    file = io.BytesIO()
    writer = FrameWriter(file, KIND)
    for index, frame in enumerate(frames):
        writer.write(frame if index or manifest is None else manifest)
    writer.close()
    return file.getvalue()


def test_forged_files_are_refused_by_name(new_ledger):
    source = grown(new_ledger)
    frames = frames_of(written(source, chunk_bytes=2_000))
    manifest = decode(frames[0])
    first = 1 + manifest[2] + 1  # the first chunk: after the manifest, the sets, one frame of headers
    assert manifest[2] == 2 and manifest[4] == len(frames) - first > 8

    def with_manifest(place, value):
        return encode([*manifest[:place], value, *manifest[place + 1 :]])

    def changed(index, change):
        chunk = Chunk.decode(frames[index])
        entries = list(chunk.entries)
        change(entries)
        return Chunk(chunk.path, chunk.masks, chunk.siblings, tuple(entries)).encode()

    def spoil(entries):
        entries[0] = entries[0][0], b"x"

    swapped = [*frames[:first], frames[first + 1], frames[first], *frames[first + 2 :]]
    doubled = [*frames[: first + 1], frames[first], *frames[first + 1 :]]
    headers = decode(frames[first - 1])
    cases = {
        "ChunkOrder 1": joined(swapped),
        "ChunkOrder 2": joined(doubled, with_manifest(4, manifest[4] + 1)),
        "WrongChunk value": joined([*frames[:first], changed(first, spoil), *frames[first + 1 :]]),
        "WrongChunk less": joined([*frames[:first], changed(first, lambda e: e.pop()), *frames[first + 1 :]]),
        "MalformedChunk": joined([*frames[:first], changed(first, lambda e: e.reverse()), *frames[first + 1 :]]),
        "MissingChunks": joined([*frames[:first], *frames[first + 1 :]], with_manifest(4, manifest[4] - 1)),
        "DecodeError cut": joined(frames[:-1]),
        "DecodeError more": joined([*frames, frames[-1]]),
        "UntrustedAuthorities": joined([*frames[:1], *frames[2:]], with_manifest(2, 1)),
        "NotLater": joined([frames[0], frames[1], frames[1], *frames[3:]]),
        "BrokenLink": joined([*frames[: first - 1], encode(headers[:4] + headers[5:]), *frames[first:]], with_manifest(3, 10)),
        "MissingHeaders": joined([*frames[: first - 1], encode(headers[5:]), *frames[first:]], with_manifest(3, 6)),
        "BadCertificate": joined(frames, with_manifest(1, [manifest[1][0], source.certificate(
            source.chain.block(12), signers=[0, 1], keys=source.authority_keys).encode(), manifest[1][2]])),
        "WrongGenesis": joined(frames, with_manifest(0, bytes(32))),
    }
    for name, data in cases.items():
        with pytest.raises(Error) as caught:
            restored(new_ledger, data)
        assert getattr(caught.value, "error_name", caught.value.name) == name.split()[0], (name, caught.value)


def test_damaged_files_are_refused_wherever_they_are_damaged(new_ledger):
    data = written(grown(new_ledger, 3), chunk_bytes=2_000)
    rnd = random.Random(1)
    for _ in range(40):
        at = rnd.randrange(len(data))
        with pytest.raises((DecodeError, Rejected)):
            restored(new_ledger, data[:at] + bytes((data[at] ^ 1 << rnd.randrange(8),)) + data[at + 1 :])
        with pytest.raises(DecodeError):
            restored(new_ledger, data[:at])
    with pytest.raises(DecodeError, match="after the end"):
        restored(new_ledger, data + b"\0")


def test_a_failed_import_leaves_nothing_that_opens(new_ledger):
    frames = frames_of(written(grown(new_ledger), chunk_bytes=2_000))
    ledger = new_ledger()
    reader = SnapshotReader(io.BytesIO(joined(frames[:-1])), ledger.params, [key.public for key in ledger.authority_keys])
    with pytest.raises(DecodeError):
        read_snapshot(reader, ledger.store, ledger.params, ledger.machine, retain_blocks=256)
    assert ledger.store.get(layout.HEAD_KEY) is None
    with pytest.raises(Error, match="no stamp"):
        ledger.open()


def test_checkpoints(new_ledger):
    source = grown(new_ledger, devnet=False)
    data = written(source)
    with pytest.raises(UsageError, match="cannot exclude") as caught:
        restored(new_ledger, data, devnet=False)
    assert "--checkpoint" in caught.value.hint
    for height in (12, 5):
        assert restored(new_ledger, data, (height, source.chain.hash_at(height)), devnet=False).chain.head.height == 12
    with pytest.raises(Rejected) as refused:
        restored(new_ledger, data, (5, bytes(32)), devnet=False)
    assert refused.value.error_name == "OtherCheckpoint"
    with pytest.raises(UsageError, match="not in the snapshot"):
        restored(new_ledger, data, (13, bytes(32)), devnet=False)


@pytest.mark.parametrize("count", [0, 1, 8, 9, 100, 2000])
def test_chunks_of_any_state_have_its_root_and_cover_it(count):
    rnd = random.Random(count)
    state = {rnd.randbytes(rnd.randint(0, 12)): rnd.randbytes(rnd.choice((0, 5, 100, 3000))) for _ in range(count)}
    plan = cut(state.items(), state.__getitem__, 4_000)
    assert plan.root == state_root(state)
    found = {}
    for chunk in plan.chunks():
        assert Chunk.decode(chunk.encode()) == chunk
        chunk.verify(plan.root)
        assert not found.keys() & dict(chunk.entries).keys()
        found.update(chunk.entries)
        assert sum(len(key) + len(value) for key, value in chunk.entries) <= 4_000 or len(chunk.entries) <= 8
        with pytest.raises(Rejected):
            chunk.verify(b"r" * 32)
    assert found == state


def test_nonsense_is_no_chunk():
    rnd = random.Random(9)
    good = next(iter(cut([(b"%d" % i, b"v") for i in range(500)], lambda key: b"v", 2_000).chunks())).encode()
    for _ in range(300):
        at = rnd.randrange(len(good))
        data = rnd.choice((good[:at], good[:at] + bytes((rnd.randrange(256),)) + good[at + 1 :], rnd.randbytes(at)))
        try:
            assert Chunk.decode(data).encode() == data
        except DecodeError:
            pass
    with pytest.raises(DecodeError):
        Chunk.decode(encode([b"\4", b"\0", b"", b""]))
    deep = Chunk(b"\0" * 127, b"\1" * 127, b"", ())
    with pytest.raises(Rejected):
        deep.verify(bytes(32))


def test_a_chain_that_does_not_have_its_root_is_not_exported(ledger):
    ledger.grow(2)
    ledger.store.write({layout.STATE + b"vrogue": layout.state_row(b"x")}, sync=True)
    ledger.grow(1)
    with pytest.raises(Rejected, match="does not have the root"):
        snapshot.write_snapshot(ledger.chain, 3, io.BytesIO())
