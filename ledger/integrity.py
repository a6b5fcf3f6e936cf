"""Whether a stored chain is what was written: the fast check of every start, and the audit of the whole state.

At start: the newest headers link up to the head row, the head's certificate is there and (with known signing domains)
verifies, and a run of state values, another one at each head, agrees with the state tree. Raises Corruption.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain as chained
from itertools import islice
from typing import Final

from . import layout
from .errors import BUGS, Corruption, DecodeError, NotFound
from .machine import AuthoritySet, StateMachine
from .reading import ChainReader, Picture
from .rewinding import head_at
from .state_tree import leaf_hash, state_root
from .views import LayeredRows, StateView
from .votes import PRECOMMIT

CHECKED_LINKS: Final = 64  # newest headers followed at start
CHECKED_VALUES: Final = 256  # state values compared with the tree at start


def check_newest(chain: ChainReader, now: Picture, domain_at: Callable[[int], bytes] | None) -> None:
    """Raises Corruption if the newest headers, the head certificate or a sample of the state do not fit.

    The certificate's signatures are verified only where the signing domains are known.
    """
    head, params = now.head, chain.params
    if head.height == params.genesis_height:
        if head.hash != params.genesis_hash:
            raise Corruption("the head is not the genesis state")
    else:
        try:
            _check_links(chain, now)
            certificate = chain.certificate(head.height)
            keys = chain.authority_keys(head.height)
        except (DecodeError, NotFound) as error:
            raise Corruption(f"the newest blocks are incomplete: {error.cause}") from None
        if (certificate.kind, certificate.height, certificate.block_hash) != (PRECOMMIT, head.height, head.hash):
            raise Corruption("the stored certificate is not the head's")
        if domain_at is not None and not certificate.verify(keys, domain_at(head.height)):
            raise Corruption("the head's certificate does not verify")
    _check_values(now)


def _check_links(chain: ChainReader, now: Picture) -> None:
    head = now.head
    expected = head.hash
    for height in range(head.height, max(head.height - CHECKED_LINKS, chain.params.genesis_height), -1):
        header = chain.header(height)
        if header.hash != expected or header.height != height or chain.height_of(expected) != height:
            raise Corruption(f"block {height} is not the parent of the block above it")
        expected = header.parent_hash
    if head_at(chain, now, head.height) != head:
        raise Corruption("the head row and the head's header differ")


def _check_values(now: Picture) -> None:
    """Compare a run of state values, different at each head, with the tree; all of them if there are few."""
    rows, tree, start = now.rows, now.tree, now.head.hash
    after = layout.STATE + bytes((0, start[0] & 0x7F)) + start[1:]
    run = chained(rows.items(layout.STATE, after), rows.items(layout.STATE))
    for key, row in islice(run, CHECKED_VALUES):
        if tree.value_hash(key[1:]) != leaf_hash(layout.state_value(row)):
            raise Corruption("a state value differs from the state tree")


def audit_state(now: Picture) -> None:
    """Recompute the state root from every stored value; raises Corruption. Seconds for a large state."""
    values = {key[1:]: layout.state_value(row) for key, row in now.rows.items(layout.STATE)}
    if state_root(values) != now.head.state_root:
        raise Corruption("the stored state values do not have the head's state root")


def read_authorities(machine: StateMachine, rows: LayeredRows) -> AuthoritySet:
    """The set that certifies the block after the state in these rows. Raises Corruption."""
    try:
        return machine.authorities(StateView(rows))
    except BUGS as bug:
        raise Corruption(f"the authorities in the state cannot be read: {bug!r}") from bug
