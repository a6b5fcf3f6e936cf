"""Calls, events, errors: declared once, with everything that metadata and docs show."""

import inspect

import pytest

import runtime.executor  # noqa: F401 - registers everything
from ledger.codec import U16
from ledger.errors import DecodeError, Rejected
from runtime import registry
from runtime.registry import CALLS, ERRORS, EVENTS, call, decode_args, error, event, refuse


# rule: BLK-12
def test_every_call_is_documented_and_its_function_takes_its_arguments():
    for entry in CALLS.values():
        assert entry.about.endswith(".") and entry.name.count(".") == 1 and entry.work > 0, entry.name
        for function in filter(None, (entry.function, entry.precheck)):
            parameters = list(inspect.signature(function).parameters.values())
            positional = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
            takes_rest = len(positional) < len(parameters)
            assert takes_rest or len(positional) == 1 + len(entry.schema.fields), entry.name


def test_every_error_says_what_happened():
    for rule in ERRORS.values():
        assert rule.cause, rule.name


# rule: BLK-12
def test_numbers_of_events_and_errors_are_unique():
    assert len({kind.name for kind in EVENTS.values()}) == len(EVENTS)
    assert len({rule.number for rule in ERRORS.values()}) == len(ERRORS)


def test_declaring_twice_is_a_mistake():
    with pytest.raises(AssertionError):
        call(1, "other.name", {})(lambda context: None)
    with pytest.raises(AssertionError):
        call(9999, "accounts.transfer", {})(lambda context: None)
    with pytest.raises(AssertionError):
        event(1, "Other")
    with pytest.raises(AssertionError):
        error(1, "Other", "cause")
    with pytest.raises(AssertionError):
        error(9999, "InsufficientBalance", "cause")


def test_arguments_are_checked_by_name(monkeypatch):
    monkeypatch.setattr(registry, "CALLS", {})
    monkeypatch.setattr(registry, "CALL_NUMBERS", {})

    @call(1, "test.f", {"netuid": U16})
    def f(context, netuid):
        """Do a thing."""

    entry = registry.CALLS[1]
    assert decode_args(entry, [7]) == [7]
    for bad in ([], [7, 7], ["7"], [True], [1 << 16]):
        with pytest.raises(DecodeError):
            decode_args(entry, bad)


def test_refuse_uses_the_declared_text():
    with pytest.raises(Rejected) as caught:
        refuse("InsufficientBalance", balance_rao=1)
    assert caught.value.error_name == "InsufficientBalance" and caught.value.hint and caught.value.data == {"balance_rao": 1}
    with pytest.raises(KeyError):
        refuse("NoSuchError")
