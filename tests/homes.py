"""Homes of nodes with real blocks in them, and what tests of `quorix db` do with them."""

from click.testing import CliRunner

from genesis.cast import cast
from ledger.signer import SignRecord
from ledger.store import LevelStore
from ledger.votes import PRECOMMIT, Certificate, Vote, vote_body
from tools.cli.main import cli
from tools.node.config import load_config
from tools.node.home import Specification, make_home, open_databases


def quiet(*_):
    """Nobody watches."""


def key_of(index=0):
    return [member.session for member in cast(1, 1) if member.session is not None][index]


def new_home(path, spec_text, *, authority=True, history="full"):
    path.mkdir()
    (path / "spec.toml").write_text(spec_text)
    specification = Specification.load(path / "spec.toml")
    make_home(path, specification, session_key=key_of() if authority else None, history=history)
    return path


def grow(home, blocks, *, step_ms=1000, **flags):
    """Blocks as the node's own authority makes them, with its sign database."""
    opened = open_databases(load_config(home, flags, {}), Specification.load(home / "spec.toml"))
    chain, key = opened.chain, opened.session_key
    for _ in range(blocks):
        executed = chain.build(timestamp_ms=chain.head.timestamp_ms + step_ms, round_=0)
        block = executed.block
        body = vote_body(block.height, 0, block.hash)
        signature = key.sign("precommit", chain.domain_at(block.height), body)
        vote = Vote(PRECOMMIT, block.height, 0, block.hash, 0, signature)
        opened.signer.persist(SignRecord(block.height, 0, 2, (0, 2, block.hash)), ())
        chain.commit(executed, Certificate.build({0: vote}, 1))
    head = chain.head
    opened.close()
    return head


def rows_of(home, name="chain"):
    store = LevelStore.open(home / name)
    found = dict(store.items(b""))
    store.close()
    return found


def change(home, rows):
    store = LevelStore.open(home / "chain")
    store.write(rows, sync=True)
    store.close()


def invoke(*arguments):
    return CliRunner().invoke(cli, ["db", *map(str, arguments)], catch_exceptions=True)
