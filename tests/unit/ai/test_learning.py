"""A neuron that goes on training: better versions only, between sessions only, and their hashes on chain."""

import asyncio
from contextlib import nullcontext

import pytest
import torch

from ai.models import sources
from ai.models.expert import ByteExpert, ExpertNetwork, Shape, encode_weights
from ai.models.huggingface import HuggingFaceModel
from ai.models.learning import LearningExpert
from ai.models.model import Sampling
from ai.models.upstream import Upstream
from ai.serve.announce import MODEL_COMMITMENT, Presence, ServingRecord
from ai.serve.improving import Improving, keep_improving
from ledger.errors import UsageError
from runtime.modules import identities

TEXT = b"to be or not to be, that is the question. " * 60
SHAPE = Shape(width=16, context=32, tables=(64,))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("weights") / "m.safetensors"
        path.write_bytes(encode_weights(ExpertNetwork(SHAPE)))
    return path


@pytest.fixture
def learning(weights, tmp_path):
    expert = ByteExpert.load(weights, name="bard")
    unseen = [TEXT[at : at + 33] for at in range(0, 330, 33)]
    return LearningExpert(expert, [TEXT], unseen, save_to=tmp_path / "own.safetensors", steps=30)


def improved(model, limit=200):
    return any(model.improve(0.05) for _ in range(limit))


def test_a_better_version_is_taken_when_it_is_told_to(learning, tmp_path):
    before, bits = learning.card(), learning.bits
    answers = learning.next_bytes([b"to be"])
    assert not learning.adopt() and not learning.improve(0.0)
    assert improved(learning) and learning.bits < bits - 0.5
    assert learning.card() == before and (learning.next_bytes([b"to be"]) == answers).all(), "not before it is adopted"
    assert improved(learning, 1), "it waits, and trains no further"
    assert learning.adopt() and learning.versions == 1
    after = learning.card()
    assert after.model_hash != before.model_hash and after.capabilities_hash != before.capabilities_hash
    assert (learning.next_bytes([b"to be"]) != answers).any()
    kept = ByteExpert.load(tmp_path / "own.safetensors", name="bard")
    assert kept.card().model_hash == after.model_hash, "a restart goes on from here"
    assert (kept.next_bytes([b"to be"]) == learning.next_bytes([b"to be"])).all()
    assert len(b"".join(learning.write(b"to", Sampling(max_units=4)))) == 4


def test_a_worse_version_is_thrown_away(weights):
    expert = ByteExpert.load(weights, name="bard")
    model = LearningExpert(expert, [bytes(range(256)) * 8], [TEXT[:33]], steps=5)
    model.bits = 0.0
    for _ in range(3):
        assert not model.improve(10.0)
    assert not model.adopt() and model.card() == expert.card()


class Pupil:
    def __init__(self):
        self.ready, self.adopted, self.calls, self.bits = False, 0, 0, 1.5

    def improve(self, seconds):
        self.calls += 1
        self.ready = self.calls % 3 == 0
        return self.ready

    def adopt(self):
        self.adopted += 1
        return True


async def test_versions_change_only_without_open_sessions():
    pupil, open_sessions, told = Pupil(), [1], []
    assert isinstance(pupil, Improving) and not isinstance(object(), Improving)
    task = asyncio.create_task(keep_improving(pupil, lambda: len(open_sessions), told.append, share=0.9))
    await asyncio.sleep(0.1)
    assert pupil.calls == 3 and pupil.adopted == 0
    open_sessions.clear()
    await asyncio.sleep(0.1)
    task.cancel()
    assert pupil.adopted >= 1 and told[0] == {"event": "improved", "bits": 1.5}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("code", "expert"), ("my.module:make", "function"), ("./folder", "folder"), ("/models/x", "folder"),
        ("http://127.0.0.1:8000/v1#m", "upstream"), ("https://host/v1#m", "upstream"),
    ],
)  # fmt: skip
def test_a_model_is_known_by_what_is_written_for_it(text, kind):
    assert sources.kind_of(text) == kind


def test_sources_are_opened_or_say_what_is_wrong(tmp_path, monkeypatch):
    assert isinstance(sources.open_source("http://127.0.0.1:8000/v1#m", name="up"), Upstream)
    with pytest.raises(UsageError, match="not named"):
        sources.open_source("http://127.0.0.1:8000/v1", name="up")
    for bad in ("no.such.module:f", "ai.models.model:nothing", ":f"):
        with pytest.raises(UsageError, match="no model at"):
            sources.open_source(bad, name="x")
    loaded = []
    monkeypatch.setattr(HuggingFaceModel, "load", lambda path, **options: loaded.append((path, options)))
    sources.open_source(f"{tmp_path}/m", name="x", device="cpu")
    assert loaded == [(tmp_path / "m", {"name": "x", "device": "cpu"})]


async def test_the_hash_of_the_model_that_answers_is_on_chain_and_changes_with_it(chain, monkeypatch):
    key, netuid, told = chain.devnet.hot("neuron arith"), 2, []
    monkeypatch.setattr("ai.serve.announce.SHORTEST_POLL_S", 0.01)
    monkeypatch.setattr("ai.serve.announce.RETRY_SECONDS", 0.01)

    class Local(Presence):
        def _connect(self):
            return nullcontext(chain)

    wanted = [ServingRecord("127.0.0.1", 9950, b"", b"c" * 32, b"1" * 32)]
    follow = asyncio.create_task(Local(["x"], key, [netuid], told.append).follow(lambda: wanted[0], 0.01))

    def committed():
        found = identities.commitment_of(chain.devnet.view, netuid, key.public)
        return found.fields if found else []

    async def until(fields):
        async with asyncio.timeout(3):
            while committed() != fields:
                await asyncio.sleep(0.01)

    await until([MODEL_COMMITMENT + b"1" * 32])
    chain.skip(20)
    wanted[0] = ServingRecord("127.0.0.1", 9950, b"", b"d" * 32, b"2" * 32)
    await until([MODEL_COMMITMENT + b"2" * 32])
    follow.cancel()
    assert chain.calls("serving.set_commitment") == ["", ""] and not [line for line in told if line["event"] == "trouble"]
