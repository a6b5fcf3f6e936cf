"""What makes a block valid on its parent, beside the rules of the state machine.

    header      version, height, session, time, parent, runtime version, leader, authority set
    body        size, and that the header commits to it
    parent      a valid precommit certificate of the head; none in the first block
    extrinsics  well-formed, born on this chain and not expired, signed by their signer
    afterwards  weight, state root, events root and next authority set as execution yields them

Every refusal is `Rejected` with a stable name. The functions read nothing but their arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from .blocks import HEADER_VERSION, MAX_BODY_ITEMS, NO_CERTIFICATE, Block, Body, Extrinsic, Header
from .crypto import ZERO_HASH, signing_bytes, signing_hasher, verify_raw
from .errors import DecodeError, NotFound, Rejected
from .layout import Head
from .machine import AuthoritySet, BlockContext
from .spec import ChainSpecParams
from .votes import PRECOMMIT, Certificate, authorities_hash, leader

# (public key, signed message, signature) of several signatures -> which of them are valid. The shell gives one that
# spreads the work over its verify threads.
SignatureTask = tuple[bytes, bytes, bytes]
VerifyBatch = Callable[[Sequence[SignatureTask]], Sequence[bool]]

# Of the leaders that missed their round only the first ones are counted: a header cannot make this list long.
MAX_MISSED_ROUNDS: Final = 1000


def verify_one_by_one(tasks: Sequence[SignatureTask]) -> list[bool]:
    """The VerifyBatch without threads."""
    return [verify_raw(key, message, signature) for key, message, signature in tasks]


def check_header(
    params: ChainSpecParams, runtime_version: int, parent: Head, authorities: AuthoritySet, header: Header
) -> None:
    """The fields that need no execution. `authorities` is the set that certifies this height."""
    expected: dict[str, int | bytes] = {
        "version": HEADER_VERSION,
        "height": parent.height + 1,
        "session": params.session(parent.height + 1),
        "parent_hash": parent.hash,
        "runtime_version": runtime_version,
        "authorities_hash": parent.next_authorities_hash,
        "proposer_index": leader(authorities.keys, authorities.active, parent.height + 1, header.proposal_round),
    }
    for field, value in expected.items():
        found = getattr(header, field)
        if found != value:
            raise Rejected("WrongHeader", f"{field} is {_shown(found)}, expected {_shown(value)}", field=field)
    if header.timestamp_ms <= parent.timestamp_ms:
        raise Rejected("WrongHeader", "timestamp_ms is not above the parent's", field="timestamp_ms")


def check_body(params: ChainSpecParams, header: Header, body: Body) -> None:
    """The body is within the limit and the one that the header commits to."""
    check_size(params, body)
    if header.parent_cert_hash != body.cert_hash:
        raise Rejected("WrongBody", "the header commits to another parent certificate")
    if header.extrinsics_root != body.extrinsics_root:
        raise Rejected("WrongBody", "the header commits to other extrinsics")


def check_size(params: ChainSpecParams, body: Body) -> None:
    """The encoded body is within the limits of the chain."""
    size = len(body.encode())
    if size > params.max_block_bytes:
        raise Rejected("BlockTooLarge", f"{size} bytes, at most {params.max_block_bytes} allowed")
    if len(body.extrinsics) > MAX_BODY_ITEMS - 2:
        raise Rejected("BlockTooLarge", f"{len(body.extrinsics)} extrinsics, at most {MAX_BODY_ITEMS - 2} allowed")


def check_parent_certificate(
    params: ChainSpecParams, parent: Head, keys: Sequence[bytes], domain: bytes, encoded: bytes, trusted: bytes
) -> Certificate | None:
    """The certificate that the body carries, None in the first block.

    `keys` and `domain` are those of the parent's height; `trusted` is the encoding of one that was verified before.
    """
    if parent.height == params.genesis_height:
        if encoded != NO_CERTIFICATE:
            raise Rejected("WrongParentCertificate", "the first block carries none")
        return None
    try:
        certificate = Certificate.decode(encoded)
    except DecodeError as error:
        raise Rejected("WrongParentCertificate", error.cause) from None
    if (certificate.kind, certificate.height, certificate.block_hash) != (PRECOMMIT, parent.height, parent.hash):
        raise Rejected("WrongParentCertificate", "it is not for the parent block")
    if encoded != trusted and not certificate.verify(keys, domain):
        raise Rejected("WrongParentCertificate", "signatures, bitmap or quorum are wrong")
    return certificate


def block_context(
    header: Header, body: Body, authorities: AuthoritySet, certificate: Certificate | None, parent_keys: Sequence[bytes]
) -> BlockContext:
    """What the machine executes the block with. `parent_keys` is the set that certified the parent."""
    keys, active, height = authorities.keys, authorities.active, header.height
    missed = range(min(header.proposal_round, MAX_MISSED_ROUNDS))
    return BlockContext(
        height=height,
        session=header.session,
        timestamp_ms=header.timestamp_ms,
        parent_hash=header.parent_hash,
        proposer=keys[header.proposer_index],
        proposal_round=header.proposal_round,
        leaders_missed=tuple(keys[leader(keys, active, height, round_)] for round_ in missed),
        parent_signers=() if certificate is None else tuple(parent_keys[index] for index in certificate.indexes),
        beacon=ZERO_HASH if certificate is None else body.cert_hash,
    )


# --- extrinsics --------------------------------------------------------------------------------------------------


def read_extrinsics(
    block: Block, genesis_hash: bytes, hash_at: Callable[[int], bytes], known: Mapping[bytes, Extrinsic],
    verify_batch: VerifyBatch,
) -> tuple[Extrinsic, ...]:
    """Decode a block's extrinsics and check births and signatures. `known`: verified ones, by their bytes."""
    raws = block.body.extrinsics
    if known:
        found = list(map(known.get, raws))
        places = [index for index, extrinsic in enumerate(found) if extrinsic is None]
        fresh = _decode([raws[index] for index in places], raws)
        left = iter(fresh)
        extrinsics = [next(left) if extrinsic is None else extrinsic for extrinsic in found]
    else:
        extrinsics = fresh = _decode(raws, raws)
        places = list(range(len(raws)))
    births = _Births(block.height, genesis_hash, hash_at)
    lives = [(each.birth_height, each.period) for each in extrinsics]
    for life in dict.fromkeys(lives):
        try:
            births[life]
        except Rejected as error:
            index = lives.index(life)
            raise Rejected(error.error_name, f"extrinsic {index}: {error.cause}", index=index) from None
    tasks = [
        (each.signer, births[lives[index]](each.body), each.signature) for index, each in zip(places, fresh, strict=True)
    ]
    if tasks:
        for index, valid in zip(places, verify_batch(tasks), strict=True):
            if not valid:
                raise Rejected("BadSignature", f"extrinsic {index} is not signed by its signer", index=index)
    return tuple(extrinsics)


def _decode(fresh: Sequence[bytes], raws: Sequence[bytes]) -> list[Extrinsic]:
    """All of `fresh`, which are some of `raws`; a malformed one is named by its place in those."""
    try:
        return Extrinsic.decode_each(fresh)
    except DecodeError:
        for raw in fresh:
            try:
                Extrinsic.decode(raw)
            except DecodeError as error:
                index = raws.index(raw)
                raise Rejected("MalformedExtrinsic", f"extrinsic {index}: {error.cause}", index=index) from None
        raise


class _Births(dict[tuple[int, int], Callable[[bytes], bytes]]):
    """(birth height, period) -> what makes the signed message of a body; checked once for all that share them."""

    def __init__(self, height: int, genesis_hash: bytes, hash_at: Callable[[int], bytes]) -> None:
        self._height, self._genesis_hash, self._hash_at = height, genesis_hash, hash_at

    def __missing__(self, born: tuple[int, int]) -> Callable[[bytes], bytes]:
        birth_hash = check_life(*born, self._height, self._hash_at)
        message = self[born] = signing_hasher("extrinsic", self._genesis_hash, birth_hash)
        return message


def check_birth(extrinsic: Extrinsic, height: int, hash_at: Callable[[int], bytes]) -> bytes:
    """Hash of the birth block, for inclusion in the block at `height`. Raises Rejected (Expired, UnknownBirth)."""
    return check_life(extrinsic.birth_height, extrinsic.period, height, hash_at)


def check_life(birth: int, period: int, height: int, hash_at: Callable[[int], bytes]) -> bytes:
    """The same for whatever was born then and lives for that many blocks."""
    if height > birth + period:
        raise Rejected("Expired", f"born at {birth} with a period of {period}, now at {height - 1}")
    if birth >= height:
        raise Rejected("UnknownBirth", f"block {birth} does not exist yet")
    try:
        return hash_at(birth)
    except NotFound:
        raise Rejected("UnknownBirth", f"there is no block {birth}") from None


def signature_task(
    extrinsic: Extrinsic, height: int, genesis_hash: bytes, hash_at: Callable[[int], bytes]
) -> SignatureTask:
    """What must be verified for inclusion at `height`. Raises Rejected (Expired, UnknownBirth)."""
    birth_hash = check_birth(extrinsic, height, hash_at)
    message = signing_bytes("extrinsic", genesis_hash, birth_hash + extrinsic.body)
    return extrinsic.signer, message, extrinsic.signature


def check_yield(header: Header, state_root: bytes, events_root: bytes, authorities: AuthoritySet) -> None:
    """The header's commitments to what execution yields."""
    for field, value in (
        ("state_root", state_root),
        ("events_root", events_root),
        ("next_authorities_hash", authorities_hash(authorities.keys)),
    ):
        if getattr(header, field) != value:
            raise Rejected("WrongHeader", f"{field} is not what execution yields", field=field)


def _shown(value: int | bytes) -> str:
    return value.hex()[:16] if isinstance(value, bytes) else str(value)
