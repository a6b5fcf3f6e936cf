"""The record of an epoch: what went in, every value on the way, what came out.

`EpochTrace` is what `yuma.epoch` returns. The chain stores its u16 scores and bonds; the whole record becomes the
history row of the epoch, from which CLI, RPC and explorer explain why somebody was paid. `to_record` makes a list for
the strict codec (packed vectors, no floats); `from_record` checks and restores it. Values that follow from others by
one division or comparison (shares, trust, clipped weights) are not stored but computed on access.

Units: `_rao` whole rao; weights, consensus, ranks, trust, incentive, dividends and bonds are Q32 unless their name ends
in `_u16`. A row is a list of (uid, value) sorted by uid.

Rules: EPO-17 the trace
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Final

from ledger.codec import (
    BOOL,
    U16,
    U64,
    Bytes,
    DecodeError,
    Int,
    ListOf,
    Optional,
    Record,
    decode,
    encode,
    pack_u16,
    pack_u64,
    unpack_u16,
    unpack_u64,
)

from .fixed import U16_MAX, fdiv, fnorm, fu16
from .rows import PackedRows, Row, Rows, entry_count
from .yuma_bonds import bond_alphas, bond_target, merged

MAX_UIDS: Final = 4096
MAX_RECORD_BYTES: Final = 1 << 20
MAX_ROW_ENTRIES: Final = 16_384  # of the largest matrix; with more, a history row keeps only the vectors
RECORD_VERSION: Final = 1

PAID_BY: Final = ("nobody", "scores", "active stake", "stake")


@dataclass(frozen=True, slots=True)
class EpochParams:
    """Parameters of an epoch; the defaults are the chain's.

    `kappa`, `bonds_penalty`, `alpha_low`, `alpha_high` are u16 proportions; `bonds_moving_average` is in ppm;
    `alpha_steepness` in hundredths; `activity_cutoff` in blocks; `stake_threshold` in rao. `owner`, `permit_twice` and
    `exact_payout` exist to replay the peer's epochs: a uid with privileges, permits of the previous epoch alone, and
    payouts that lose the rounding.
    """

    kappa: int = 32767
    bonds_moving_average: int = 900_000
    bonds_penalty: int = 0
    yuma3: bool = True
    liquid_alpha: bool = False
    alpha_low: int = 45875
    alpha_high: int = 58982
    alpha_steepness: int = 1000
    max_validators: int = 64
    stake_threshold: int = 0
    activity_cutoff: int = 5000
    owner: int | None = None
    permit_twice: bool = True
    exact_payout: bool = True


@dataclass(frozen=True, slots=True)
class EpochInputs:
    """State that an epoch reads; every sequence is indexed by uid.

    stake: effective voting stake, whole rao. permit: from the previous epoch. registered_at, active_at (last applied
    weights, else registration), weights_at (set, or commit, of the applied row): blocks. weights, bonds: rows of u16.
    bonds_from: bonds towards a uid registered at or after this block are void (`yuma.bonds_from`). forfeit: the
    validator withheld its last commit. open_commit: block of the oldest open commit, only to replay the peer.
    extra: one more voter without uid, as (row of Q32 shares, rao).
    """

    block: int
    bonds_from: int
    emission_rao: int
    stake: Sequence[int]
    permit: Sequence[bool]
    registered_at: Sequence[int]
    active_at: Sequence[int]
    weights_at: Sequence[int]
    weights: Rows
    bonds: Rows
    forfeit: Sequence[bool] = ()
    open_commit: Sequence[int | None] = ()
    extra: tuple[Row, int] | None = None


@dataclass(frozen=True, slots=True)
class EpochTrace:
    """One epoch, complete. All lists are indexed by uid; `pay_weights` holds incentives, then dividends (2n)."""

    block: int
    emission_rao: int
    params: EpochParams
    stake_rao: list[int]  # 0 below the threshold
    permit_before: list[bool]
    permit: list[bool]  # for the next epoch
    active: list[bool]
    forfeited: list[bool]
    active_stake_rao: list[int]  # what votes
    extra_stake_rao: int
    need_rao: int  # support that makes a weight the consensus
    muted_rao: int  # stake of the forfeiting
    consensus: list[int]
    validator_trust: list[int]
    prerank: list[int]  # stake-weighted sums before clipping
    rank: list[int]  # and after
    incentive: list[int]
    dividends: list[int]
    paid_by: str  # one of PAID_BY
    pay_weights: list[int]
    server_rao: list[int]
    validator_rao: list[int]
    raw_weights: Rows = field(default_factory=list)  # u16, what remains after the masks
    bonds_before: Rows = field(default_factory=list)
    bonds_after: Rows = field(default_factory=list)  # of every validator that voted
    bonds_u16: Rows = field(default_factory=list)  # what the chain stores: rows of those with a new permit
    has_rows: bool = True  # False if the matrices were dropped from the record

    # --- values that follow from the stored ones

    @property
    def size(self) -> int:
        """Number of uids."""
        return len(self.stake_rao)

    @property
    def total_stake_rao(self) -> int:
        """All stake that votes."""
        return sum(self.active_stake_rao) + self.extra_stake_rao

    @property
    def agreed(self) -> bool:
        """False if more than half of the voting stake forfeited: then there is no consensus and nobody is paid."""
        return 2 * self.muted_rao <= self.total_stake_rao

    @property
    def stake_share(self) -> list[int]:
        return fnorm(self.stake_rao)

    @property
    def active_share(self) -> list[int]:
        total = self.total_stake_rao
        return [fdiv(stake, total) for stake in self.active_stake_rao]

    @property
    def weights(self) -> Rows:
        """Rows of shares, as voted."""
        out = []
        for row in self.raw_weights:
            total = sum(weight for _, weight in row)
            out.append([(uid, fdiv(weight, total)) for uid, weight in row])
        return out

    @property
    def clipped(self) -> Rows:
        """Rows of shares, cut down to the consensus."""
        return [[(uid, min(weight, self.consensus[uid])) for uid, weight in row] for row in self.weights]

    @property
    def bond_weights(self) -> Rows:
        """Rows of shares that bonds follow: the votes, `bonds_penalty` of the way towards the clipped ones."""
        penalty = self.params.bonds_penalty
        return [
            [(uid, given - (given - cut) * penalty // U16_MAX) for (uid, given), (_, cut) in zip(votes, clipped, strict=True)]
            for votes, clipped in zip(self.weights, self.clipped, strict=True)
        ]

    @property
    def bond_target(self) -> Rows:
        """What each bond moves towards in this epoch."""
        return bond_target(self.bond_weights, self.active_stake_rao, yuma3=self.params.yuma3)

    @property
    def bond_alphas(self) -> Rows:
        """How much of its target each bond takes on: one number for all, unless liquid alpha sets it per pair."""
        before, target = self.bonds_before, self.bond_target
        alphas = bond_alphas(self.params, before, target, self.bond_weights, self.consensus)
        pairs = [merged(dict(old), dict(new)) for old, new in zip(before, target, strict=True)]
        return [[(j, alphas if isinstance(alphas, int) else alphas[i][j]) for j in row] for i, row in enumerate(pairs)]

    @property
    def trust(self) -> list[int]:
        """How much of a neuron's support survived the clipping."""
        return [fdiv(after, before) for after, before in zip(self.rank, self.prerank, strict=True)]

    @property
    def pay_rao(self) -> list[int]:
        """What each uid gets of the epoch's pot, for service and for judging together."""
        return [server + validator for server, validator in zip(self.server_rao, self.validator_rao, strict=True)]

    @property
    def remainder_rao(self) -> int:
        """Units that flooring leaves over: given out by largest remainder, or lost if payouts are not exact."""
        total = sum(self.pay_weights)
        if not total:
            return 0
        return self.emission_rao - sum(weight * self.emission_rao // total for weight in self.pay_weights)

    def scores_u16(self) -> dict[str, list[int]]:
        """The per-uid scores that the chain stores, as u16 proportions."""
        named = {
            "stake_weight": self.stake_share, "consensus": self.consensus, "validator_trust": self.validator_trust,
            "trust": self.trust, "incentive": self.incentive, "dividends": self.dividends,
        }
        return {name: [fu16(value) for value in values] for name, values in named.items()}

    def as_dict(self) -> dict[str, Any]:
        """Every value by name, stored and derived, as plain ints, bools, strings and lists: for RPC, CLI and pages."""
        out: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        out["params"] = {item.name: getattr(self.params, item.name) for item in fields(self.params)}
        for name in (
            "size", "total_stake_rao", "agreed", "stake_share", "active_share", "weights", "clipped",
            "bond_weights", "bond_target", "bond_alphas", "trust", "pay_rao", "remainder_rao",
        ):
            out[name] = getattr(self, name)
        for name in (*_MATRICES, "weights", "clipped", "bond_weights", "bond_target", "bond_alphas"):
            out[name] = [[list(pair) for pair in row] for row in out[name]]
        return out

    # --- the record

    def to_record(self, *, rows: bool = True) -> list[Any]:
        """The stored list. Without `rows` the matrices are left out (n integers of 8 bytes each remain a vector)."""
        return [
            RECORD_VERSION, self.block, self.emission_rao, list(astuple(self.params)), self.size,
            [self.extra_stake_rao, self.need_rao, self.muted_rao, PAID_BY.index(self.paid_by)],
            [_pack_flags(getattr(self, name)) for name in _FLAGS],
            [pack_u64(getattr(self, name)) for name in _VECTORS],
            [_pack_rows(getattr(self, name), pack) for name, (pack, _) in _MATRICES.items()] if rows else [],
        ]

    def to_bytes(self) -> bytes:
        """The history row: with the matrices if they are of ordinary size, without them otherwise."""
        largest = max(entry_count(getattr(self, name)) for name in _MATRICES)
        return encode(self.to_record(rows=self.has_rows and largest <= MAX_ROW_ENTRIES))

    @classmethod
    def from_bytes(cls, data: bytes) -> EpochTrace:
        """Restore `to_bytes`; raises DecodeError."""
        return cls.from_record(decode(data, max_bytes=MAX_RECORD_BYTES, where="epoch trace"))

    @classmethod
    def from_record(cls, record: Any) -> EpochTrace:
        """Restore `to_record`; raises DecodeError naming the field that is wrong."""
        _SHAPE.check(record)
        version, block, emission, params, size, scalars, flags, vectors, matrices = record
        if version != RECORD_VERSION:
            raise DecodeError(f"version {version}, expected {RECORD_VERSION}", where="epoch trace")
        if len(matrices) not in (0, len(_MATRICES)):
            raise DecodeError(f"{len(matrices)} matrices", where="epoch trace")
        values: dict[str, Any] = {name: _unpack_flags(data, size, name) for name, data in zip(_FLAGS, flags)}
        for name, data in zip(_VECTORS, vectors):
            values[name] = _sized(unpack_u64(data, where=name), 2 * size if name == "pay_weights" else size, name)
        for (name, (_, unpack)), parts in zip(_MATRICES.items(), matrices):
            values[name] = _unpack_rows(parts, unpack, size, name)
        extra, need, muted, paid_by = scalars
        return cls(
            block=block, emission_rao=emission, params=EpochParams(*params), extra_stake_rao=extra, need_rao=need,
            muted_rao=muted, paid_by=PAID_BY[paid_by], has_rows=bool(matrices), **values,
        )


# --- packing -----------------------------------------------------------------------------------------------------

_FLAGS: Final = ("permit_before", "permit", "active", "forfeited")
_VECTORS: Final = (
    "stake_rao", "active_stake_rao", "consensus", "validator_trust", "prerank", "rank", "incentive", "dividends",
    "pay_weights", "server_rao", "validator_rao",
)
_Pack = Callable[[Sequence[int]], bytes]
_Unpack = Callable[..., list[int]]
_MATRICES: Final[dict[str, tuple[_Pack, _Unpack]]] = {
    "raw_weights": (pack_u16, unpack_u16), "bonds_before": (pack_u64, unpack_u64),  # a share of exactly 1 is 2^32
    "bonds_after": (pack_u64, unpack_u64), "bonds_u16": (pack_u16, unpack_u16),
}

_PARAMS_SHAPE: Final = Record(
    "params", kappa=U16, bonds_moving_average=U64, bonds_penalty=U16, yuma3=BOOL, liquid_alpha=BOOL, alpha_low=U16,
    alpha_high=U16, alpha_steepness=Int(-(1 << 15), (1 << 15) - 1, "i16"), max_validators=U16, stake_threshold=U64,
    activity_cutoff=U64, owner=Optional(U16), permit_twice=BOOL, exact_payout=BOOL,
)
_PACKED: Final = Bytes(high=MAX_RECORD_BYTES)
_SHAPE: Final = Record(
    "epoch trace", version=U16, block=U64, emission_rao=U64, params=_PARAMS_SHAPE, size=Int(0, MAX_UIDS, "uid count"),
    scalars=Record(
        "scalars", extra_stake_rao=U64, need_rao=U64, muted_rao=U64, paid_by=Int(0, len(PAID_BY) - 1, "way of pay")
    ),
    flags=ListOf(_PACKED, len(_FLAGS), len(_FLAGS)),
    vectors=ListOf(_PACKED, len(_VECTORS), len(_VECTORS)),
    matrices=ListOf(Record("matrix", lengths=_PACKED, uids=_PACKED, values=_PACKED), len(_MATRICES)),
)


def _pack_flags(flags: Sequence[bool]) -> bytes:
    return bytes(flags)


def _unpack_flags(data: bytes, size: int, where: str) -> list[bool]:
    if any(byte > 1 for byte in data):
        raise DecodeError("a flag is neither 0 nor 1", where=where)
    return _sized([byte == 1 for byte in data], size, where)


def _sized(values: list[Any], size: int, where: str) -> list[Any]:
    if len(values) != size:
        raise DecodeError(f"{len(values)} values, expected {size}", where=where)
    return values


def _pack_rows(rows: Rows, pack: _Pack) -> list[bytes]:
    """Lengths of the rows, then all uids, then all values."""
    if isinstance(rows, PackedRows):
        return [rows.lengths, bytes(rows.uids), bytes(rows.values)]
    return [
        pack_u16([len(row) for row in rows]),
        pack_u16([uid for row in rows for uid, _ in row]),
        pack([value for row in rows for _, value in row]),
    ]


def _unpack_rows(parts: list[bytes], unpack: _Unpack, size: int, where: str) -> Rows:
    lengths = _sized(unpack_u16(parts[0], where=where), size, where)
    uids, values = unpack_u16(parts[1], where=where), unpack(parts[2], where=where)
    if not sum(lengths) == len(uids) == len(values):
        raise DecodeError("lengths, uids and values disagree", where=where)
    rows: list[Row] = []
    at = 0
    for length in lengths:
        row = list(zip(uids[at : at + length], values[at : at + length], strict=True))
        if any(uid >= size for uid, _ in row) or any(a[0] >= b[0] for a, b in zip(row, row[1:])):
            raise DecodeError("a row's uids are not ascending uids of the subnet", where=where)
        rows.append(row)
        at += length
    return rows
