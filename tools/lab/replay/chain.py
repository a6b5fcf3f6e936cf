"""Functions of registration, weights and emission."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from genesis.build import empty_context
from ledger.codec import pack_u16
from ledger.commitments import SALT_BYTES, weights_commitment
from ledger.crypto import HASH_BYTES
from ledger.errors import Rejected
from runtime import curves, params, pruning, schedule, splits, weightcheck
from runtime.fixed import ONE, PPM, U16_MAX, U64_MAX
from runtime.trace import EpochInputs, EpochParams
from runtime.yuma import epoch
from tools.lab.replay.cases import Case, Mismatch, NotApplicable
from tools.lab.replay.compare import agree, exact, scaled
from tools.lab.replay.registry import compares, excuse, replays

SHARE_UNITS = 10**15  # shares are compared as parts of this many units

# --- registration ------------------------------------------------------------------------------------------------


@replays("decay_factor_q32")
def _decay_factor(given: Any) -> int:
    return curves.decay_factor_q32(given["half_life"])


@replays("price_sequence")
def _price_sequence(given: Any) -> list[int]:
    """Registrations and blocks by turns; a price that is read in every block decays by one block at a time."""
    factor, low, high = curves.decay_factor_q32(given["half_life"]), int(given["min"]), int(given["max"])
    price, seen = int(given["price"]), []
    for step in given["ops"]:
        if step == "register":
            price = curves.bumped_price_rao(price, scaled(given["multiplier"], PPM), 1, low, high)
        else:
            price = _stepwise(price, factor, int(step), low, high)
        seen.append(price)
    return seen


@replays("price_decay_checkpoints")
def _checkpoints(given: Any) -> dict[str, int]:
    factor, low, high = curves.decay_factor_q32(given["half_life"]), int(given["min"]), int(given["max"])
    blocks = given.get("checkpoints", (1, 2, 3, 10, 100, 360, 1000, 5000))
    price, at, seen = int(given["price"]), 0, {}
    for block in sorted(int(block) for block in blocks):
        price, at = _stepwise(price, factor, block - at, low, high), block
        seen[str(block)] = price
    return seen


def _stepwise(price: int, factor: int, blocks: int, low: int, high: int) -> int:
    for _ in range(blocks):
        price = curves.decayed_price_rao(price, factor, 1, low, high)
    return price


@replays("same_block_registrations")
def _same_block(given: Any) -> dict[str, int]:
    price, paid = int(given["price"]), 0
    for _ in range(given["registrations"]):
        paid += price
        price = curves.bumped_price_rao(
            price, scaled(given["multiplier"], PPM), 1, int(given["min"]), int(given["max"])
        )
    return {"price": price, "paid_total": paid}


@compares("defaults")
def _defaults(case: Case) -> int:
    """The stated defaults are those of the table of hyperparameters."""
    known = {
        "half_life": params.PARAMS["burn_half_life"].default,
        "multiplier": Fraction(params.PARAMS["burn_increase_ppm"].default, PPM),
        "price": curves.DEFAULT_PRICE_RAO,
    }
    return agree(known, case.body["output"], case.body.get("tol", 0), "output")


@replays("uid_to_prune")
def _uid_to_prune(given: Any) -> int | None:
    neurons = [pruning.Candidate(int(row["emission"]), row["reg"], row["uid"]) for row in given["neurons"]]
    return pruning.uid_to_prune(
        neurons, given["block"], immunity_period=given["immunity_period"], min_non_immune=given["min_non_immune"],
        protected=given["protected_uids"],
    )


excuse(
    "the price follows a half-life and a bump per registration; no interval is adjusted",
    "interval_adjustment", "adjustment_case",
)
excuse("neurons register by paying the price; there is no proof of work", "work_meets_difficulty")


# --- weights -----------------------------------------------------------------------------------------------------

# words of a stated result -> the error of Quorix that it names; the first that fits counts
RESULT_WORDS = (
    ("max weight", "MaxWeightExceeded"), ("length mismatch", "WeightVecNotEqualSize"),
    ("not equal", "WeightVecNotEqualSize"),
    ("too many uids", "UidsLengthExceedUidsInSubNet"), ("exceed", "UidsLengthExceedUidsInSubNet"),
    ("unknown uid", "UidVecContainInvalidOne"), ("invalid uid", "UidVecContainInvalidOne"),
    ("no such uid", "UidVecContainInvalidOne"), ("out of range", "UidVecContainInvalidOne"),
    ("duplicate", "DuplicateUids"), ("permit", "NeuronNoValidatorPermit"), ("stake", "NotEnoughStakeToSetWeights"),
    ("version", "IncorrectWeightVersionKey"), ("too few", "WeightVecLengthIsLow"),
    ("min", "WeightVecLengthIsLow"), ("low", "WeightVecLengthIsLow"), ("not enough", "WeightVecLengthIsLow"),
    ("too short", "WeightVecLengthIsLow"), ("too fast", "SettingWeightsTooFast"), ("rate", "SettingWeightsTooFast"),
    ("too large", "MaxWeightExceeded"), ("limit", "MaxWeightExceeded"), ("zero", "InvalidValue"),
    ("too early", "RevealTooEarly"), ("expired", "ExpiredWeightCommit"), ("too late", "ExpiredWeightCommit"),
    ("mismatch", "InvalidRevealCommitHashNotMatch"), ("unrevealed", "TooManyUnrevealedCommits"),
)


def _compare_result(fault: str | None, stated: str) -> int:
    """`stated` is "ok" or says in words what is wrong."""
    if stated == "ok":
        return agree(fault or "ok", "ok", 0, "result")
    named = next((error for words, error in RESULT_WORDS if words in stated.lower()), None)
    if named is None:
        raise Mismatch(f"unknown result {stated!r}; Quorix says {fault or 'ok'}")
    return agree(fault or "ok", named, 0, f"result {stated!r}")


@replays("set_alpha_values")
def _set_alpha_values(given: Any) -> str:
    """Both values through the table of hyperparameters: its bounds, then its conflicts."""
    if not given["liquid_alpha"]:
        raise NotApplicable("alpha values may be set while liquid alpha is off")
    context = empty_context()
    try:
        params.put(context, "alpha_high", given["high"], 1)
        params.put(context, "alpha_low", given["low"], 1)
    except Rejected as refusal:
        return "low out of range" if "alpha_low is" in refusal.cause else refusal.cause
    return "ok"


@replays("length_ok")
def _length_ok(given: Any) -> bool:
    return weightcheck.minimum_fault(given["uids"], given["setter_uid"], given["n"], given["min_allowed"]) is None


@replays("is_self_weight")
def _is_self_weight(given: Any) -> bool:
    return weightcheck.is_self_weight(given["setter_uid"], given["uids"])


@replays("normalize_to_u16_sum")
def _normalize(given: Any) -> list[int]:
    return weightcheck.share_u16(given)


@replays("max_weight_ok")
def _max_weight_ok(given: Any) -> bool:
    return weightcheck.limit_fault(given["uids"], given["weights"], given["setter_uid"], given["limit"]) is None


@replays("version_key_ok")
def _version_key_ok(given: Any) -> bool:
    return weightcheck.version_fault(given["given"], given["network"]) is None


@replays("uid_count_ok")
def _uid_count_ok(given: Any) -> bool:
    return weightcheck.count_fault(given["uids"], given["n"]) is None


@replays("has_duplicates", "has_duplicate_uids")
def _has_duplicates(given: Any) -> bool:
    return weightcheck.duplicate_fault(given["uids"] if isinstance(given, dict) else given) is not None


@replays("uids_unique", "no_duplicates", "unique_uids_ok")
def _no_duplicates(given: Any) -> bool:
    return not _has_duplicates(given)


@replays("uids_exist", "uids_known", "uids_valid", "known_uids_ok")
def _uids_exist(given: Any) -> bool:
    return weightcheck.unknown_fault(given["uids"], given["n"]) is None


@compares("set_weights")
def _set_weights(case: Case) -> int:
    """Every check of a row in its order, then the stored form."""
    given, stated = case.body["input"], case.body["output"]
    uids, values = given["uids"], given["weights"]
    rules = weightcheck.RowRules(
        uid=given["setter_uid"], uid_count=given["n"], permit=given.get("permit", True),
        min_allowed=given.get("min_allowed", 0), stake=int(given.get("stake", 0)),
        stake_threshold=int(given.get("stake_threshold", 0)), version_required=given.get("network_version_key", 0),
        weight_limit=given.get("max_weight_limit", given.get("limit", U16_MAX)),
    )
    fault = weightcheck.row_fault(uids, values, given.get("version_key", 0), rules)
    if fault == "InvalidValue" and stated["result"] == "ok":
        raise NotApplicable("a row of zeros says nothing and is refused")
    count = _compare_result(fault, stated["result"])
    if fault is None and stated.get("stored") is not None:
        wanted = [[uid, value] for uid, value in sorted(zip(uids, stated["stored"], strict=True)) if value]
        row = [list(pair) for pair in weightcheck.prepared_row(uids, values)]
        count += agree(row, wanted, case.body.get("tol", 0), "stored")
    return count


@replays("rate_limit_ok")
def _rate_limit_ok(given: Any) -> bool:
    """The peer's block 0 means never; Quorix has None for it."""
    return weightcheck.rate_fault(given["block"], given["last_update"] or None, given["limit"]) is None


@compares("reveal_window")
def _reveal_window(case: Case) -> int:
    given = case.body["input"]
    fault = weightcheck.reveal_fault(given["commit_epoch"], given["current_epoch"], given["reveal_period"])
    return _compare_result(fault, case.body["output"])


@compares("pending_commits")
def _pending_commits(case: Case) -> int:
    return _compare_result(weightcheck.pending_fault(case.body["input"]["pending"]), case.body["output"])


@compares("commit_hash_binding")
def _commit_hash_binding(case: Case) -> int:
    """Every field of a row is bound by its commitment."""
    given = case.body["input"]
    same = _commitment(given["committed"]) == _commitment(given["revealed"])
    return _compare_result(None if same else "InvalidRevealCommitHashNotMatch", case.body["output"])


def _commitment(given: Any) -> bytes:
    """The peer's salt is a list of u16; Quorix takes 32 bytes. The genesis and the epoch are the same on both sides."""
    salt = pack_u16(given["salt"])
    if len(salt) > SALT_BYTES:
        raise NotApplicable("the salt is exactly 32 bytes")
    return weights_commitment(
        bytes(HASH_BYTES), int(given["hotkey"]).to_bytes(HASH_BYTES, "little"), given["netuid"], 0, given["uids"],
        given["weights"], int(given["version_key"]), salt.ljust(SALT_BYTES, b"\0"),
    )


excuse("commitments are hashed over strict CBOR with a domain tag, not over SCALE", "commit_hash_scale_blake2b256")


# --- emission ----------------------------------------------------------------------------------------------------


@replays("block_emission")
def _block_emission(given: Any) -> int:
    return curves.block_emission_rao(int(given))


@replays("issuance_after_100_halvings")
def _issuance(given: Any) -> int:
    issuance = 0
    for _ in range(given["steps"]):
        issuance += given["blocks_per_step"] * curves.block_emission_rao(issuance)
    return issuance


@replays("subnet_tao")
def _subnet_split(given: Any) -> list[int]:
    """A block's emission split in proportion to shares, nothing withheld."""
    shares = [scaled(price, ONE) for price in given["moving_price"]]
    return splits.split_mint(int(given["emission"]), shares, [0] * len(shares))


@replays("subnet_shares")
def _subnet_shares(given: Any) -> list[Fraction]:
    """Shares of what is minted: of started subnets, less what was withheld from each."""
    prices = [exact(price) for price in given["moving_price"]]
    started = given["enabled"] or [True] * len(prices)
    shares = [scaled(price, ONE) if on else 0 for price, on in zip(prices, started, strict=True)]
    withheld = [scaled(part, ONE) for part in given["miner_burned"] or [0] * len(prices)]
    if any(shares) and all(part == ONE or not share for share, part in zip(shares, withheld, strict=True)):
        raise NotApplicable("if everything is withheld nothing is minted; the peer then ignores what is withheld")
    return [Fraction(part, SHARE_UNITS) for part in splits.split_mint(SHARE_UNITS, shares, withheld)]


@replays("owner_cut")
def _owner_cut(given: Any) -> int:
    return splits.part_u16(int(given["alpha_emission"]), given["cut_u16"])


@replays("root_proportion")
def _root_proportion(given: Any) -> Fraction:
    share = splits.root_share_q32(
        int(given["tao_weight_u64"]), int(given["root_tao"]), int(given["alpha_issuance"])
    )
    return Fraction(share, ONE)


@replays("child_take")
def _child_take(given: Any) -> dict[str, int]:
    """A child hotkey keeps its take of what its parent's stake earned."""
    pending = int(given["pending"])
    take = splits.part_u16(pending, given["child_take_u16"])
    return {"parent": int(given["parent_stake"]) + pending - take, "child": take}


@replays("drain_pending_no_weights")
def _drain(given: Any) -> list[int]:
    """Without weights an epoch pays by the stake of registered keys."""
    rows = given["stakes"]
    stake = [int(row["stake"]) for row in rows if row["registered"]]
    n = len(stake)
    inputs = EpochInputs(
        block=1, bonds_from=0, emission_rao=int(given["pending"]), stake=stake, permit=[False] * n,
        registered_at=[0] * n, active_at=[0] * n, weights_at=[0] * n, weights=[[]] * n, bonds=[[]] * n,
    )
    pay = iter(epoch(inputs, EpochParams()).pay_rao)
    return [int(row["stake"]) + (next(pay) if row["registered"] else 0) for row in rows]


@replays("blocks_until_next_epoch")
def _blocks_until_epoch(given: Any) -> int:
    left = schedule.blocks_until_epoch(
        int(given["block"]), tempo=given["tempo"], last_epoch_block=int(given["last_epoch_block"])
    )
    return U64_MAX if left is None else left


@replays("epoch_due")
def _epoch_due(given: Any) -> bool:
    """The peer's pending block 0 means none."""
    return schedule.epoch_due(
        int(given["block"]), tempo=given["tempo"], last_epoch_block=given["last_epoch_block"],
        pending_at=given["pending_at"] or None, blocks_since_last_step=given["blocks_since_last_step"],
        max_tempo=given["max_tempo"],
    )


excuse("subnets share the emission by root votes, in proportion, without an exponent", "power_shares")
excuse("there are no token pools and no prices", "pool_injection", "moving_price")
excuse(
    "epochs are counted from the last one, not by a modulo of the height", "blocks_until_next_epoch_modulo_legacy",
    "first_block_of_epoch_legacy",
)
excuse("the half that goes to miners is a u16 share (32768/65535), which is not exactly a half", "epoch_pending_split")
