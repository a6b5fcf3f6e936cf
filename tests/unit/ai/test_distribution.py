"""Distributions as 98 bytes: what encodes decodes to nearly itself, and nothing else decodes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.distribution import (
    DISTRIBUTION_BYTES,
    TOP_BYTES,
    WHOLE,
    decode_distribution,
    decode_distributions,
    encode_distributions,
)
from ledger.errors import DecodeError


def entries(answer):
    rows = [(answer[3 * i], int.from_bytes(answer[3 * i + 1 : 3 * i + 3], "little")) for i in range(TOP_BYTES)]
    return rows, int.from_bytes(answer[-2:], "little")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sharpness=st.just(0.0) | st.floats(0.01, 60.0), windows=st.integers(1, 20))
def test_counts_are_exact_and_near_the_truth(seed, sharpness, windows):
    logits = np.random.default_rng(seed).normal(size=(windows, 256)) * sharpness
    truth = np.exp(logits - logits.max(axis=1, keepdims=True))
    truth /= truth.sum(axis=1, keepdims=True)
    answer = encode_distributions(truth)
    assert len(answer) == windows * DISTRIBUTION_BYTES
    decoded = decode_distributions(answer, windows)
    assert np.allclose(decoded.sum(axis=1), 1.0, atol=1e-12)
    for row in range(windows):
        rows, tail = entries(answer[row * DISTRIBUTION_BYTES : (row + 1) * DISTRIBUTION_BYTES])
        assert sum(count for _, count in rows) + tail == WHOLE
        chosen = [byte for byte, _ in rows]
        assert chosen == sorted(set(chosen))
        assert set(np.argsort(-truth[row], kind="stable")[:TOP_BYTES]) == set(chosen)
        assert np.abs(decoded[row][chosen] - truth[row][chosen]).max() <= 1.01 / WHOLE


def test_certainty_leaves_one_part_to_the_tail():
    sure = np.zeros((1, 256))
    sure[0, 65] = 1.0
    rows, tail = entries(encode_distributions(sure))
    assert dict(rows)[65] == 65_535 and tail == 1


def test_the_tail_is_spread_over_the_other_bytes():
    decoded = decode_distribution(encode_distributions(np.ones((1, 256))))
    assert decoded[:32] == pytest.approx(1 / 256) and decoded[32:] == pytest.approx(1 / 256)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -1.0])
def test_what_is_no_distribution_does_not_encode(broken):
    values = np.ones((2, 256))
    values[1, 3] = broken
    with pytest.raises(DecodeError):
        encode_distributions(values)


@pytest.mark.parametrize("shape", [(1, 255), (256,), (1, 1, 256)])
def test_other_shapes_do_not_encode(shape):
    with pytest.raises(DecodeError):
        encode_distributions(np.ones(shape))


def test_all_zero_does_not_encode():
    with pytest.raises(DecodeError):
        encode_distributions(np.zeros((1, 256)))


def altered(**changes):
    answer = bytearray(encode_distributions(np.ones((1, 256))))
    for place, value in changes.items():
        answer[int(place[1:])] = value
    return bytes(answer)


@pytest.mark.parametrize(
    "answer",
    [b"", bytes(97), bytes(99), altered(_3=0), altered(_0=9), altered(_1=altered()[1] ^ 1), altered(_97=0x7F)],
    ids=["empty", "short", "long", "repeated byte", "descending", "a count more", "another tail"],
)
def test_malformed_answers_are_refused(answer):
    with pytest.raises(DecodeError):
        decode_distribution(answer)


def test_no_windows_are_no_bytes():
    assert decode_distributions(b"", 0).shape == (0, 256)
    with pytest.raises(DecodeError):
        decode_distributions(bytes(98), 0)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=98, max_size=98))
def test_noise_is_refused_or_normalised(noise):
    try:
        decoded = decode_distribution(noise)
    except DecodeError:
        return
    assert decoded.sum() == pytest.approx(1.0)


def test_one_row_is_encoded_as_it_is_among_others():
    random = np.random.default_rng(3)
    rows = [random.random(256) ** random.integers(1, 40) for _ in range(200)]
    rows += [np.ones(256), np.eye(256)[7], np.eye(256)[0] + 1e-9, np.where(np.arange(256) < 40, 1.0, 0.0)]
    together = encode_distributions(np.array(rows))
    alone = [encode_distributions(row[None, :]) for row in rows]
    assert b"".join(alone) == together
