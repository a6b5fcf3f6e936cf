"""Every OPEN once: in memory, across restarts, after a reboot, when full, and when the clock is set back."""

from random import Random

import pytest

from ai.serve import replay
from ai.serve.refusals import Refused
from ai.serve.replay import ReplayGuard, SeenSet

NOW = 1_700_000_000_000
A, B = b"a" * 32, b"b" * 32
BOOT, OTHER_BOOT = b"1" * 16, b"2" * 16


def nonce(number=0):
    return number.to_bytes(16, "big")


def see(seen, caller=A, number=0, issued=NOW, now=NOW):
    seen.check(caller, nonce(number), issued, now)
    seen.note(caller, nonce(number), issued, now)


def refused(name, function, *arguments, **keywords):
    with pytest.raises(Refused) as caught:
        function(*arguments, **keywords)
    assert caught.value.error_name == name
    return caught.value


def test_a_nonce_is_used_once_by_each_caller():
    seen = SeenSet()
    see(seen)
    refused("replayed", see, seen)
    see(seen, caller=B)
    see(seen, number=1)
    assert len(seen) == 3


def test_entries_are_dropped_when_they_are_stale_and_not_before():
    seen = SeenSet()
    see(seen)
    refused("replayed", see, seen, now=NOW + 30_000)
    see(seen, caller=B, issued=NOW + 31_999, now=NOW + 31_999)
    assert len(seen) == 1
    refused("stale", see, seen, now=NOW + 31_999)


def test_a_clock_set_back_revives_nothing():
    seen = SeenSet()
    see(seen)
    see(seen, number=1, issued=NOW + 60_000, now=NOW + 60_000)
    refused("stale", see, seen, now=NOW)
    refused("replayed", see, seen, number=1, issued=NOW + 60_000, now=NOW + 40_000)


def test_full_is_busy_and_nothing_is_forgotten_early(monkeypatch):
    monkeypatch.setattr(replay, "MAX_SEEN", 10)
    monkeypatch.setattr(replay, "MAX_SEEN_PER_CALLER", 6)
    seen = SeenSet()
    for number in range(6):
        see(seen, number=number)
    assert refused("busy", see, seen, number=6).retry_after_ms > 0
    for number in range(4):
        see(seen, caller=B, number=number)
    refused("busy", see, seen, caller=b"c" * 32)
    refused("replayed", see, seen)
    see(seen, caller=A, number=9, issued=NOW + 40_000, now=NOW + 40_000)


def test_strangers_leave_half_of_it_to_members(monkeypatch):
    monkeypatch.setattr(replay, "MAX_SEEN", 10)
    monkeypatch.setattr(replay, "MAX_SEEN_FOR_STRANGERS", 5)
    seen = SeenSet()
    for number in range(5):
        seen.check(bytes([number]) * 32, b"n" * 16, NOW, NOW, stranger=True)
        seen.note(bytes([number]) * 32, b"n" * 16, NOW, NOW)
    with pytest.raises(Refused, match="busy"):
        seen.check(b"x" * 32, b"n" * 16, NOW, NOW, stranger=True)
    for number in range(5):
        see(seen, number=number)
    refused("busy", see, seen, caller=B)


def test_a_restart_forgets_nothing(tmp_path):
    guard = ReplayGuard(tmp_path / "replay.db", NOW, BOOT)
    refused("stale", see, guard, issued=NOW - 1)  # before the first start nothing is known
    see(guard, issued=NOW + 5)
    guard.close()  # a killed process would not even do this
    again = ReplayGuard(tmp_path / "replay.db", NOW + 1_000, BOOT)
    refused("replayed", see, again, issued=NOW + 5, now=NOW + 1_000)
    see(again, number=1, issued=NOW - 1, now=NOW + 1_000)  # known to be unseen, for the file is whole
    assert len(again) == 2


def test_after_a_reboot_what_was_issued_before_is_stale(tmp_path):
    guard = ReplayGuard(tmp_path / "replay.db", NOW, BOOT)
    see(guard, issued=NOW + 5)
    again = ReplayGuard(tmp_path / "replay.db", NOW + 1_000, OTHER_BOOT)
    refused("stale", see, again, issued=NOW + 5, now=NOW + 1_000)
    refused("stale", see, again, number=1, issued=NOW + 999, now=NOW + 1_000)
    see(again, number=2, issued=NOW + 1_000, now=NOW + 1_000)


def test_the_halves_take_turns_and_stay_small(tmp_path):
    path, now = tmp_path / "replay.db", NOW
    guard = ReplayGuard(path, now, BOOT)
    for number in range(400):
        now += 1_000
        see(guard, number=number, issued=now, now=now)
        if number % 97 == 96:
            guard.close()
            guard = ReplayGuard(path, now, BOOT)
    assert path.stat().st_size + path.with_name("replay.db.old").stat().st_size < 16 * 2 + 56 * 200
    guard.close()
    again = ReplayGuard(path, now, BOOT)
    for number in range(371, 400):
        refused("replayed", see, again, number=number, issued=NOW + 1_000 * (number + 1), now=now)


def test_entries_issued_ahead_survive_the_turn(tmp_path):
    path = tmp_path / "replay.db"
    guard = ReplayGuard(path, NOW, BOOT)
    see(guard, number=1, issued=NOW + 30_000, now=NOW + 1)
    see(guard, number=2, issued=NOW + 62_000, now=NOW + 62_000)  # the halves turn here
    guard.close()
    again = ReplayGuard(path, NOW + 60_000, BOOT)
    refused("replayed", see, again, number=1, issued=NOW + 30_000, now=NOW + 60_000)


def test_a_torn_last_entry_is_ignored(tmp_path):
    path = tmp_path / "replay.db"
    guard = ReplayGuard(path, NOW, BOOT)
    see(guard, issued=NOW + 1)
    guard.close()
    with path.open("ab") as file:
        file.write(b"half an entry")
    again = ReplayGuard(path, NOW + 2, BOOT)
    refused("replayed", see, again, issued=NOW + 1, now=NOW + 2)
    see(again, number=5, issued=NOW + 2, now=NOW + 2)
    third = ReplayGuard(path, NOW + 3, BOOT)
    refused("replayed", see, third, number=5, issued=NOW + 2, now=NOW + 3)


@pytest.mark.parametrize("content", [b"", b"short", Random(1).randbytes(500)])
def test_a_damaged_file_reads_as_a_reboot(tmp_path, content):
    path = tmp_path / "replay.db"
    path.write_bytes(content)
    guard = ReplayGuard(path, NOW, BOOT)
    refused("stale", see, guard, issued=NOW - 1)
    see(guard, issued=NOW)


def test_the_machine_has_a_boot_id():
    assert replay.machine_boot_id() == replay.machine_boot_id() != bytes(16)
