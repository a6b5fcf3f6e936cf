"""The mixing head: it learns whom to believe, serves without torch, and survives damaged files."""

import numpy as np
import pytest

from ai.judge.mixture import NULL_PROBABILITY, floored
from ai.models.mixing import (
    FEATURES,
    HIDDEN,
    HeadMixer,
    MixingHead,
    certainty_of,
    features_of,
    histories,
    surprised,
    train_head,
)
from ai.serve.collaborate import Mixer
from ledger.errors import DecodeError, NotFound

WINDOWS, POSITIONS = 24, 20


def answers(seed=0):
    """Four sources and the null expert; in each window another one knows the text. Returns (answers, truth)."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(256, size=(WINDOWS, POSITIONS))
    rows = rng.dirichlet([0.05] * 256, (WINDOWS, POSITIONS, 4))
    for window in range(WINDOWS):
        rows[window, np.arange(POSITIONS), window % 4, truth[window]] += 1.0
    rows = floored(rows / rows.sum(axis=-1, keepdims=True))
    null = np.full((WINDOWS, POSITIONS, 1, 256), NULL_PROBABILITY)
    return np.concatenate([rows, null], axis=2), truth


def hits_of(rows, truth):
    return np.take_along_axis(rows, truth[:, :, None, None], 3)[..., 0]


@pytest.fixture(scope="module")
def head():
    rows, truth = answers(1)
    return train_head(certainty_of(rows), hits_of(rows, truth), steps=120)


def test_it_finds_out_who_knows(head):
    rows, truth = answers(2)
    hits = hits_of(rows, truth)
    weights = head.weights(features_of(certainty_of(rows), histories(hits)))
    assert np.allclose(weights.sum(axis=-1), 1)
    bits = -np.log2((weights * hits).sum(axis=-1))[:, 5:].mean()
    alone, even = -np.log2(hits[:, 5:, 0]).mean(), -np.log2(hits[:, 5:].mean(axis=2)).mean()
    assert bits < 0.6 * even < 0.6 * alone


def test_served_step_by_step_it_says_what_it_learnt_at_once(head):
    rows, truth = answers(3)
    names = [b"p" * 32, b"q" * 32, b"r" * 32]
    mixer: Mixer = HeadMixer(head)
    said = []
    for position in range(POSITIONS):
        mixed = mixer.mix(rows[:, position, 0], {n: rows[:, position, i + 1] for i, n in enumerate(names)})
        said.append(mixed[np.arange(WINDOWS), truth[:, position]])
        mixer.observe([bytes([byte]) for byte in truth[:, position]])
    # the mixer puts its floor under the answers as the judge does: once more than here, where they have it already
    again = floored(rows)
    again[:, :, -1] = floored(np.full(256, NULL_PROBABILITY))
    hits = hits_of(again, truth)
    expected = (head.weights(features_of(certainty_of(again), histories(hits))) * hits).sum(axis=-1)
    assert np.allclose(np.stack(said, axis=1), expected)
    merit = mixer.merit()
    assert set(merit) == set(names) and all(0 < value < 1 for value in merit.values())


def test_windows_end_and_peers_leave(head):
    rows, _ = answers(4)
    mixer = HeadMixer(head)
    assert mixer.mix(rows[:3, 0, 0], {b"p" * 32: rows[:3, 0, 1]}).shape == (3, 256)
    mixer.observe([b"ab", b"", b"c"])
    mixer.observe([b"x", b"", b"y"])  # nothing was mixed in between
    mixed = mixer.mix(rows[:2, 1, 0], {})
    assert mixed.shape == (2, 256) and np.allclose(mixed.sum(axis=1), 1)
    assert HeadMixer(head).merit() == {}


def test_surprise_is_a_moving_average():
    before = np.zeros((1, 2))
    assert surprised(before, np.array([0.25])).tolist() == [[1.0, pytest.approx(0.2)]]


def test_files_are_kept_and_damaged_ones_refused(head, tmp_path):
    from safetensors.numpy import save

    path = tmp_path / "head.safetensors"
    head.save(path)
    again = MixingHead.load(path)
    assert (again.inner == head.inner).all() and (again.outer == head.outer).all()
    with pytest.raises(NotFound):
        MixingHead.load(tmp_path / "none")
    good = {"inner": np.zeros((FEATURES, HIDDEN)), "bias": np.zeros(HIDDEN), "outer": np.zeros(HIDDEN)}
    for bad in ({"inner": np.zeros((2, 2))}, {"bias": np.full(HIDDEN, np.nan)}, {"outer": np.zeros((HIDDEN, 1))}):
        path.write_bytes(save(good | bad))
        with pytest.raises(DecodeError):
            MixingHead.load(path)
    for data in (b"", b"junk" * 10, save({"inner": good["inner"]})):
        path.write_bytes(data)
        with pytest.raises(DecodeError):
            MixingHead.load(path)
    path.write_bytes(b"x" * (65 << 10))
    with pytest.raises(NotFound):
        MixingHead.load(path)
