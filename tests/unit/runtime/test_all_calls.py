"""Every call of the registry in random order: no invariant breaks, and no rao is lost (protocol 8, 3.10).

The crowd of `quorix lab calls` chooses arguments that mostly make sense; here Hypothesis chooses the order of the calls and
where blocks end, and shrinks what fails.
"""

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from runtime.registry import CALL_NUMBERS
from tools.lab.crowd.campaign import Campaign
from tools.lab.crowd.people import MAKERS, Crowd, genesis_of, without_maker

GENESIS = genesis_of(1)
SHORT = settings(max_examples=4, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=400, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))


class Calls(RuleBasedStateMachine):
    """One chain. Blocks audit themselves; `LocalChain` counts the money beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.crowd = Crowd(1, GENESIS)

    @rule(names=st.lists(st.sampled_from(sorted(CALL_NUMBERS)), min_size=1, max_size=12), seed=st.integers(0, 2**32 - 1))
    def block(self, names, seed):
        self.crowd.chance = Random(seed)
        for name in names:
            self.crowd.step(name)
        self.crowd.end_block()

    @rule(blocks=st.integers(1, 20))
    def wait(self, blocks):
        for _ in range(blocks):
            self.crowd.end_block()

    @invariant()
    def all_rules_hold(self):
        chain = self.crowd.chain
        assert chain.height < chain.genesis.params.initial_height or chain.runtime.audits_itself(chain.store)
        assert chain.holdings_rao == chain.issued_rao


def test_every_call_has_a_maker():
    assert without_maker() == []


def test_calls_in_any_order_keep_every_invariant():
    run_state_machine_as_test(Calls, settings=SHORT)


@pytest.mark.long
def test_calls_in_any_order_keep_every_invariant_long():
    run_state_machine_as_test(Calls, settings=LONG)


def test_a_run_repeats_and_its_state_is_sound():
    runs = [Campaign(Crowd(7, GENESIS), 10) for _ in range(2)]
    for run in runs:
        assert all(run.block() for _ in range(30)), run.failure
    first, second = (run.crowd.chain for run in runs)
    assert (first.head_hash, first.issued_rao) == (second.head_hash, second.issued_rao)
    assert first.runtime.audit(first.store, deep=True) == []
    assert sum(runs[0].crowd.succeeded.values()) > 60 and len(runs[0].crowd.succeeded) > len(MAKERS) // 3


def test_books_that_do_not_agree_are_noticed():
    run = Campaign(Crowd(3, GENESIS), 5)
    run.crowd.chain.holdings_rao += 1
    assert not run.block()
    assert "the rows hold" in run.failure and run.failure.startswith("block 1:")


@pytest.mark.parametrize("figure", ["issued_rao", "pots_rao"])
def test_a_missing_unit_is_noticed(figure):
    run = Campaign(Crowd(3, GENESIS), 5)
    setattr(run.crowd.chain, figure, getattr(run.crowd.chain, figure) - 1)
    assert not run.block() and "Wrong" in run.failure
