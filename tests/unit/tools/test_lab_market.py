"""The experiments `moe` and `shapley`: their parts on small models, and the whole with what training yields replaced."""

from random import Random

import numpy as np
import pytest

from ai.gateway.gate import Gate, GateTrainer
from tools.lab import moe, shapley
from tools.lab.frame import Run, find

TEXT = bytes(range(97, 123)) * 40


@pytest.fixture(scope="module")
def expert():
    """A small network as it comes, untrained."""
    import torch

    from ai.models.expert import ByteExpert, ExpertNetwork, Shape
    from ai.models.model import Card

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = ExpertNetwork(Shape(width=32, context=128, tables=(64, 64)))
    return ByteExpert(network, Card("small", bytes(32), 128))


def knowing(text, sure=0.97):
    """Rows (positions, 256) of somebody who knows the text."""
    rows = np.full((len(text), 256), (1 - sure) / 256)
    rows[np.arange(len(text)), list(text)] += sure
    return rows


def test_what_is_scored_is_what_the_expert_would_answer_on_the_wire(expert):
    from ai.distribution import decode_distributions, encode_distributions

    texts = [TEXT[start : start + 128] for start in range(18)]
    everywhere = moe.distributions(expert, texts)
    assert everywhere.shape == (18, 128, 256) and np.allclose(everywhere.sum(axis=2), 1)
    for window, place in ((0, 1), (3, 40), (17, 127)):
        answer = np.asarray(expert.next_bytes([texts[window][:place]]))
        assert np.abs(decode_distributions(encode_distributions(answer), 1) - everywhere[window, place]).max() < 1e-3
    places = np.array([[0, 5, 90]] * 18)
    assert np.array_equal(moe.distributions(expert, texts, places), everywhere[np.arange(18)[:, None], places])
    hits = shapley.hits_at({"one": expert}, texts, places.tolist())
    assert hits.shape == (1, 18, 3) and np.allclose(hits[0, :, 0], 1 / 256)


def test_the_mixture_follows_who_knows_and_the_gate_finds_it():
    names = ["a", "b", "c", "generalist"]
    even = np.full((128, 256), 1 / 256)
    text = TEXT[:128]
    answers = {"a": even, "b": knowing(text), "c": even, "generalist": even}
    trainer = GateTrainer()
    for start in range(64):
        trainer.add(TEXT[start : start + 32], {moe.key(n): 0.1 if n == "b" else 8.0 for n in names})
    bits = moe.mixture_bits(text, answers, trainer.train())
    assert bits < 0.2
    unguided = moe.mixture_bits(text, {**answers, "b": even, "generalist": knowing(text)}, Gate())
    assert unguided < 0.2, "the generalist is always on"
    assert moe.mixture_bits(text, dict.fromkeys(names, even), Gate()) == pytest.approx(8.0, abs=0.01)


@pytest.fixture
def texts(monkeypatch):
    """A corpus of one letter for each domain."""
    from ai.models import corpus

    parts = {domain: bytes([65 + i]) * 300 for i, domain in enumerate(corpus.DOMAINS)}
    monkeypatch.setattr(corpus, "load", lambda domain, cache=None: corpus.Corpus(domain, parts[domain], parts[domain]))


def test_windows_are_held_out_text_and_switch_half_way(texts):
    pure = moe.draw_windows("pure", 9, Random(1))
    assert [window[:1] * 128 for window in pure] == pure and pure[0] == pure[8]
    switch = moe.draw_windows("switch", 9, Random(1))
    assert all(w[:1] * 64 == w[:64] and w[64:65] * 64 == w[64:] and w[0] != w[64] for w in switch)
    one, other = shapley.halves_of_the_text()
    assert len(one["dna"]) == len(other["dna"]) == 150


def test_the_whole_of_both_on_models_that_know_nothing(expert, texts, monkeypatch):
    """Their targets are of another matter; here everything is computed and reported."""
    from ai.models.train import MODEL_NAMES

    models = dict.fromkeys(MODEL_NAMES, expert)
    monkeypatch.setattr(moe, "train_side_by_side", lambda run, budget, seed, more=(): (models, [expert] * len(more)))
    for module, name, value in (
        (moe, "MEASUREMENTS", 32), (shapley, "BATCH_WINDOWS", 8), (shapley, "GAME_WINDOWS", 4), (shapley, "TIMING_REPEATS", 1),
    ):
        monkeypatch.setattr(module, name, value)
    run = Run()
    find("experiment", "moe").load()(run, recipe="full", windows=8, seed=0)
    assert len(run.targets) == 6 and {row["text"] for row in run.figures["bits_per_byte"]} == {"pure", "switch"}
    assert all(7 < value < 10 for row in run.figures["bits_per_byte"] for name, value in row.items() if name != "text")
    run = Run()
    find("experiment", "shapley").load()(run, recipe="quick", batches=2, cuts=2, seed=0)
    named = {target.name: target for target in run.targets}
    assert named["efficiency: sum of the values - value of all"].ok and named["symmetry: an expert and its copy"].ok
    assert len(named) == 6 and [row["batches"] for row in run.figures["total_variation_after"]] == [1]
