"""Every rule of the audit finds the damage it is there for: rows of the market, made wrong one by one."""

from dataclasses import replace

import pytest

from runtime import emission, invariants
from runtime.modules import (
    authorities,
    bonds,
    children,
    coldkeys,
    evictions,
    hotkeys,
    identities,
    neurons,
    pools,
    proposals,
    proxies,
    subnets,
    weights,
)

PROPOSAL = proposals.Proposal(bytes(32), bytes(32), 1, [], 1, 5, approved_at=2)
DAMAGE = {
    "a subnet counts too many uids": ("I3", lambda s, a, b: subnets.SUBNETS.put(
        s, 1, value=replace(subnets.subnet(s, 1), n=9))),
    "two uids name one hotkey": ("I3", lambda s, a, b: neurons.UIDS.put(s, 1, a, value=1)),
    "a score vector is short": ("I4", lambda s, a, b: neurons.SCORES.put(
        s, 1, value=replace(neurons.scores(s, 1), permit=b""))),
    "totals of a subnet": ("I2", lambda s, a, b: pools.TOTALS.put(
        s, 1, value=replace(pools.totals(s, 1), value_rao=1))),
    "value without shares": ("I7", lambda s, a, b: pools.POOLS.put(s, 1, a, value=replace(pools.pool(s, 1, a), shares=0))),
    "pending of nobody": ("I7", lambda s, a, b: pools.POOLS.put(s, 1, a, value=replace(pools.pool(s, 1, a), pending_rao=3))),
    "a stake position that is not listed": ("stake positions", lambda s, a, b: pools.POSITIONS.put(s, b, 9, a, value=0)),
    "stake on a hotkey of nobody": ("stake positions", lambda s, a, b: hotkeys.OWNERS.delete(s, a)),
    "an owner who does not list the hotkey": ("hotkeys", lambda s, a, b: hotkeys.OWNERS.put(s, bytes(32), value=b)),
    "a child without parent": ("I6", lambda s, a, b: children.PARENTS.put(s, 1, a, value=[[5, b]])),
    "a parent that lends too much": ("I6", lambda s, a, b: children.CHILDREN.put(
        s, 1, a, value=[[(1 << 64) - 1, b], [1, bytes(32)]])),
    "more parents than are allowed": ("I6", lambda s, a, b: children.PARENTS.put(
        s, 1, a, value=[[1, bytes([i]) * 32] for i in range(children.MAX_PARENTS + 1)])),
    "shares of the emission": ("I8", lambda s, a, b: emission.SHARES.put(s, 1, value=5)),
    "a commitment without uid": ("commitments", lambda s, a, b: identities.COMMITMENTS.put(
        s, 1, bytes(32), value=identities.Commitment([b"x"], 1, 0, 100))),
    "an identity of no subnet": ("commitments", lambda s, a, b: identities.SUBNET_IDENTITIES.put(
        s, 77, value=identities.Identity("", "", "", "", b""))),
    "a vote on no proposal": ("proposals", lambda s, a, b: proposals.VOTES.put(s, 5, a, value=1)),
    "an approved proposal with a deposit": ("proposals", lambda s, a, b: proposals.PROPOSALS.put(s, 1, value=PROPOSAL)),
    "too many proposals": ("proposals", lambda s, a, b: [
        proposals.PROPOSALS.put(s, i, value=PROPOSAL) for i in range(proposals.MAX_OPEN + 1)]),
    "proxies out of order": ("proxies", lambda s, a, b: proxies.PROXIES.put(
        s, b, value=proxies.Proxies([[b"\2" * 32, 0, 0], [b"\1" * 32, 0, 0]], 0))),
    "an announcement without proxy": ("proxies", lambda s, a, b: proxies.ANNOUNCEMENTS.put(
        s, b, a, value=proxies.Announcements([[bytes(32), 1]], 0))),
    "an empty announcement": ("proxies", lambda s, a, b: proxies.ANNOUNCEMENTS.put(s, b, a, value=proxies.Announcements())),
    "a count of swaps": ("coldkey swaps", lambda s, a, b: coldkeys.ANNOUNCED_COUNT.put(s, value=3)),
    "a challenge of no subnet": ("challenges", lambda s, a, b: evictions.CHALLENGES.put(
        s, 77, value=evictions.Challenge(b, a, "x", 0, 9))),
    "an authority twice": ("authorities", lambda s, a, b: authorities.AUTHORITY_SET.put(
        s, value=authorities.session_keys(s) * 2)),
    "a candidate with a seat": ("authorities", lambda s, a, b: authorities.CANDIDATES.put(
        s, authorities.session_keys(s)[0], value=authorities.Candidate(b))),
    "a bond that nobody reserved": ("I1r", lambda s, a, b: bonds.BONDS.put(s, b, value=bonds.Bond(7))),
    "a row of no neuron": ("rows of weights", lambda s, a, b: weights.write_row(weights.WEIGHTS, s, 1, 99, [(1, 9)])),
    "a row towards no neuron": ("rows of weights", lambda s, a, b: weights.write_row(weights.BONDS, s, 1, 0, [(99, 9)])),
    "a row out of order": ("rows of weights", lambda s, a, b: weights.write_row(weights.BONDS, s, 1, 0, [(3, 9), (2, 9)])),
    "a row that is not scaled": ("rows of weights", lambda s, a, b: weights.write_row(weights.WEIGHTS, s, 1, 0, [(2, 9)])),
    "commits without uid": ("commits", lambda s, a, b: weights.COMMITS.put(s, 1, bytes(32), value=[[0, 1, bytes(32)]])),
    "commits twice in an epoch": ("commits", lambda s, a, b: weights.COMMITS.put(s, 1, a, value=[[0, 1, bytes(32)]] * 2)),
    "a commit of the future": ("commits", lambda s, a, b: weights.COMMITS.put(s, 1, a, value=[[99, 1, bytes(32)]])),
}


@pytest.mark.parametrize("what", list(DAMAGE))
def test_damage_is_found_by_its_rule(market, what):
    rule, damage = DAMAGE[what]
    assert invariants.audit(market.state) == []
    damage(market.state, market.key("validator 0 hot"), market.key("validator 0"))
    found = [violation.rule for violation in invariants.audit(market.state)]
    assert any(name.startswith(rule) for name in found), found
