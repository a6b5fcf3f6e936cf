"""Corpora, experts, training, and the cache of weights."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from ai.models import corpus, train
from ai.models.expert import ByteExpert, ExpertNetwork, Shape, decode_weights, encode_weights, parameter_count
from ai.models.model import Card, Sampling, write_bytes
from ai.models.train import GENERALIST, RECIPES, Recipe, bits_per_byte, domains_of, obtain, weights_path
from ledger.errors import DecodeError, NotFound, UsageError

SMALL = Shape(width=16, context=32, tables=(64, 64))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- corpora


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_domains_are_deterministic(domain):
    once, again = corpus.generate(domain, 20_000), corpus.generate(domain, 20_000)
    assert once == again and 19_000 < len(once) <= 20_000


def test_the_last_tenth_is_held_out_and_cached(tmp_path):
    made = corpus.load("json", tmp_path)
    whole = made.train + made.held_out
    assert len(made.held_out) == len(whole) // 10 and whole == corpus.generate("json")
    [file] = tmp_path.glob("corpus/*/json.bytes")
    stored = file.read_bytes()
    assert corpus.load("json", tmp_path) == made
    file.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))  # a damaged cache is made again
    assert corpus.load("json", tmp_path) == made and file.read_bytes() == stored


def test_arithmetic_is_right():
    for line in corpus.generate("arith", 4_000).decode().splitlines()[:-1]:
        question, answer = line.split("=")
        assert eval(question) == int(answer)  # noqa: S307 - digits and a sign of our own making


def test_an_unknown_domain_is_named():
    with pytest.raises(NotFound, match="klingon"):
        corpus.load("klingon")


# --- the network


def test_the_expert_has_its_size():
    assert parameter_count(ExpertNetwork()) == 1_925_824


def test_the_last_position_alone_gives_what_the_whole_gives():
    network = ExpertNetwork(SMALL).eval()
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(256, (5, 32), generator=generator)
    lengths = torch.tensor([1, 2, 17, 31, 32])
    with torch.inference_mode():
        last = network.last(text, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = network(text[row : row + 1, :length])[0, -1]
            assert torch.allclose(last[row], alone, atol=1e-5)


def test_no_position_sees_what_comes_later():
    network = ExpertNetwork(SMALL).eval()
    text = torch.randint(256, (1, 32), generator=torch.Generator().manual_seed(2))
    other = text.clone()
    other[0, 20:] = (other[0, 20:] + 1) % 256
    with torch.inference_mode():
        assert torch.equal(network(text)[0, :20], network(other)[0, :20])


def test_windows_of_all_lengths_are_answered(tmp_path):
    expert = stored_expert(tmp_path)
    windows = [b"", b"a", b"x" * 31, b"y" * 32, b"z" * 500]
    rows = np.asarray(expert.next_bytes(windows))
    assert rows.shape == (5, 256) and np.allclose(rows.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(rows[4], np.asarray(expert.next_bytes([b"z" * 32]))[0], atol=1e-6)
    for index, window in enumerate(windows):
        assert np.allclose(rows[index], np.asarray(expert.next_bytes([window]))[0], atol=1e-5)


# --- weights


def stored_expert(tmp_path, network=None):
    path = tmp_path / "expert.safetensors"
    path.write_bytes(encode_weights(network or ExpertNetwork(SMALL)))
    return ByteExpert.load(path, name="small", domains=("json",))


def test_weights_survive_a_file(tmp_path):
    network = ExpertNetwork(SMALL).eval()
    again = decode_weights(encode_weights(network))
    assert again.shape.tables == SMALL.tables
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.half().float())
    card = stored_expert(tmp_path, network).card()
    assert card == Card.decode(card.encode()) and card.parameters == parameter_count(network)


def broken_weights(change):
    tensors = load(encode_weights(ExpertNetwork(SMALL)))
    change(tensors)
    return save(tensors)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("head.weight"),
        lambda t: t.update(extra=torch.zeros(1)),
        lambda t: t.update({"head.weight": t["head.weight"].float()}),
        lambda t: t.update({"head.weight": t["head.weight"][:-1].contiguous()}),
        lambda t: t.update({"byte.weight": t["byte.weight"] * float("nan")}),
        lambda t: t.update({"place.weight": torch.zeros(32, 24, dtype=torch.float16)}),
        lambda t: t.pop("place.weight"),
    ],
    ids=["missing", "extra", "wrong type", "wrong shape", "not a number", "odd width", "no place"],
)
def test_damaged_weights_are_refused(change):
    with pytest.raises(DecodeError):
        decode_weights(broken_weights(change))


def test_pickles_are_not_read(tmp_path):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps({"place.weight": 1}))
    with pytest.raises(DecodeError):
        ByteExpert.load(path, name="evil")


def test_absent_and_oversized_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(NotFound):
        ByteExpert.load(tmp_path / "nothing", name="x")
    stored_expert(tmp_path)
    monkeypatch.setattr("ai.models.expert.WEIGHTS_MAX_BYTES", 100)
    with pytest.raises(NotFound):
        ByteExpert.load(tmp_path / "expert.safetensors", name="x")


@pytest.mark.parametrize("data", [b"", b"\xa0", Card("x", bytes(32), 1).encode()[:-1], b"\x80" * 5000])
def test_malformed_cards_are_refused(data):
    with pytest.raises(DecodeError):
        Card.decode(data)


# --- training

QUICK = Recipe("quick", steps=25, batch=4, window=32, width=16, tables=(256, 256), warmup_steps=3)


def test_training_learns_and_repeats_itself():
    text = corpus.generate("json", 40_000)
    windows = [text[at : at + 33] for at in range(0, 30_000, 1_000)]
    shares = []
    first = train.train([text], QUICK, seed=3, progress=shares.append)
    untrained = ExpertNetwork(Shape(width=16, context=32, tables=(256, 256)))
    assert bits_per_byte(untrained, windows) > 7.5 and bits_per_byte(first, windows) < 6.5
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) == 26
    second = train.train([text], QUICK, seed=3)
    assert encode_weights(first) == encode_weights(second)
    assert encode_weights(first) != encode_weights(train.train([text], QUICK, seed=4))


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train.train([bytes(100)], train.with_budget(QUICK, steps=1))
    assert torch.equal(torch.rand(3), expected)


def test_a_budget_of_seconds_ends():
    shares = []
    train.train([bytes(range(256)) * 4], train.with_budget(QUICK, cpu_seconds=0.05), progress=shares.append)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("recipe", [train.with_budget(QUICK), Recipe("both", steps=1, cpu_seconds=1)])
def test_a_recipe_has_one_budget(recipe):
    with pytest.raises(UsageError):
        train.train([bytes(100)], recipe)


def test_models_are_trained_once(tmp_path, monkeypatch):
    path = obtain("json", QUICK, cache=tmp_path)
    assert path == weights_path("json", QUICK, cache=tmp_path)
    monkeypatch.setattr(train, "train", lambda *a, **k: pytest.fail("trained again"))
    assert obtain("json", QUICK, cache=tmp_path) == path
    expert = ByteExpert.load(path, name="json", domains=domains_of("json"))
    assert expert.card().domains == ("json",) and not list(tmp_path.rglob(".*"))


def test_paths_tell_recipes_and_seeds_apart(tmp_path):
    paths = {weights_path("json", recipe, seed=seed, cache=tmp_path) for recipe in RECIPES.values() for seed in (0, 1)}
    assert len(paths) == 4
    assert domains_of(GENERALIST) == corpus.DOMAINS
    with pytest.raises(UsageError):
        weights_path("klingon", QUICK)


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("QUORIX_CACHE", str(tmp_path))
    assert weights_path("json", QUICK).is_relative_to(tmp_path)


# --- text


class Script:
    """Always says the next byte of a fixed text."""

    def __init__(self, text):
        self.text, self.start = text, None

    def card(self):
        return Card("script", bytes(32), 64)

    def next_bytes(self, windows):
        rows = np.zeros((len(windows), 256))
        for row, window in enumerate(windows):
            self.start = len(window) if self.start is None else self.start
            rows[row, self.text[(len(window) - self.start) % len(self.text)]] = 1
        return rows


def written(text, **sampling):
    return list(write_bytes(Script(text), b"prompt", Sampling(temperature=0, **sampling)))


def test_text_comes_in_pieces():
    pieces = written(b"abcdefghij" * 5, max_units=50)
    assert b"".join(pieces) == b"abcdefghij" * 5 and max(map(len, pieces)) <= 16


@pytest.mark.parametrize("stop", [b"j", b"ij", b"hija", b"abcdefghijabcdefgh"])
def test_a_stop_ends_the_text_and_is_left_out(stop):
    whole = b"abcdefghij" * 5
    assert b"".join(written(whole, max_units=50, stops=(stop,))) == whole[: whole.index(stop)]


def test_sampling_follows_seed_temperature_and_top_p():
    class Two:
        def next_bytes(self, windows):
            row = np.full(256, 1e-9)
            row[65], row[66] = 0.8, 0.2
            return np.tile(row, (len(windows), 1))

    def draw(**sampling):
        return b"".join(write_bytes(Two(), b"", Sampling(max_units=400, **sampling)))

    assert draw(seed=1) == draw(seed=1) != draw(seed=2)
    assert 0.7 < draw(seed=3).count(b"A") / 400 < 0.9
    assert set(draw(seed=3, top_p=0.5)) == {65} == set(draw(temperature=0))
    assert draw(seed=4, temperature=5.0).count(b"A") < draw(seed=4, temperature=0.5).count(b"A")
