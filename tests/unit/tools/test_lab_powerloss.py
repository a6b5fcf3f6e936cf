"""Power losses: everything recovers, and an engine or a disk that broke the rules would be found out."""

from collections.abc import Mapping
from random import Random

import pytest

from ledger.signer import Signer
from tools.lab import powerloss
from tools.lab.frame import Run
from tools.lab.sim.faultstore import Disks, FaultStore, Journal


def lost_power(authorities: int, blocks: int, points: int, cuts: int = 10) -> Run:
    run = Run()
    powerloss.powerloss(run, blocks, authorities, points, 0, cuts, 0)
    return run


def test_forty_power_losses_of_one_authority() -> None:
    run = lost_power(1, 21, 40)
    assert all(target.ok for target in run.targets), run.figures["trouble"]
    assert run.figures["points"] >= 40 and run.figures["log_cuts"] >= 10


def test_power_losses_of_four_authorities_at_once() -> None:
    run = lost_power(4, 3, 4)
    assert all(target.ok for target in run.targets), run.figures["trouble"]
    assert run.figures["messages_sent"] > 20


@pytest.mark.long
@pytest.mark.parametrize(("authorities", "blocks"), [(1, 200), (4, 12)])
def test_power_lost_after_every_write(authorities: int, blocks: int) -> None:
    run = lost_power(authorities, blocks, 0, 0)
    assert all(target.ok for target in run.targets), run.figures["trouble"]


def test_a_record_that_is_not_synced_before_it_is_sent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    persist = Signer.persist
    monkeypatch.setattr(Signer, "persist", lambda self, record, bodies, sync=True: persist(self, record, bodies, sync=False))
    run = lost_power(4, 2, 1)
    assert not run.targets[0].ok and "before it is durable" in run.figures["trouble"][0]


def test_blocks_that_are_not_synced_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not sync what it was told to: blocks that were announced are gone."""
    write = FaultStore.write

    def lazy(self: FaultStore, batch: Mapping[bytes, bytes | None], *, sync: bool) -> None:
        write(self, batch, sync=sync and (b"m/schema" in batch or not self.name.endswith("chain")))

    monkeypatch.setattr(FaultStore, "write", lazy)
    run = lost_power(1, 6, 0)
    assert not run.targets[1].ok and not run.targets[0].ok


def test_a_disk_keeps_what_was_synced_and_a_beginning_of_the_rest() -> None:
    journal = Journal(lambda: 7)
    store = FaultStore(journal, "disk")
    for number, sync in enumerate((False, True, False, False, False)):
        store.write({b"row": bytes([number]), bytes([number]): b""}, sync=sync)
    assert store.get(b"row") == b"\4" and store.durable(b"row") == b"\1" and store.durable(b"\4") is None
    disks = Disks(journal)
    for _ in range(5):
        assert disks.advance().at_ms == 7
    assert disks.after_power_loss("disk", None) == {b"row": b"\1", b"\0": b"", b"\1": b""}
    kept = {disks.after_power_loss("disk", Random(seed))[b"row"] for seed in range(40)}
    assert kept == {b"\1", b"\2", b"\3", b"\4"}
    assert store.crash() == 0
