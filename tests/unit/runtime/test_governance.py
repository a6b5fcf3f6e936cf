"""Parameters: who sets what, when, within which bounds; and the sudo key."""

import pytest

from ledger.errors import Rejected
from runtime import params
from runtime.modules import accounts, governance


def owner_sets(devnet, name, value, netuid=1):
    return devnet.call(devnet.cold("owner"), "governance.set_subnet_param", netuid, name, value)


def nobody_is_sudo(devnet):
    """So that the owner has only an owner's rights."""
    assert devnet.root("governance.set_sudo", None) == ""


def after_an_epoch(devnet):
    """Beyond the freeze window: just after both subnets' epochs."""
    while devnet.height % 15 != 1:
        devnet.block()


# --- sudo --------------------------------------------------------------------------------------------------------


# rule: GOV-1
def test_sudo_runs_calls_as_root_for_its_key_only(devnet):
    inner = devnet.inner("governance.set_global_param", "fee_base_rao", 5)
    assert devnet.call(devnet.cold("neuron code"), "governance.sudo", inner) == "RequireSudo"
    result = devnet.block(devnet.sign(devnet.cold("owner"), "governance.sudo", inner))
    first, count = result.outcomes[0].first_event, result.outcomes[0].events
    assert devnet.names(result)[first : first + count] == ["ParamSet", "SudoDone"]
    assert params.get(devnet.view, "fee_base_rao") == 5


def test_a_refused_inner_call_is_the_error_of_sudo(devnet):
    assert devnet.root("governance.set_global_param", "fee_base_rao", -1) == "InvalidValue"
    assert devnet.root("accounts.transfer", devnet.cold("neuron code").public, 10**18, True) == "InsufficientBalance"


def test_root_calls_are_refused_without_sudo(devnet):
    owner = devnet.cold("owner")
    assert devnet.call(owner, "governance.set_global_param", "fee_base_rao", 5) == "RequireSudo"
    assert devnet.call(owner, "governance.set_sudo", None) == "RequireSudo"
    batch = [devnet.inner("governance.set_sudo", None)]
    assert devnet.call(owner, "keyring.batch", batch) == "RequireSudo"


def test_sudo_runs_a_batch_but_no_sudo(devnet):
    first = devnet.inner("governance.set_global_param", "fee_base_rao", 7)
    second = devnet.inner("governance.set_subnet_param", 2, "kappa", 40000)
    assert devnet.root("keyring.batch", [first, second]) == ""
    assert params.get(devnet.view, "fee_base_rao") == 7 and params.get(devnet.view, "kappa", 2) == 40000
    with pytest.raises(Rejected, match="NestedBatch"):
        devnet.root("governance.sudo", first)


# rule: GOV-1
def test_root_origin_ends_with_the_call(devnet):
    bad = devnet.inner("governance.set_global_param", "fee_base_rao", -1)
    good = devnet.inner("governance.set_global_param", "fee_base_rao", 5)
    result = devnet.block(
        devnet.sign(devnet.cold("owner"), "governance.sudo", bad),
        devnet.sign(devnet.cold("owner"), "governance.set_global_param", *good[1], nonce=1),
    )
    assert [o.error for o in result.outcomes] == ["InvalidValue", "RequireSudo"]


def test_the_sudo_key_can_be_given_away_and_thrown_away(devnet):
    new = devnet.cold("neuron code")
    assert devnet.root("governance.set_sudo", bytes(32)) == "InvalidKey"
    assert devnet.root("governance.set_sudo", new.public) == ""
    assert devnet.root("governance.set_sudo", None) == "RequireSudo"
    assert devnet.call(new, "governance.sudo", devnet.inner("governance.set_sudo", None)) == ""
    assert governance.sudo_key(devnet.view) is None
    assert devnet.call(new, "governance.sudo", devnet.inner("governance.set_sudo", None)) == "RequireSudo"


# --- parameters --------------------------------------------------------------------------------------------------


# rule: PAR-1
def test_every_default_is_within_its_bounds_and_documented():
    for param in params.PARAMS.values():
        assert params.bounds_problem(param, param.default) == "" and param.about, param.name
        assert param.low <= (param.owner_low or param.low) <= (param.owner_high or param.high) <= param.high


# rule: PAR-1
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("kappa", 19660, "InvalidValue"),
        ("kappa", 45876, "InvalidValue"),
        ("kappa", True, "InvalidValue"),
        ("yuma3_on", 2, "InvalidValue"),
        ("yuma3_on", False, ""),
        ("tempo", 6, "InvalidValue"),  # four authorities need 6, and one more to open weights
        ("tempo", 7, ""),
        ("immunity_period", 30, "InvalidValue"),  # (1 + 1) * 15
        ("immunity_period", 31, ""),
        ("reveal_period_epochs", 9, "InvalidValue"),  # immunity is 150
        ("reveal_period_epochs", 8, ""),
        ("alpha_low", 60000, "InvalidValue"),
        ("min_allowed_weights", 257, "InvalidValue"),
        ("max_allowed_uids", 15, "InvalidValue"),
        ("no_such_thing", 1, "UnknownParam"),
        ("fee_base_rao", 1, "UnknownParam"),
    ],
)
def test_bounds_and_combinations_bind_root_too(devnet, name, value, error):
    assert devnet.root("governance.set_subnet_param", 1, name, value) == error
    if not error:
        assert params.get(devnet.view, name, 1) == value


def test_changes_are_reported_with_old_and_new_value(devnet):
    result = devnet.block(
        devnet.sign(
            devnet.cold("owner"), "governance.sudo", devnet.inner("governance.set_subnet_param", 1, "kappa", 40000)
        )
    )
    assert [params.PARAM_SET.number, 1, "kappa", 32767, 40000] in result.events


def test_genesis_constants_stay(devnet):
    assert devnet.root("governance.set_global_param", "supply_cap", 10**16) == "InvalidValue"
    assert devnet.root("governance.set_global_param", "tempo", 20) == "UnknownParam"


# rule: PAR-2
def test_an_owner_sets_what_the_table_gives_to_owners(devnet):
    nobody_is_sudo(devnet)
    after_an_epoch(devnet)
    for name, value, error in (
        ("bonds_moving_average", 975_001, "InvalidValue"), ("alpha_sigmoid_steepness", -1, "InvalidValue"),
        ("kappa", 40000, "RequireSudo"), ("no_such_thing", 1, "UnknownParam"),
    ):
        assert devnet.execute(_set(devnet, name, value)).outcomes[0].error == error
    assert owner_sets(devnet, "bonds_moving_average", 975_000) == ""
    assert devnet.call(devnet.cold("neuron code"), "governance.set_subnet_param", 1, "yuma3_on", True) == "NotSubnetOwner"


def test_nobody_owns_root_or_what_is_not_there(devnet):
    nobody_is_sudo(devnet)
    assert owner_sets(devnet, "immunity_period", 100, netuid=0) == "NotSubnetOwner"
    assert owner_sets(devnet, "immunity_period", 100, netuid=9) == "SubnetNotExists"


# rule: PAR-2
def test_owners_change_nothing_shortly_before_an_epoch(devnet):
    nobody_is_sudo(devnet)
    after_an_epoch(devnet)
    blocks = 0
    while devnet.execute(_set(devnet, "bonds_penalty", 5)).outcomes[0].error == "":
        devnet.block()
        blocks += 1
    outcome = devnet.execute(_set(devnet, "bonds_penalty", 5)).outcomes[0]
    assert outcome.error == "AdminActionProhibitedDuringWeightsWindow" and blocks >= 3
    assert owner_sets(devnet, "serving_rate_limit", 5) == ""  # hurts no committed weights


def _set(devnet, name, value):
    return devnet.sign(devnet.cold("owner"), "governance.set_subnet_param", 1, name, value)


# rule: PAR-2
def test_owners_change_each_parameter_once_in_two_tempos(devnet):
    nobody_is_sudo(devnet)
    after_an_epoch(devnet)
    assert owner_sets(devnet, "serving_rate_limit", 5) == ""
    changed_at = devnet.height
    assert owner_sets(devnet, "serving_rate_limit", 6) == "TxRateLimitExceeded"
    assert owner_sets(devnet, "transfer_toggle", False) == ""
    while devnet.next_height < changed_at + 30:
        devnet.block()
    assert owner_sets(devnet, "serving_rate_limit", 6) == ""


def test_a_refused_change_does_not_count_as_one(devnet):
    nobody_is_sudo(devnet)
    after_an_epoch(devnet)
    assert owner_sets(devnet, "immunity_period", 30) == "InvalidValue"
    assert owner_sets(devnet, "immunity_period", 200) == ""


def test_put_many_checks_the_final_combination_only(devnet):
    context = devnet.context()
    params.put_many(context, {"tempo": 100, "immunity_period": 300}, 1)
    with pytest.raises(Rejected, match="immunity"):
        params.put_many(context, {"tempo": 150}, 1)
    with pytest.raises(Rejected, match="UnknownParam"):
        params.put_many(context, {"fee_base_rao": 1}, 1)
    params.forget(context, 1)
    assert params.get(context.state, "tempo", 1) == 360


def test_scope_is_part_of_reading(devnet):
    with pytest.raises(AssertionError):
        params.get(devnet.view, "tempo")
    with pytest.raises(AssertionError):
        params.get(devnet.view, "fee_base_rao", 1)
    assert params.is_on(devnet.view, "yuma3_on", 1)
    assert accounts.issuance(devnet.view) < params.get(devnet.view, "supply_cap")


# rule: PAR-1
def test_no_value_voted_by_mistake_is_for_ever():
    """With each of these at its highest value, and the fees at theirs, a seat can still decide otherwise."""
    for name in (
        "voting_period", "enactment_delay", "coldkey_swap_delay", "coldkey_swap_again_delay", "eviction_notice_blocks",
    ):
        assert params.PARAMS[name].high <= 90 * 86_400, name
    high = {name: params.PARAMS[f"fee_{name}_rao"].high for name in ("base", "per_byte", "per_work")}
    assert high["base"] + 300 * high["per_byte"] + 200 * high["per_work"] <= params.Q
    assert params.PARAMS["proposal_deposit_rao"].high <= 10_000 * params.Q
