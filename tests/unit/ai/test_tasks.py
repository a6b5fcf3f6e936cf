"""Task kinds: by the subnet's word, with real servers, and how exact answers and judged texts are scored."""

import asyncio
from random import Random

import numpy as np
import pytest

from ai.judge.conduct import Conduct
from ai.judge.exact_task import FAMILIES, ExactAnswers, first_line, score_exact
from ai.judge.judged_task import JudgedText, UpstreamJudge, bradley_terry, likeness, same_texts
from ai.judge.live import read_tables
from ai.judge.tasks import Asked, Outcome, TaskSetup, make_task
from ai.judge.validator import Validator, ValidatorConfig
from ai.models.model import Card
from ai.serve.client import NeuronClient
from ledger.client.calls import Wallet
from ledger.errors import DecodeError, Unreachable, UsageError
from runtime import reads

NETUID = 2
TEXT = b"".join(b"the cat number %d sat on the mat.\n" % n for n in range(400))


class Writer:
    """Writes what `words(prompt)` says."""

    def __init__(self, name, words):
        self._card = Card(name, name.encode().ljust(32, b"\0"), 128, methods=("text", "card"))
        self._words = words

    def card(self):
        return self._card

    def next_bytes(self, windows):
        raise ValueError("writes only")

    def write(self, prompt, sampling):
        yield self._words(prompt)


def solve(prompt):
    """Right answers to every family."""
    words = prompt.split()
    if words[0] == b"reverse":
        return words[1].rstrip(b":")[::-1]
    if words[0] == b"sort":
        return b" ".join(sorted((w.rstrip(b":") for w in words[1:]), key=int))
    if words[0] == b"count":
        return b"%d" % words[3].rstrip(b":").count(words[1])
    if b"*" in prompt:
        a, b = prompt.rstrip(b"=").split(b"*")
        return b"%d" % (int(a) * int(b))
    a, b, c = map(int, prompt.rstrip(b"=").replace(b"-", b"+").split(b"+"))
    return b"%d" % (a + b - c)


def setup(**options):
    return TaskSetup({"english": TEXT}, 8, 2, 1.0, Conduct(), options)


@pytest.fixture
async def ask(devnet, serve):
    """`await ask(task, models)`: the outcome of one batch put to real servers."""
    caller = devnet.hot("validator 0")
    client = NeuronClient(caller, devnet.genesis.genesis_hash, allow_private=True, allow_clear=True)

    async def probe(task, *models, names=()):
        keys = [devnet.hot(f"neuron {who}") for who in ("arith", "json", "csv", "dna", "generalist")]
        addresses = [await serve(model, key) for model, key in zip(models, keys, strict=False)]
        return await task.probe(Asked(client, addresses, names or [""] * len(addresses), NETUID, Random(4)))

    yield probe
    await client.close()


# --- kinds -------------------------------------------------------------------------------------------------------


class Constant:
    """A plug-in: everybody is worth the same."""

    def __init__(self, setup):
        self.setup = setup

    async def probe(self, asked):
        return Outcome(np.array([1.0, np.nan, -1.0][: len(asked.neurons)]), [1] * len(asked.neurons), 1)


def test_kinds_are_found_by_name_and_unknown_ones_are_refused():
    assert type(make_task("", setup())).__name__ == "BytePrediction"
    assert isinstance(make_task("exact", setup()), ExactAnswers) and isinstance(make_task("judged", setup()), JudgedText)
    assert isinstance(make_task("mine", setup(), {"mine": f"{__name__}:Constant"}), Constant)
    with pytest.raises(UsageError, match="no task kind 'other'"):
        make_task("other", setup())
    with pytest.raises(UsageError, match="is not at"):
        make_task("mine", setup(), {"mine": "nowhere:at_all"})
    for bad in ({"families": ["none"]}, {"families": []}, {"questions": 0}):
        with pytest.raises(UsageError):
            ExactAnswers(setup(**bad))
    with pytest.raises(UsageError, match="no judge"):
        JudgedText(setup(judge="me"))


@pytest.mark.parametrize("kind", ["exact", "mine"])
async def test_a_validator_takes_the_kind_from_the_subnet_and_shows_its_table(chain, serve, tmp_path, kind):
    for name, words in (("arith", solve), ("json", lambda prompt: b"42")):
        key = chain.devnet.hot(f"neuron {name}")
        address = await serve(Writer(name, words), key)
        record = [bytes([127, 0, 0, 1]), address.port, b"", address.capabilities_hash]
        await Wallet(chain, key).submit("serving.serve", netuid=NETUID, record=record)
    told = []
    config = ValidatorConfig(
        "v", chain.devnet.hot("validator 0"), (NETUID,), tmp_path, seed=None, tasks={"mine": f"{__name__}:Constant"}
    )
    validator = Validator(config, chain, await chain.system_properties(), told.append, texts={"english": TEXT})
    real = chain.subnet_get

    async def named(netuid, at="head"):
        from dataclasses import replace

        reading = await real(netuid, at)
        return chain._reading(replace(reading.value, task=kind))

    chain.subnet_get = named
    try:
        chain.next_epoch(NETUID)
        await validator.probe(NETUID)
        await validator.probe(NETUID)
        secret = validator._secrets[NETUID]
        await validator.duties(NETUID)
        (pending,) = validator.memory.pending(NETUID)
        assert pending.salt == secret, "the reveal gives away what the groups were drawn from"
        table = read_tables(tmp_path / "live.json")["subnets"][str(NETUID)]
        rows = {row["name"]: row for row in table["rows"]}
        assert table["task"] == kind and rows["arith"]["weight"] == 65535 and rows["json"]["weight"] == 0
        assert rows["arith"]["answered"] == rows["arith"]["asked"]
        uids = {n.name: n.uid for n in reads.metagraph(chain.devnet.view, NETUID, chain.devnet.height, chain.names).neurons}
        assert pending.uids == [uids["arith"]]
        (tmp_path / "live.json").write_text("[")
        with pytest.raises(DecodeError):
            read_tables(tmp_path / "live.json")
        assert read_tables(tmp_path / "none.json") == {}
    finally:
        await validator.close()


# --- exact answers -----------------------------------------------------------------------------------------------


def test_every_family_has_the_answer_it_says():
    for make in FAMILIES.values():
        for seed in range(20):
            question = make(Random(seed))
            assert solve(question.prompt) == question.answer == first_line(b"  " + question.answer + b" \nmore")


def test_a_question_is_worth_the_same_however_many_solve_it():
    answers = [b"1", b"2", b"3", b"4"]
    scores, copies = score_exact([[b"1", b"2", b"", b"x"], [b"1", b"", b"3", b""], [b"", b"", b"", b""]], answers)
    assert scores.tolist() == pytest.approx([0.125 + 0.25, 0.125 + 0.25, 0.0]) and copies == [1, 1, 1]
    assert score_exact([], answers)[1] == [] and score_exact([[]], [])[0].tolist() == [0.0]


def test_who_is_wrong_in_the_same_way_is_one_player():
    answers = [b"%d" % i for i in range(6)]
    clone = [b"0", b"1", b"2", b"a", b"b", b"c"]
    alone, _ = score_exact([clone, answers], answers)
    for k in range(2, 6):
        both, copies = score_exact([clone] * k + [answers], answers)
        assert copies == [k] * k + [1]
        assert both[:k].sum() == pytest.approx(alone[0]) and both[k] == pytest.approx(alone[1])


def test_who_copies_the_errors_of_two_makes_these_no_copies_of_each_other():
    answers = [b"%d" % i for i in range(12)]
    one = [b"a", b"b", b"c", *answers[3:]]
    other = [*answers[:9], b"x", b"y", b"z"]
    between = [b"a", b"b", b"c", *answers[3:9], b"x", b"y", b"z"]
    alone, _ = score_exact([one, other, answers], answers)
    straddled, copies = score_exact([one, other, answers, between], answers)
    assert copies == [2, 2, 1, 3] and straddled.sum() == pytest.approx(1.0)
    assert min(straddled[:2] / alone[:2]) > 0.75 and straddled[3] < straddled[0] / 2


async def test_exact_answers_over_the_wire(ask):
    def late(prompt):
        raise ValueError("broken")

    models = Writer("a", solve), Writer("b", lambda p: b"7" * 500), Writer("c", late), Writer("d", lambda p: b"\xff\x00 no")
    outcome = await ask(ExactAnswers(setup(questions=5)), *models)
    assert outcome.scores.tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0])
    assert outcome.answered[0] == 5 and outcome.answered[2] == 0 and outcome.asked == 5
    assert outcome.details["right"][0] == 5


# --- judged text -------------------------------------------------------------------------------------------------


async def test_judged_text_over_the_wire(ask):
    def knows(prompt):
        at = TEXT.find(prompt)
        return TEXT[at + len(prompt) : at + len(prompt) + 48]

    models = (
        Writer("a", knows), Writer("b", lambda p: knows(p)[:20] + b" dog"), Writer("c", lambda p: b"zzzz" * 9),
        Writer("d", lambda p: b"zzzz" * 9), Writer("e", lambda p: b""),
    )  # fmt: skip
    outcome = await ask(JudgedText(setup()), *models)
    a, b, c, d, e = outcome.scores
    assert a > b > c + d and c == pytest.approx(d) and c > 0 and e == 0
    assert outcome.details["copies"] == [1, 1, 2, 2, 1]


def test_texts_are_shared_prompt_by_prompt():
    one, other = [b"a", b"b", b"c", b"d"], [b"w", b"x", b"y", b""]
    between = [b"a", b"b", b"y", b""]
    assert same_texts([one, other, between]).tolist() == [1.5, 1.25, 1.75]
    assert same_texts([one] * 4).tolist() == [4.0] * 4 and same_texts([]).tolist() == [] and same_texts([[]]).tolist() == [1.0]


def test_strengths_follow_the_games_and_nobody_is_infinite():
    games = [(0, 1, 1.0)] * 6 + [(1, 2, 1.0)] * 4 + [(2, 1, 0.5)] * 2
    strength = bradley_terry(3, games)
    assert strength.sum() == pytest.approx(1) and strength[0] > strength[1] > strength[2] > 0
    swapped = bradley_terry(3, [(b, a, 1 - p) for a, b, p in games])
    assert np.allclose(strength, swapped)
    assert bradley_terry(2, []).tolist() == [0.5, 0.5] and bradley_terry(0, []).tolist() == []
    # one game between two with the prior's: the odds are those of the fixed point
    one = bradley_terry(2, [(0, 1, 1.0)])
    r, s = one / one[1]
    assert one[0] > one[1] and r > 1 == s


def test_likeness():
    assert likeness(b"abc def", b"abc def") == 1.0 and likeness(b"", b"a") == 0.0
    assert likeness(b"abc xyz", b"abc def") > likeness(b"xyz abc", b"abc def") > likeness(b"zzz", b"abc def") == 0.0


class Said:
    """An upstream that prefers by `choose(first, second)`."""

    def __init__(self, choose):
        self.choose = choose

    def write(self, prompt, sampling):
        first = prompt.split(b"Text A:\n")[1].split(b"\n")[0]
        second = prompt.split(b"Text B:\n")[1].split(b"\n")[0]
        yield self.choose(first, second)


def test_an_upstream_judge_is_believed_where_it_says_the_same_twice():
    def refuse(first, second):
        raise Unreachable("gone")

    def prefer(choose):
        return asyncio.run(UpstreamJudge(Said(choose)).prefer(b"p", b"good", b"bad"))

    assert prefer(lambda a, b: b"A" if a == b"good" else b" **B**") == 1
    assert prefer(lambda a, b: b"b." if a == b"good" else b"A") == -1
    assert prefer(lambda a, b: b"A") == 0, "whichever comes first"
    assert prefer(lambda a, b: b"\xff\xffneither") == prefer(refuse) == 0
