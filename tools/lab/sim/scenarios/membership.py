"""Who is an authority: evidence, skipped leaders, heartbeats, and a set that is replaced because too many are lost."""

from __future__ import annotations

from typing import Any

from genesis.build import build_genesis
from genesis.spec import AccountSpec, AuthoritySpec, ChainSpec
from ledger.blocks import Extrinsic
from ledger.chain import Chain, ExecutedBlock
from ledger.errors import UsageError
from ledger.inherents import EVIDENCE, HEARTBEAT, Heartbeat
from ledger.recovery import Recovery
from ledger.store import MemoryStore
from ledger.votes import KIND_TAG, NIL, PRECOMMIT, PREVOTE, Certificate, Evidence, Vote, vote_body
from runtime.executor import Runtime
from runtime.modules import authorities, bonds, sessions
from runtime.registry import CALL_NUMBERS
from runtime.state import State

from ..clock import EPOCH_MS
from ..keys import HashKey
from ..stage import Stage
from . import scenario

SESSION_BLOCKS, WINDOW_SESSIONS = 5, 2
BOND_RAO = 10**12


def _key(role: int, index: int) -> HashKey:
    return HashKey.from_seed(bytes([role, index]) * 16)


class Book:
    """A chain of the real rules without nodes: authorities, short sessions, a short window of evidence."""

    def __init__(self, n: int = 4) -> None:
        self.keys = [_key(1, index) for index in range(n)]
        self.owners = [_key(2, index) for index in range(n + 1)]
        self.sudo = _key(3, 0)
        self.spare = _key(1, 99)  # a session key of nobody yet
        genesis = build_genesis(ChainSpec(
            name="book", authorities=tuple(
                AuthoritySpec(key.public, owner.public) for key, owner in zip(self.keys, self.owners, strict=False)
            ),
            accounts=tuple(AccountSpec(key.public, 10**15) for key in (*self.owners, self.sudo)), sudo=self.sudo.public,
            genesis_time_ms=EPOCH_MS, block_time_ms=250, session_blocks=SESSION_BLOCKS, devnet=True,
            globals={"authority_bond_rao": BOND_RAO, "evidence_window_sessions": WINDOW_SESSIONS},
        ))
        self.domain = genesis.genesis_hash
        self.chain = Chain.create(MemoryStore(), genesis.params, Runtime(genesis.genesis_hash), genesis.state)
        self._nonces: dict[bytes, int] = {}

    def leaders(self) -> tuple[int, ...]:
        """Positions of those that lead first."""
        return self.chain.authorities().active

    @property
    def state(self) -> State:
        return State(self.chain.view())

    def grow(
        self, *inherents: tuple[int, bytes], round_: int = 0, extrinsics: tuple[Extrinsic, ...] = (), silent: int | None = None
    ) -> ExecutedBlock:
        """One more block with those of the candidates that are valid; all but `silent` certify it."""
        known = {key.public: key for key in (*self.keys, self.spare)}
        executed = self.chain.build(
            timestamp_ms=self.chain.head.timestamp_ms + 250, round_=round_, inherents=inherents, extrinsics=extrinsics
        )
        assert not executed.refused, "a call of the scenario is not valid"
        block, set_ = executed.block, self.chain.authorities()
        body = vote_body(block.height, round_, block.hash)
        votes = {
            index: Vote(
                PRECOMMIT, block.height, round_, block.hash, index, known[key].sign(KIND_TAG[PRECOMMIT], self.domain, body)
            )
            for index, key in enumerate(set_.keys) if index != silent
        }
        self.chain.commit(executed, Certificate.build(votes, len(set_.keys)))
        return executed

    def until(self, height: int) -> None:
        """Empty blocks, so that the head has this height."""
        while self.chain.head.height < height:
            self.grow()

    def call(self, key: HashKey, name: str, *args: Any) -> Extrinsic:
        """A signed call."""
        nonce, head = self._nonces.get(key.public, 0), self.chain.head
        self._nonces[key.public] = nonce + 1
        return Extrinsic.sign(
            key, self.domain, head.hash, nonce=nonce, birth_height=head.height,  # type: ignore[arg-type]
            call_number=CALL_NUMBERS[name], args=list(args),
        )

    def takes(self, *inherents: tuple[int, bytes]) -> int:
        """How many of these the next block would hold."""
        block = self.chain.build(timestamp_ms=self.chain.head.timestamp_ms + 250, round_=0, inherents=inherents).block
        return len(block.body.inherent_list())

    def double_vote(self, key: HashKey, height: int, domain: bytes | None = None) -> tuple[int, bytes]:
        """Evidence of two prevotes in one place."""
        first, second = NIL, b"x" * 32
        one, two = (key.sign("prevote", domain or self.domain, vote_body(height, 0, value)) for value in (first, second))
        return EVIDENCE, Evidence(PREVOTE, key.public, height, 0, first, 0, one, second, 0, two).encode()

    def heartbeat(self, key: HashKey, versions: tuple[int, ...] = (1,)) -> tuple[int, bytes]:
        session = self.chain.params.session(self.chain.head.height + 1)
        beat = Heartbeat.sign(key, self.domain, session, self.chain.head.hash, "lab", versions)  # type: ignore[arg-type]
        return HEARTBEAT, beat.encode()

    def proof(self, owner: HashKey, key: HashKey) -> bytes:
        """That the owner has the session key."""
        return key.sign("pop", self.domain, sessions.possession_body(owner.public, key.public))


@scenario(27, "evidence after a set change")
def evidence_after_set_change() -> None:
    """A key that has left the set is convicted for a height at which it was in it: to the last block of the window, no later.

    Not under another domain, not for a height after it left, and not the key that came after it.
    """
    book = Book()
    old, owner = book.keys[3], book.owners[3]
    book.grow(extrinsics=(
        book.call(owner, "authorities.set_session_key", old.public, book.spare.public, book.proof(owner, book.spare)),
    ))
    height, window = 3, WINDOW_SESSIONS * SESSION_BLOCKS
    book.until(height + window - 2)
    assert old.public not in book.chain.authorities().keys and book.spare.public in book.chain.authorities().keys
    guilty = book.double_vote(old, height)
    assert book.takes(guilty) == 1
    for refused in (
        book.double_vote(old, height, b"d" * 32), book.double_vote(old, SESSION_BLOCKS + 1),
        book.double_vote(book.spare, height), book.double_vote(old, height - 2), book.double_vote(book.spare, height + window),
    ):
        assert book.takes(refused) <= int(refused == book.double_vote(old, height - 2)), refused
    book.grow()
    assert book.takes(guilty) == 1  # height 13 for evidence of height 3: the edge
    book.grow()
    assert book.chain.head.height == height + window and book.takes(guilty) == 0
    assert book.takes(book.double_vote(old, height + 1)) == 1
    book.grow(book.double_vote(old, height + 1))
    assert book.leaders() == (0, 1, 2) and book.takes(book.double_vote(old, height + 1)) == 0
    book.until(4 * SESSION_BLOCKS)
    assert book.spare.public not in book.chain.authorities().keys  # it inherited the conviction


@scenario(36, "heartbeats")
def heartbeats() -> None:
    """A leader that misses three turns is skipped, at most f at once; a heartbeat brings it back, once for each skip.

    A candidate may send one a session, a stranger none.
    """
    book = Book()
    book.grow(*(book.heartbeat(key) for key in book.keys))  # versions are told; no need for more
    assert book.takes(book.heartbeat(book.keys[0])) == 0

    def miss(index: int) -> None:
        """Let a leader miss one turn."""
        assert index in book.leaders()
        while book.leaders()[(book.chain.head.height + 1) % len(book.leaders())] != index:
            book.grow()
        book.grow(round_=1)

    for _ in range(3):
        miss(1)
    assert book.leaders() == (0, 2, 3)
    for _ in range(4):
        miss(2)
    assert book.leaders() == (0, 2, 3)  # f = 1: nobody else is skipped
    beat = book.heartbeat(book.keys[1])
    assert book.takes(beat, beat) == 1
    book.grow(beat)
    assert book.leaders() == (0, 1, 2, 3) and book.takes(book.heartbeat(book.keys[1])) == 0
    row = authorities.authority(book.state, book.keys[1].public)
    assert row is not None and (row.skips, row.missed, row.skipped) == (1, 0, False)

    while book.chain.head.height % SESSION_BLOCKS:
        book.grow()
    assert book.takes(book.heartbeat(book.keys[3])) == 0
    book.grow(silent=3)
    book.grow(silent=3)
    book.grow(book.heartbeat(book.keys[3]), silent=3)  # it signs less than half of what counts
    assert book.takes(book.heartbeat(book.keys[3])) == 0  # once a session

    stranger = book.heartbeat(book.spare)
    assert book.takes(stranger) == 0
    owner = book.owners[4]
    book.grow(extrinsics=(book.call(owner, "authorities.bond", bonds.least_rao(book.state)),))
    members: list[list[Any]] = [[key.public, who.public, None] for key, who in zip(book.keys, book.owners, strict=False)]
    members.append([book.spare.public, owner.public, book.proof(owner, book.spare)])
    book.grow(extrinsics=(book.call(book.sudo, "governance.sudo", [CALL_NUMBERS["authorities.propose_set"], [members]]),))
    beat = book.heartbeat(book.spare)
    assert book.takes(beat, beat) == 1
    book.grow(beat)
    assert book.takes(book.heartbeat(book.spare)) == int(book.chain.head.height % SESSION_BLOCKS == 0)


@scenario(10, "recovery file")
def recovery_file() -> None:
    """Two of four are lost for good: the chain stands still, until the file gives height 4 to p0 and p3 alone.

    A file that names another block is refused, and votes that the old set cast for height 4 count no more.
    """
    stage = Stage(sets={1: (range(4), range(4)), 5: ((0, 3), (0, 1))})
    stage.grow(3, 2_000)
    for index in (1, 2):
        stage.players[index].kill()
    stage.pass_ms(3_000)
    left = [stage.players[0], stage.players[3]]
    assert [player.chain.head.height for player in left] == [3, 3]
    hidden = stage.precommit(1, b"h" * 32, 0, 4)  # p1 may have decided something that nobody saw
    members = tuple((player.key.public, bytes([index]) * 32) for index, player in enumerate(left))
    wrong = Recovery(stage.params.genesis_hash, 3, b"w" * 32, members, "lost")
    right = Recovery(stage.params.genesis_hash, 3, stage.players[0].chain.head.hash, members, "lost")
    for player in left:
        player.kill()
    left[0].recoveries = {3: wrong}
    try:
        left[0].boot()
        raise AssertionError("a file that names another block was accepted")
    except UsageError:
        left[0].alive = False
    assert Recovery.parse(right.text().encode()) == right
    for player in left:
        player.recoveries = {3: right}
        player.boot()
    stage.puppets = frozenset([1])
    stage.show(1, [0, 3], hidden)
    stage.grow(6, 5_000, 0, 3)
    chain = left[0].chain
    assert chain.authority_keys(4) == right.keys and chain.hash_at(6) == left[1].chain.hash_at(6)
    certificate = chain.certificate(4)
    assert certificate.verify(right.keys, left[0].domain(4)) and not certificate.verify(right.keys, stage.params.genesis_hash)
    assert left[0].domain(3) == stage.params.genesis_hash != left[0].domain(4) == left[1].domain(4)
