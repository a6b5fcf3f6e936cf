from p2p.addresses import Address
from p2p.dialer import FIRST_DELAY_MS, MAX_DELAY_MS, MAX_DIALS, YIELD_MS, DialPlan


def address(peer, port=1):
    return Address("ip4", "127.0.0.1", port, peer)


def test_the_smaller_peer_id_dials_first():
    small, large = DialPlan("A"), DialPlan("C")
    small.add(address("B"), 0, static=True)
    large.add(address("B"), 0, static=True)
    assert small.due(0, ()) == [address("B")]
    assert large.due(0, ()) == [] and large.wait_ms(0, ()) == YIELD_MS
    assert large.due(YIELD_MS, {"B"}) == [], "the other one's dial has succeeded"
    assert large.due(YIELD_MS, ()) == [address("B")]


def test_waits_double_to_ten_seconds_and_start_again_after_a_success():
    plan, now, waits = DialPlan("A"), 0, []
    plan.add(address("B"), 0, static=True)
    for _ in range(9):
        assert plan.due(now, ()) == [address("B")]
        assert plan.due(now, ()) == [], "it is being dialled"
        assert not plan.failed("B", now)
        waits.append(plan.wait_ms(now, ()))
        now += waits[-1]
    assert waits == [200, 400, 800, 1600, 3200, 6400, 10000, 10000, 10000]
    plan.due(now, ())
    plan.succeeded("B", now)
    plan.lost("B", now + 5000)
    assert plan.wait_ms(now + 5000, ()) == 0
    plan.due(now + 5000, ())
    plan.failed("B", now + 5000)
    assert plan.wait_ms(now + 5000, ()) == FIRST_DELAY_MS


def test_a_refusal_waits_the_longest():
    plan = DialPlan("A")
    plan.add(address("B"), 0, static=True)
    plan.due(0, ())
    assert not plan.failed("B", 0, refused=True) and plan.wait_ms(0, ()) == MAX_DELAY_MS


def test_learned_addresses_are_given_up_and_static_ones_are_not():
    plan, now = DialPlan("A"), 0
    plan.add(address("B"), 0, static=False)
    for _ in range(6):
        plan.due(now, ())
        assert not plan.failed("B", now)
        now += MAX_DELAY_MS
    plan.due(now, ())
    assert plan.failed("B", now) and not plan.targets
    plan.add(address("B"), now, static=False)
    plan.due(now, ())
    assert plan.failed("B", now, refused=True) and not plan.targets
    assert not plan.failed("B", now)


def test_learned_addresses_are_dialled_only_while_there_are_too_few():
    plan = DialPlan("A", enough=2)
    for peer in "BCDE":
        plan.add(address(peer), 0, static=peer == "E")
    assert not plan.wants_more(())
    assert plan.due(0, {"X"}) == [address("B"), address("E")]
    assert plan.due(0, {"X", "B"}) == [] and plan.wait_ms(0, {"X", "B"}) is None
    assert plan.wants_more({"B"}) is False and DialPlan("A", enough=1).wants_more(())


def test_dials_at_once_are_bounded_and_nobody_dials_itself():
    plan = DialPlan("A", enough=99)
    for k in range(20):
        plan.add(address(f"B{k}"), 0, static=True)
    plan.add(address("A"), 0, static=True)
    assert len(plan.due(0, ())) == MAX_DIALS and plan.due(0, ()) == [] and "A" not in plan.targets


def test_a_static_address_replaces_a_learned_one_but_not_the_other_way():
    plan = DialPlan("A")
    plan.add(address("B", 1), 0, static=False)
    plan.add(address("B", 2), 0, static=True)
    plan.add(address("B", 3), 0, static=False)
    assert plan.targets["B"].address == address("B", 2) and plan.targets["B"].static
