"""Weights sealed to the authorities: keys ahead, secrets after, opening, forfeits, reveals by hand, and the beacon."""

from dataclasses import replace
from hashlib import blake2b
from itertools import combinations

import pytest

from ledger import timelock as sealing
from ledger.codec import pack_u16
from ledger.commitments import weights_commitment
from ledger.crypto import KeyPair, digest
from ledger.errors import NotFound, Rejected
from ledger.inherents import TIMELOCK_KEY, TIMELOCK_SECRET
from ledger.timelock import Announcement, Payload, Release, seal
from ledger.votes import max_faulty
from runtime import params, reads
from runtime.modules import authorities, neurons, timelock, weights
from runtime.modules.timelock import release_blocks
from runtime.modules.weights import WEIGHTS, read_row
from runtime.registry import Context
from runtime.state import State
from runtime.timelock_reads import beacon, timelock_of

ROW, SALT = [(2, 65535), (3, 30000)], b"\x05" * 32
MEMBERS = [KeyPair.from_seed(blake2b(b"authority", key=bytes([index]), digest_size=32).digest()) for index in range(7)]


class Market:
    """The world with so many authorities, and what they do."""

    def __init__(self, world, count=4, **values):
        self.world, self.members = world, MEMBERS[:count]
        self.set_members(self.members)
        for name, value in {"timelock_on": True, "tempo": 12, "immunity_period": 60, **values}.items():
            world.set(name, value, 1)

    def set_members(self, members):
        self.members = members
        for (key,), _ in list(authorities.AUTHORITIES.items(self.world.state)):
            authorities.AUTHORITIES.delete(self.world.state, key)
        accounts = [self.world.key(f"account of {member.public.hex()}") for member in members]
        authorities.write_set(self.world.context, list(zip([member.public for member in members], accounts, strict=True)))

    def announce(self, members=None, epoch=None):
        """A block with the keys of these members for the next epoch's commits."""
        epoch = self.world.epoch(1) + 1 if epoch is None else epoch
        said = [Announcement.sign(member, self.world.genesis_hash, 1, epoch) for member in members or self.members]
        self.world.next_block(inherents=[(TIMELOCK_KEY, one.encode()) for one in said])

    def ready(self, **how):
        """The epoch whose commits can be sealed has just begun; returns its number."""
        self.announce(**how)
        self.world.to_next_epoch(1)
        return self.world.epoch(1)

    def lock(self, epoch=None):
        return timelock.lock(self.world.state, 1, self.world.epoch(1) if epoch is None else epoch)

    def sealed(self, row=ROW, index=0, *, hidden=None, **how):
        """Arguments of a sealed commit; `hidden`: the row that is sealed, if it is another one."""
        world, epoch, keys = self.world, self.world.epoch(1), self.lock()
        said = weights_commitment(
            world.genesis_hash, world.key(f"validator {index} hot"), 1, epoch, [u for u, _ in row], [v for _, v in row], 0, SALT
        )
        shown = hidden or row
        payload = Payload([u for u, _ in shown], [v for _, v in shown], 0, SALT)
        made = seal(payload, how.get("publics", keys.publics), keys.threshold)
        return [1, epoch, said, made.body, made.shares]

    def commit(self, row=ROW, index=0, args=None, **how):
        args = self.sealed(row, index, **how) if args is None else args
        return self.world.refused("weights.commit_timelocked", self.world.key(f"validator {index} hot"), *args)

    def releases(self, epoch, members=None):
        keys = self.lock(epoch)
        said = [
            Release(1, epoch, keys.authorities.index(member.public), secret_of(self.world, member, epoch))
            for member in (members or self.members) if member.public in keys.authorities
        ]
        return [(TIMELOCK_SECRET, one.encode()) for one in said]

    def release(self, epoch, members=None):
        """A block with the secrets of these members."""
        self.world.next_block(inherents=self.releases(epoch, members))

    def reveal(self, row=ROW, index=0):
        args = [1, pack_u16([u for u, _ in row]), pack_u16([v for _, v in row]), SALT, 0]
        return self.world.refused("weights.reveal", self.world.key(f"validator {index} hot"), *args)

    def row(self, uid=0):
        return read_row(WEIGHTS, self.world.state, 1, uid)

    def commits(self, index=0):
        return weights.commits_of(self.world.state, 1, self.world.key(f"validator {index} hot"))


def secret_of(world, member, epoch):
    return sealing.secret_of(member.seed, world.genesis_hash, 1, epoch)


def refused(world, kind, payload):
    """The error with which an inherent would make the next block invalid; "" if it would not."""
    context = Context(State(world.state), replace(world.context.block, height=world.height + 1), world.genesis_hash)
    try:
        (timelock.accept_key if kind == TIMELOCK_KEY else timelock.accept_secret)(context, payload)
    except Rejected as refusal:
        return refusal.error_name
    return ""


@pytest.fixture
def four(market):
    return Market(market)


# --- the whole way -----------------------------------------------------------------------------------------------


# rule: TLK-1
@pytest.mark.parametrize("count", [1, 4, 7])
def test_sealed_weights_open_by_themselves_and_count(make_market, count):
    world = make_market()
    market = Market(world, count)
    epoch = market.ready()
    assert market.lock().threshold == 2 * count // 3 + 1
    world.next_block(2)
    committed_at = world.height
    assert market.commit() == "" and world.is_free("weights.commit_timelocked", world.key("validator 1 hot"), *market.sealed())
    assert world.named("WeightsCommitted")[0][:3] == [1, world.key("validator 0 hot"), epoch]
    world.to_next_epoch(1)
    assert market.row() == [] and market.commits() and world.named("WeightsForfeited") == []
    assert market.reveal() == "WeightsAreSealed"
    market.release(epoch)
    assert world.named("TimelockReleased")[0][:4] == [1, epoch, count, count]
    assert world.named("WeightsRevealed") == [[1, world.key("validator 0 hot"), epoch]]
    assert market.row() == ROW and market.commits() == []
    held = neurons.neuron(world.state, 1, 0)
    assert (held.weights_at, held.updated_at, held.active_at) == (committed_at, committed_at, world.height)
    assert timelock.progress(world.state, 1, epoch).opened == 1
    assert market.reveal() == "NoWeightsCommitFound"
    world.to_next_epoch(1)
    assert not any(world.row(1, epoch + 1).trace.forfeited) and world.row(1, epoch + 1).trace.raw_weights[0] == ROW
    for table in (timelock.SECRETS, weights.SEALS, timelock.DUE):
        assert list(table.items(world.state, 1)) == [], table.name


# rule: TLK-4
def test_any_t_secrets_open_the_same_and_fewer_make_it_a_reveal_by_hand(make_market):
    for size, of in ((3, MEMBERS[:4]), (2, MEMBERS[1:4])):
        for chosen in combinations(of, size):
            market = Market(make_market())
            epoch, world = market.ready(), market.world
            assert market.commit() == ""
            world.to_next_epoch(1)
            market.release(epoch, chosen)
            assert market.row() == [] and market.reveal() == "WeightsAreSealed"  # one may still come
            world.next_block(release_blocks(12, 4) - 1)
            assert market.row() == []
            world.next_block()
            if size == 3:
                assert market.row() == ROW and world.named("TimelockReleased")[0][2:4] == [3, 4]
            else:
                assert world.named("TimelockFailed") == [[1, epoch, 2, 3]]
                assert market.row() == [] and list(weights.SEALS.items(world.state, 1)) == []
                assert market.reveal([(2, 1)]) == "InvalidRevealCommitHashNotMatch"
                assert market.reveal() == "" and market.row() == ROW
            world.to_next_epoch(1)
            assert not any(world.row(1, epoch + 1).trace.forfeited)


# rule: TLK-4
def test_nobody_reveals_by_hand_after_too_few_secrets_and_forfeits(four):
    epoch = four.ready()
    assert four.commit() == ""
    four.world.to_next_epoch(1)
    four.release(epoch, MEMBERS[:2])
    four.world.to_next_epoch(1)
    assert four.world.named("WeightsForfeited") == [[1, 0, epoch]]


# rule: TLK-3
def test_the_t_lowest_positions_open_and_a_crooked_sharing_forfeits(four):
    """Shares that fit one another only among some authorities are no option: who released first does not count."""
    epoch, world = four.ready(), four.world
    good, other = four.sealed(), four.sealed([(2, 1)])
    mixed = good[4][: 3 * 80] + other[4][3 * 80 :]  # the fourth share is another key's
    assert four.commit(args=[*good[:4], mixed]) == ""
    mixed = other[4][:80] + good[4][80:]  # the first one is
    good = four.sealed(index=1)
    assert four.commit(index=1, args=[*good[:4], mixed]) == ""
    world.to_next_epoch(1)
    four.release(epoch, [MEMBERS[3], MEMBERS[2]])
    four.release(epoch, [MEMBERS[1], MEMBERS[0]])
    assert four.row(0) == ROW and four.row(1) == []
    assert world.named("TimelockedWeightsRevealFailed") == [[1, world.key("validator 1 hot"), epoch, "SealedWeightsMalformed"]]
    assert four.reveal(index=1) == "SealedWeightsMalformed"
    world.to_next_epoch(1)
    assert world.named("WeightsForfeited") == [[1, 1, epoch]]
    trace = world.row(1, epoch + 1).trace
    assert trace.forfeited[:2] == [False, True] and trace.active_stake_rao[1] > 0, "its stake still counts"


@pytest.mark.parametrize("what", ["another row", "copied", "uneven", "too many", "no permit any more", "unknown uid"])
def test_what_opens_to_no_row_that_counts_forfeits(four, what):
    epoch, world = four.ready(), four.world
    if what == "copied":
        assert four.commit() == ""
        assert four.commit(index=1, args=four.sealed()) == ""  # validator 0's commitment, sealed row and all
        failed, error = 1, "InvalidRevealCommitHashNotMatch"
    else:
        row, hidden, error = {
            "another row": (ROW, [(2, 1)], "InvalidRevealCommitHashNotMatch"),
            "uneven": (ROW, None, "WeightVecNotEqualSize"),
            "too many": ([(2, 1)] * 6, None, "UidsLengthExceedUidsInSubNet"),
            "no permit any more": (ROW, None, "NeuronNoValidatorPermit"),
            "unknown uid": ([(9, 1)], None, "UidVecContainInvalidOne"),
        }[what]
        args, failed = four.sealed(row, hidden=hidden), 0
        if what == "uneven":
            made = seal(Payload([2, 3], [1], 0, SALT), four.lock().publics, 3)
            args[3:] = [made.body, made.shares]
        assert four.commit(args=args) == ""
    world.to_next_epoch(1)
    if what == "no permit any more":
        scores = neurons.scores(world.state, 1)
        neurons.SCORES.put(world.state, 1, value=neurons.replace(scores, permit=bytes(len(scores.permit))))
    four.release(epoch)
    assert [event[1:] for event in world.named("TimelockedWeightsRevealFailed")] == [
        [world.key(f"validator {failed} hot"), epoch, error]
    ]
    assert four.row(failed) == [] and four.row(0) == (ROW if what == "copied" else [])
    world.to_next_epoch(1)
    assert world.named("WeightsForfeited") == [[1, failed, epoch]]


def test_only_the_last_commit_of_an_epoch_is_opened_sealed_or_not(four):
    epoch, world = four.ready(), four.world
    for row in ([(4, 1)], ROW):
        assert four.commit(row) == ""
        world.next_block()
    assert four.commit([(3, 9)], index=1) == ""
    world.next_block()
    plain = weights_commitment(world.genesis_hash, world.key("validator 1 hot"), 1, epoch, [3], [5], 0, SALT)
    assert world.refused("weights.commit", world.key("validator 1 hot"), 1, plain) == ""
    assert len(list(weights.SEALS.items(world.state, 1))) == 1
    world.to_next_epoch(1)
    four.release(epoch)
    assert four.row(0) == ROW and four.row(1) == []
    assert four.reveal([(3, 5)], index=1) == ""


# --- lists of keys -----------------------------------------------------------------------------------------------


def test_without_a_quorum_of_keys_nothing_can_be_sealed(four):
    four.ready(members=MEMBERS[:2])
    assert four.lock() is None and list(timelock.KEYS.items(four.world.state, 1)) == []
    args = [1, four.world.epoch(1), bytes(32), b"", b""]
    assert four.commit(args=args) == "TimelockNotReady"
    four.ready(members=MEMBERS[:3])
    assert four.lock().authorities == [member.public for member in MEMBERS[:3]] and four.lock().threshold == 3


def test_a_changed_set_neither_loses_keys_nor_counts_strangers(four):
    """One key was announced by a member that left before the list was fixed; another leaves after it and still releases."""
    four.announce()
    four.set_members([MEMBERS[1], MEMBERS[2], MEMBERS[3], MEMBERS[4]])
    world = four.world
    world.to_next_epoch(1)
    epoch = world.epoch(1)
    assert four.lock().authorities == [member.public for member in MEMBERS[1:4]]
    assert four.commit() == ""
    four.set_members([MEMBERS[4], MEMBERS[5], MEMBERS[6], MEMBERS[2]])
    world.to_next_epoch(1)
    four.release(epoch, MEMBERS[1:4])
    assert four.row() == ROW


# rule: TLK-2
def test_what_keys_are_refused(four):
    world, good = four.world, Announcement.sign(MEMBERS[0], four.world.genesis_hash, 1, 1)
    kind = TIMELOCK_KEY
    assert refused(world, kind, good.encode()) == ""
    for bad in (
        Announcement.sign(MEMBERS[6], world.genesis_hash, 1, 1),  # not in the set
        Announcement.sign(MEMBERS[0], world.genesis_hash, 1, 0), Announcement.sign(MEMBERS[0], world.genesis_hash, 1, 2),
        Announcement.sign(MEMBERS[0], world.genesis_hash, 0, 1), Announcement.sign(MEMBERS[0], world.genesis_hash, 9, 1),
        Announcement.sign(MEMBERS[0], bytes(32), 1, 1),  # for another chain
        Announcement(1, 1, MEMBERS[1].public, good.public, good.signature),
    ):
        assert refused(world, kind, bad.encode()) == "InvalidTimelockKey", bad
    low = Announcement(1, 1, MEMBERS[0].public, bytes(32))
    low = Announcement(1, 1, low.authority, low.public, MEMBERS[0].sign("timekey", world.genesis_hash, low.body))
    assert refused(world, kind, low.encode()) == refused(world, kind, b"junk") == "InvalidTimelockKey"
    four.announce([MEMBERS[0]])
    assert refused(world, kind, good.encode()) == "InvalidTimelockKey"  # known
    world.set("timelock_on", False, 1)
    assert refused(world, kind, Announcement.sign(MEMBERS[1], world.genesis_hash, 1, 1).encode()) == "InvalidTimelockKey"


# rule: TLK-2
def test_what_secrets_are_refused(four):
    epoch, world, kind = four.ready(), four.world, TIMELOCK_SECRET
    (_, good), *_ = four.releases(epoch)
    assert refused(world, kind, good) == "InvalidTimelockSecret"  # its commits are still being made
    assert timelock.is_secret_of(world.state, Release.decode(good))
    four.announce()
    world.to_next_epoch(1)
    assert refused(world, kind, good) == ""
    secret = secret_of(world, MEMBERS[0], epoch)
    for bad in (
        Release(1, epoch, 1, secret), Release(1, epoch, 4, secret), Release(1, epoch, 0, bytes([secret[0] | 1]) + secret[1:]),
        Release(1, epoch + 1, 0, secret_of(world, MEMBERS[0], epoch + 1)), Release(2, epoch, 0, secret),
    ):
        assert refused(world, kind, bad.encode()) == "InvalidTimelockSecret", bad
    assert refused(world, kind, b"junk") == "InvalidTimelockSecret"
    four.release(epoch, [MEMBERS[0]])
    assert refused(world, kind, good) == "InvalidTimelockSecret"
    (_, late) = four.releases(epoch, [MEMBERS[1]])[0]
    world.next_block(release_blocks(12, 4) - 1)
    assert refused(world, kind, late) == "InvalidTimelockSecret"


# rule: TLK-1
def test_what_sealed_commits_are_refused(four):
    world = four.world
    world.next_block()
    assert four.commit(args=[1, 0, bytes(32), b"", b""]) == "TimelockNotReady"
    four.ready()
    good = four.sealed()
    for args, error in (
        ([0, *good[1:]], "CanNotSetRootNetworkWeights"), ([7, *good[1:]], "SubnetNotExists"),
        ([1, good[1] - 1, *good[2:]], "SealedForOtherEpoch"), ([*good[:4], good[4][:-80]], "InvalidSealedWeights"),
        ([*good[:4], b""], "InvalidSealedWeights"), ([*good[:3], bytes(200), good[4]], "InvalidSealedWeights"),
        ([*good[:3], bytes(sealing.MAX_BODY_BYTES + 1), good[4]], "BadArguments"),
    ):
        assert four.commit(args=args) == error
    assert world.refused("weights.commit_timelocked", world.key("miner 0 hot"), *good) == "NeuronNoValidatorPermit"
    assert world.refused("weights.commit_timelocked", world.key("stranger"), *good) == "HotKeyNotRegisteredInSubNet"
    world.set("timelock_on", False, 1)
    assert four.commit(args=good) == "TimelockOff"
    world.set("timelock_on", True, 1)
    assert world.precheck("weights.commit_timelocked", world.key("validator 0 hot"), *good) == ""
    assert four.commit(args=good) == "" and four.commit(args=good) == "CommittingWeightsTooFast"
    world.set("commit_reveal_enabled", False, 1)
    assert four.commit(args=good, index=1) == "CommitRevealDisabled"


# --- parameters, keys and neurons that change on the way ---------------------------------------------------------


def test_a_longer_reveal_period_makes_sealed_commits_ones_by_hand(four):
    epoch, world = four.ready(), four.world
    assert four.commit() == ""
    world.set("immunity_period", 100, 1)
    world.set("reveal_period_epochs", 2, 1)
    assert four.lock() is None and list(weights.SEALS.items(world.state, 1)) == []
    world.to_next_epoch(1)
    world.to_next_epoch(1)
    assert world.epoch(1) == epoch + 2 and four.reveal() == ""


def test_two_epochs_between_commit_and_reveal(four):
    world = four.world
    world.set("immunity_period", 100, 1)
    world.set("reveal_period_epochs", 2, 1)
    first = four.ready()
    assert four.commit() == ""
    four.announce()
    world.to_next_epoch(1)
    assert four.commit([(4, 1)]) == "" and timelock.secrets_to_release(world.state, world.height + 1) == []
    world.to_next_epoch(1)
    four.release(first)
    assert four.row() == ROW
    world.to_next_epoch(1)
    assert four.lock(first) is None
    four.release(first + 1)
    assert four.row() == [(4, 65535)] and four.commits() == []


def test_a_neuron_that_leaves_takes_its_seal_along(four):
    world, hot = four.world, four.world.key("validator 0 hot")
    epoch = four.ready()
    assert four.commit() == ""
    world.call("neurons.unregister", world.key("validator 0"), 1, hot)
    assert list(weights.SEALS.items(world.state, 1)) == []
    world.to_next_epoch(1)
    four.release(epoch)
    assert timelock.progress(world.state, 1, epoch) == timelock.Progress(timelock.OPENED, 1)


def test_a_swapped_hotkey_forfeits_as_by_hand(four):
    world, epoch = four.world, four.ready()
    assert four.commit() == ""
    weights.move_commits(world.context, 1, world.key("validator 0 hot"), world.key("validator 1 hot"))
    world.to_next_epoch(1)
    four.release(epoch)
    assert four.row() == [] and timelock.progress(world.state, 1, epoch).malformed == 1
    world.to_next_epoch(1)
    assert world.named("WeightsForfeited") == [[1, 1, epoch]]


def test_the_tempo_leaves_room_for_both_windows(four):
    """f + 1 blocks for secrets and f + 2 after the failure is known, with distinct leaders each."""
    for count in range(1, 101):
        faulty = max_faulty(count)
        for tempo in range(2 * (faulty + 2) + 1, 400):
            blocks = release_blocks(tempo, count)
            assert blocks >= faulty + 1 and tempo - blocks - 2 >= faulty + 2
    four.world.set("tempo", 7, 1)
    assert params.conflicts(four.world.state, 1) == []
    with pytest.raises(Rejected, match="at least 7"):
        four.world.set("tempo", 6, 1)
    four.world.set("timelock_on", False, 1)
    four.world.set("tempo", 6, 1)


def test_opening_is_spread_over_blocks_and_ends_before_the_epoch(four, monkeypatch):
    world = four.world
    epoch = four.ready()
    assert four.commit() == four.commit(index=1) == ""
    world.to_next_epoch(1)
    monkeypatch.setattr(timelock, "MAX_BOXES_PER_BLOCK", 1)
    four.release(epoch)
    assert (four.row(0), four.row(1)) == (ROW, [])
    world.next_block()
    assert four.row(1) == ROW and timelock.progress(world.state, 1, epoch).opened == 2


def test_secrets_of_a_shortened_epoch_open_in_its_last_block(four):
    world = four.world
    epoch = four.ready()
    assert four.commit() == ""
    world.to_next_epoch(1)
    four.release(epoch, MEMBERS[:3])
    world.set("tempo", 7, 1)
    world.to_next_epoch(1)
    assert world.row(1, epoch + 1).trace.raw_weights[0] == ROW


# --- the beacon --------------------------------------------------------------------------------------------------


# rule: TLK-5
def test_the_beacon_hashes_the_released_secrets_and_chains(four):
    world, parts = four.world, (1).to_bytes(2, "little")
    epoch = four.ready()
    first = timelock.beacon(world.state, 1, epoch)
    assert first.released == 0, "the first epoch had no secrets: the hash of a certificate stands for them"
    assert first.value == digest(
        "beacon", world.genesis_hash, parts, epoch.to_bytes(4, "little"), bytes(32), world.context.block.beacon
    )
    world.to_next_epoch(1)
    assert timelock.beacon(world.state, 1, epoch + 2) is None
    four.release(epoch, MEMBERS[:3])
    assert timelock.beacon(world.state, 1, epoch + 2) is None
    world.next_block(release_blocks(12, 4))
    second = timelock.beacon(world.state, 1, epoch + 2)
    secrets = [secret_of(world, member, epoch) for member in MEMBERS[:3]]
    before = timelock.beacon(world.state, 1, epoch + 1).value
    assert second == timelock.Beacon(
        digest("beacon", world.genesis_hash, parts, (epoch + 2).to_bytes(4, "little"), before, *secrets), 3
    )
    world.to_next_epoch(1)
    assert timelock.beacon(world.state, 1, epoch + 2) == second


def test_beacons_and_lists_are_forgotten(four, monkeypatch):
    monkeypatch.setattr(timelock, "BEACONS_KEPT", 3)
    for _ in range(6):
        four.ready()
    assert [epoch for (_, epoch), _ in timelock.BEACONS.items(four.world.state, 1)] == [4, 5, 6]
    assert len(list(timelock.LOCKS.items(four.world.state, 1))) == 2


def test_where_it_is_off_nothing_is_written(market):
    market.next_block(25)
    for table in (timelock.KEYS, timelock.LOCKS, timelock.PROGRESS, timelock.SECRETS, timelock.DUE, timelock.BEACONS):
        assert list(table.items(market.state)) == [], table.name


def test_what_an_authority_has_to_do(four):
    world, public = four.world, MEMBERS[0].public
    assert timelock.keys_to_announce(world.state, public) == [(1, 1)]
    assert timelock.keys_to_announce(world.state, MEMBERS[6].public) == []
    epoch = four.ready()
    assert timelock.keys_to_announce(world.state, public) == [(1, epoch + 1)]
    world.to_next_epoch(1)
    listed = timelock.secrets_to_release(world.state, world.height + 1)
    assert [entry[:3] for entry in listed] == [(1, epoch, position) for position in range(4)]
    four.release(epoch, MEMBERS[1:3])
    assert [entry[2] for entry in timelock.secrets_to_release(world.state, world.height + 1)] == [0, 3]


# --- reads -------------------------------------------------------------------------------------------------------


def test_what_can_be_read_of_it(four):
    world = four.world
    view = timelock_of(world.state, 1)
    assert view.on and (view.announced, view.keys, view.opening, view.beacon) == (0, None, None, None)
    epoch = four.ready()
    four.announce(MEMBERS[:2])
    assert four.commit() == "" and four.commit(index=1, args=[*four.sealed(index=1)[:3], b"", four.sealed(index=1)[4]]) == ""
    view = timelock_of(world.state, 1)
    assert (view.announced, view.sealed, view.keys.threshold, len(view.keys.publics)) == (2, 2, 3, 4)
    assert view.beacon == beacon(world.state, 1, epoch) and view.next_beacon is None
    assert [commit.state for commit in reads.commits(world.state, 1)] == ["sealed", "sealed"]
    world.to_next_epoch(1)
    four.release(epoch, MEMBERS[:2])
    view = timelock_of(world.state, 1).opening
    assert (view.stage, view.released, view.keys, view.waiting, view.until_height) == (
        "waiting", 2, 4, 2, timelock.last_release(world.state, 1)
    )
    four.release(epoch, MEMBERS[2:4])
    view = timelock_of(world.state, 1)
    assert (view.opening.stage, view.opening.opened, view.opening.malformed, view.opening.waiting) == ("opened", 1, 1, 0)
    assert view.next_beacon.released == 4 and beacon(world.state, 1, 99) is None
    assert [commit.state for commit in reads.commits(world.state, 1)] == ["malformed"]
    with pytest.raises(NotFound):
        timelock_of(world.state, 9)


def test_what_others_may_know_a_block_before(four):
    """A peer that has seen the next epoch begin says what is not wanted here yet: it is worth remembering, and no more."""
    world, member = four.world, MEMBERS[0]
    said = [Announcement.sign(member, world.genesis_hash, 1, epoch) for epoch in range(4)]
    assert [timelock.may_announce(world.state, one) for one in said] == [False, True, True, False]
    four.announce()
    assert [timelock.may_announce(world.state, one) for one in said] == [False, False, True, False]
    assert not timelock.may_announce(world.state, Announcement.sign(MEMBERS[6], world.genesis_hash, 1, 1))
    assert not timelock.may_announce(world.state, Announcement.sign(member, world.genesis_hash, 9, 1))
    world.to_next_epoch(1)
    epoch = world.epoch(1)
    one = Release(1, epoch, 0, secret_of(world, member, epoch))
    assert timelock.may_release(world.state, one)
    assert not timelock.may_release(world.state, Release(1, epoch, 1, one.secret))
    assert not timelock.may_release(world.state, Release(1, epoch + 1, 0, secret_of(world, member, epoch + 1)))
    world.to_next_epoch(1)
    four.release(epoch, [member])
    assert not timelock.may_release(world.state, one)
