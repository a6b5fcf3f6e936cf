"""Functions of vectors and matrices, through the steps of `runtime.yuma` and `runtime.fixed`.

Real numbers go in as Q32, results come back as fractions. A matrix is replayed in the forms that the vector names:
"sparse" leaves zeros out, "dense" keeps them as entries; both have to agree with the stated result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from runtime import weightcheck, yuma, yuma_bonds
from runtime.fixed import ONE, fdiv, fexp, fmul, fnorm, from_ppm, from_u16, fsigmoid, fu16
from runtime.rows import Rows
from runtime.trace import EpochInputs
from tools.lab.replay.cases import Case, Mismatch, NotApplicable
from tools.lab.replay.compare import agree, exact, scaled
from tools.lab.replay.registry import compares, excuse, replays

Matrix = list[list[Any]]
MatrixFunction = Callable[[Any, Callable[[Matrix], Rows]], Any]


def q32(value: Any) -> int:
    """A real number as Q32, floored."""
    return scaled(value, ONE)


def real(value: int) -> Fraction:
    return Fraction(value, ONE)


def reals(values: Sequence[int]) -> list[Fraction]:
    return [real(value) for value in values]


def whole(values: Sequence[Any]) -> list[int]:
    """Real numbers as integers in a common unit: ratios and order are exact."""
    unit = 1
    for value in values:
        unit = unit * Fraction(value).denominator
    return [int(Fraction(value) * unit) for value in values]


def dense(matrix: Matrix, unit: int = ONE) -> Rows:
    return [[(j, scaled(value, unit)) for j, value in enumerate(row)] for row in matrix]


def sparse(matrix: Matrix, unit: int = ONE) -> Rows:
    return [[(j, scaled(value, unit)) for j, value in enumerate(row) if value] for row in matrix]


def filled(rows: Rows, like: Matrix, unit: int = ONE) -> list[list[Fraction]]:
    """Rows as a matrix of the same shape as `like`."""
    full = [dict(row) for row in rows]
    return [[Fraction(row.get(j, 0), unit) for j in range(len(wanted))] for row, wanted in zip(full, like, strict=True)]


def width(matrix: Matrix) -> int:
    return max((len(row) for row in matrix), default=0)


def in_forms(*names: str) -> Callable[[MatrixFunction], MatrixFunction]:
    """Declare `f(input, form)`; it is run for every form of the case, `form` turning a matrix into rows."""

    def declare(function: MatrixFunction) -> MatrixFunction:
        @compares(*names)
        def replay(case: Case) -> int:
            count = 0
            for name in case.body.get("forms", ("dense", "sparse")):
                form = dense if name == "dense" else sparse
                output = function(case.body["input"], form)
                count += agree(output, case.body["output"], case.body.get("tol", 0), name)
            return count

        return function

    return declare


# --- numbers -----------------------------------------------------------------------------------------------------


@replays("max_upscale_u16")
def _max_upscale(given: Any) -> list[int]:
    return weightcheck.max_upscale(whole(given))


@replays("max_share_within_limit")
def _share_within(given: Any) -> bool:
    return weightcheck.share_within(given["values"], given["limit"])


@replays("ema_alpha_from_ppm")
def _alpha(given: Any) -> Fraction:
    return real(ONE - from_ppm(int(given)))


@replays("stake_share_32_fraction_bits")
def _share(given: Any) -> Fraction:
    return real(fdiv(int(given["part"]), int(given["total"])))


@replays("u16_to_proportion")
def _from_u16(given: Any) -> Fraction:
    return real(from_u16(given))


@replays("proportion_to_u16")
def _to_u16(given: Any) -> int:
    return fu16(q32(given))


@replays("exp_clamped_20")
def _exp(given: Any) -> Fraction:
    return real(fexp(q32(given)))


@replays("sigmoid_clamped")
def _sigmoid(given: Any) -> list[Fraction]:
    slope, middle = exact(given["rho"]), exact(given["kappa"])
    return [real(fsigmoid(q32(slope * (exact(x) - middle)))) for x in given["x"]]


@replays("topk_nonzero")
def _topk_nonzero(given: Any) -> list[bool]:
    return yuma.topk_nonzero(whole(given["values"]), given["k"])


@replays("topk")
def _topk(given: Any) -> list[bool]:
    """Zeros count here; moving every value up by the same amount keeps the order and leaves no zero."""
    values = whole(given["values"])
    lift = 1 - min(values, default=0)
    return yuma.topk_nonzero([value + lift for value in values], given["k"])


@replays("normalize")
def _normalize(given: Any) -> list[Fraction]:
    return reals(fnorm(whole(given)))


@replays("divide_elementwise_zero_safe")
def _divide(given: Any) -> list[Fraction]:
    return [real(fdiv(q32(x), q32(y))) for x, y in zip(given["x"], given["y"])]


@replays("vec_mul")
def _vec_mul(given: Any) -> list[Fraction]:
    return [real(fmul(q32(a), q32(b))) for a, b in zip(given["a"], given["b"])]


@replays("mask_vector")
def _mask_vector(given: Any) -> list[Fraction]:
    keep = [not masked for masked in given["mask"]]
    return reals(yuma.active_stake([q32(value) for value in given["vector"]], keep, [True] * len(keep)))


@replays("liquid_alpha")
def _liquid_alpha(given: Any) -> Fraction:
    low, high = q32(given["low"]), q32(given["high"])
    weight, bond, agreed = q32(given["weight"]), q32(given["bond"]), q32(given["consensus"])
    return real(yuma_bonds.liquid_alpha(weight, bond, agreed, low, high, given["steepness"]))


# --- masks: the epoch's own filter, with everything but the one rule switched off --------------------------------


def _admitted(
    matrix: Matrix, form: Callable[..., Rows], *, keep_rows: Sequence[bool] | None = None, owner: int | None = None,
    weights_at: Sequence[int] | None = None, registered_at: Sequence[int] | None = None, apart: bool = False,
) -> list[list[Fraction]]:
    """Rows through `yuma.admitted_weights`. `apart`: columns are uids of their own, so that no diagonal exists."""
    shift = len(matrix) if apart else 0
    n = shift + max(len(matrix), width(matrix))
    blank = n - len(matrix)
    rows = [[(j + shift, value) for j, value in row] for row in form(matrix, 1)]
    registered = [0] * shift + list(registered_at or [0] * (n - shift))
    inputs = EpochInputs(
        block=0, bonds_from=0, emission_rao=0, stake=[0] * n, permit=[True] * n, registered_at=registered,
        active_at=[0] * n, weights_at=list(weights_at or [1] * len(matrix)) + [1] * blank, weights=rows + [[]] * blank,
        bonds=[[]] * n,
    )
    permit = list(keep_rows or [True] * len(matrix)) + [True] * blank
    out = yuma.admitted_weights(inputs, permit, [False] * n, owner)[: len(matrix)]
    return filled([[(j - shift, value) for j, value in row] for row in out], matrix, 1)


@in_forms("mask_rows")
def _mask_rows(given: Any, form: Callable[..., Rows]) -> Any:
    return _admitted(given["matrix"], form, keep_rows=[not masked for masked in given["mask"]], apart=True)


@in_forms("mask_diag")
def _mask_diag(given: Any, form: Callable[..., Rows]) -> Any:
    return _admitted(given, form)


@in_forms("mask_diag_except")
def _mask_diag_except(given: Any, form: Callable[..., Rows]) -> Any:
    return _admitted(given["matrix"], form, owner=given["keep"])


@in_forms("mask_by_row_and_column_blocks")
def _mask_by_blocks(given: Any, form: Callable[..., Rows]) -> Any:
    """Quorix drops weights that are not younger than the registration of their target."""
    if given["drop_when"].replace(" ", "") != "first<=second":
        raise NotApplicable("weights are dropped when their block is at or before the registration of their target")
    return _admitted(
        given["matrix"], form, weights_at=given["first"], registered_at=given["second"], apart=True
    )


# --- matrices ----------------------------------------------------------------------------------------------------


@in_forms("row_normalize")
def _row_normalize(given: Any, form: Callable[..., Rows]) -> Any:
    return filled(yuma.row_normalised(form(given)), given)


@in_forms("col_normalize")
def _col_normalize(given: Any, form: Callable[..., Rows]) -> Any:
    return filled(yuma_bonds.column_normalised(form(given), width(given)), given)


@in_forms("col_max_upscale")
def _col_max_upscale(given: Any, form: Callable[..., Rows]) -> Any:
    return filled(yuma.relative_to_largest(form(given), width(given)), given)


@in_forms("row_hadamard")
def _row_hadamard(given: Any, form: Callable[..., Rows]) -> Any:
    """Weights times raw stake: shares on one side, whole numbers on the other."""
    rows = yuma_bonds.scaled_rows(form(given["matrix"]), [scaled(value, 1) for value in given["vector"]])
    return filled(rows, given["matrix"])


@in_forms("row_sum")
def _row_sum(given: Any, form: Callable[..., Rows]) -> Any:
    return reals(yuma.row_sums(form(given)))


@in_forms("matmul_rows_weighted_col_sums")
def _weighted_sums(given: Any, form: Callable[..., Rows]) -> Any:
    shares = [q32(value) for value in given["vector"]]
    return reals(yuma.weighted_sums(form(given["matrix"]), shares, width(given["matrix"])))


@in_forms("matmul_transpose_row_dot")
def _row_dots(given: Any, form: Callable[..., Rows]) -> Any:
    return reals(yuma.row_dots(form(given["matrix"]), [q32(value) for value in given["vector"]]))


@in_forms("col_clip")
def _col_clip(given: Any, form: Callable[..., Rows]) -> Any:
    ceiling = [q32(value) for value in given["threshold"]]
    return filled(yuma.clip(form(given["matrix"]), ceiling), given["matrix"])


@in_forms("interpolate")
def _interpolate(given: Any, form: Callable[..., Rows]) -> Any:
    ratio = Fraction(given["ratio"])
    rows = yuma.blended(form(given["a"]), form(given["b"]), ratio.numerator, ratio.denominator)
    return filled(rows, given["a"])


# --- consensus and bonds -----------------------------------------------------------------------------------------

EQUAL_STAKES = re.compile(r"(\d+) equal stakes 1/(\d+)")
SCORE_RANGE = re.compile(r"(\d+)\.\.(\d+) in any order")


@replays("weighted_median")
def _weighted_median(given: Any) -> Any:
    """One column of the consensus, exactly: any unit of weights, whole stakes."""
    stake, score = _stated(given["stake"], EQUAL_STAKES), _stated(given["score"], SCORE_RANGE)
    return _median(stake, [[value] for value in score], given["majority"], 1, sparse)[0]


@in_forms("weighted_median_columns")
def _weighted_median_columns(given: Any, form: Callable[..., Rows]) -> Any:
    return _median(given["stake"], given["matrix"], given["majority"], width(given["matrix"]), form)


def _stated(values: Any, pattern: re.Pattern[str]) -> list[Any]:
    """A list, or one of the two that are put into words."""
    if not isinstance(values, str):
        return list(values)
    match = pattern.fullmatch(values)
    if not match:
        raise Mismatch(f"unknown list {values!r}")
    first, second = int(match[1]), int(match[2])
    return [Fraction(1, second)] * first if pattern is EQUAL_STAKES else list(range(first, second + 1))


def _median(stake: list[Any], matrix: Matrix, majority: Any, n: int, form: Callable[..., Rows]) -> list[Fraction]:
    unit = 1
    for row in matrix:
        for value in row:
            unit *= 1 if unit % Fraction(value).denominator == 0 else Fraction(value).denominator
    stakes = whole(stake)
    wanted = Fraction(majority) * sum(stakes)
    need = -(-wanted.numerator // wanted.denominator)
    agreed = yuma.consensus(list(zip(form(matrix, unit), stakes, strict=True)), need, n)
    return [Fraction(value, unit) for value in agreed]


@in_forms("ema_matrix")
def _ema_matrix(given: Any, form: Callable[..., Rows]) -> Any:
    alpha: Any = given["alpha"]
    if isinstance(alpha, list):
        alpha = [dict(row) for row in dense(alpha)]
    else:
        alpha = q32(alpha)
    return filled(yuma_bonds.ema_rows(form(given["old"]), form(given["new"]), alpha), given["new"])


@in_forms("ema_bonds_liquid_equals_plain_when_low_equals_high")
def _ema_liquid(given: Any, form: Callable[..., Rows]) -> Any:
    """Alpha has one value if its bounds meet, whatever weights and consensus say."""
    old, new = form(given["bonds"]), form(given["weights"])
    low, high = from_u16(given["alpha_low_u16"]), from_u16(given["alpha_high_u16"])
    agreed = [q32(value) for value in given["consensus"]]
    alphas = yuma_bonds.liquid_alphas(old, new, new, agreed, low, high, given.get("steepness", 1000))
    return filled(yuma_bonds.ema_rows(old, new, alphas), given["bonds"])


excuse("Python's integers do not overflow; balances are bounded where they are written", "u64_checked_sum")
excuse("the rules hold no real numbers that would be cut to integers", "floor_to_u16", "floor_to_u64", "u16_to_real")
excuse("plain arithmetic; no rule uses it on its own", "sum", "mask_matrix", "mat_vec_mul_columns")
excuse("a peer's defect that is not copied: a bond whose weight is left out decays", "ema_matrix_sparse_quirk")

