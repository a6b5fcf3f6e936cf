"""An account that has announced a coldkey swap pays for nothing else: else a thief could spend it on fees and tips."""


import pytest

from ledger.crypto import KeyPair
from ledger.errors import Rejected
from runtime.modules import accounts, coldkeys

Q = 10**9


# rule: KEY-5
def test_other_calls_are_not_even_admitted(devnet):
    thief, new = devnet.cold("neuron code"), KeyPair.from_seed(b"\x07" * 32).public
    assert devnet.call(thief, coldkeys.ANNOUNCE, coldkeys.swap_hash(new)) == ""
    before = devnet.free(thief.public)
    extrinsic = devnet.sign(thief, "accounts.transfer", devnet.cold("neuron json").public, Q, True, tip=5 * Q)
    with pytest.raises(Rejected, match="ColdkeySwapAnnounced"):
        devnet.runtime.admit(devnet.view, extrinsic, devnet.next_height)
    with pytest.raises(Rejected, match="ColdkeySwapAnnounced") as caught:
        devnet.block(extrinsic)
    assert caught.value.data["index"] == 0 and devnet.free(thief.public) == before
    assert devnet.call(thief, coldkeys.SWAP, new) == "ColdkeySwapTooEarly"
    with pytest.raises(Rejected, match="pays no tips"):
        devnet.runtime.admit(devnet.view, devnet.sign(thief, coldkeys.SWAP, new, tip=5 * Q), devnet.next_height)


def test_what_was_signed_before_the_announcement_is_left_out_of_a_block(devnet):
    thief, new = devnet.cold("neuron code"), KeyPair.from_seed(b"\x07" * 32).public
    announced = devnet.sign(thief, coldkeys.ANNOUNCE, coldkeys.swap_hash(new))
    later = devnet.sign(thief, "accounts.transfer", devnet.cold("neuron json").public, Q, True, nonce=announced.nonce + 1)
    left_out: dict[int, str] = {}
    devnet.runtime.apply_block(devnet.view, devnet.block_context(), [], [announced, later], left_out)
    assert left_out == {1: "ColdkeySwapAnnounced"}


def test_the_old_nonce_stays_so_that_nothing_runs_twice(devnet):
    old, new = devnet.cold("neuron code"), KeyPair.from_seed(b"\x07" * 32)
    assert devnet.root("governance.set_global_param", "coldkey_swap_delay", 3) == ""
    assert devnet.call(old, coldkeys.ANNOUNCE, coldkeys.swap_hash(new.public)) == ""
    devnet.skip(3)
    free = devnet.free(old.public)
    result = devnet.block(devnet.sign(old, coldkeys.SWAP, new.public))
    assert result.outcomes[0].error == "" and devnet.nonce(old.public) == 2
    assert devnet.free(new.public) == free - result.outcomes[0].fee_rao
    assert accounts.account(devnet.view, old.public).total_rao == 0
    assert devnet.call(new, "accounts.transfer", old.public, Q, True) == "" and devnet.audit() == []
