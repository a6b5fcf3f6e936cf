from p2p.faults import BAN_MS, HALF_LIFE_MS, INVALID, MALFORMED, MAX_PEERS, TIMEOUT, FaultLedger


def test_two_invalid_blocks_ban_for_an_hour():
    ledger = FaultLedger()
    assert not ledger.add("a", INVALID, 1000)
    assert ledger.add("a", INVALID, 2000)
    assert ledger.banned("a", 2000 + BAN_MS - 1) and not ledger.banned("a", 2000 + BAN_MS)
    assert not ledger.add("a", INVALID, 3000), "it is banned already"
    assert not ledger.banned("b", 2000)


def test_points_halve():
    ledger = FaultLedger()
    for _ in range(4):
        ledger.add("a", MALFORMED, 0)
    assert [ledger.points("a", k * HALF_LIFE_MS) for k in range(4)] == [80, 40, 20, 10]
    assert not ledger.add("a", INVALID, HALF_LIFE_MS)


def test_a_slow_drip_of_timeouts_never_bans():
    ledger = FaultLedger()
    assert not any(ledger.add("a", TIMEOUT, k * 30_000) for k in range(1000))


def test_only_what_is_invalid_counts_against_an_authority():
    ledger = FaultLedger()
    assert not any(ledger.add("a", points, 0, authority=True) for points in (TIMEOUT, MALFORMED) for _ in range(100))
    assert ledger.points("a", 0) == 0
    ledger.add("a", INVALID, 0, authority=True)
    assert ledger.add("a", INVALID, 0, authority=True)


def test_the_ledger_is_bounded_and_bans_stay():
    ledger = FaultLedger()
    ledger.add("banned", 100, 0)
    for k in range(3 * MAX_PEERS):
        ledger.add(f"peer {k}", MALFORMED, k)
    assert len(ledger._entries) <= MAX_PEERS and ledger.banned("banned", 3 * MAX_PEERS)


def test_negative_points_forgive_nothing():
    ledger = FaultLedger()
    ledger.add("a", 50, 0)
    ledger.add("a", -50, 0)
    assert ledger.points("a", 0) == 50
