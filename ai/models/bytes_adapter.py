"""Any tokenizer's model as a model of bytes: next-byte distributions by a prefix trie over the vocabulary.

A model of tokens says how likely each token is after those before. A text of bytes can be cut into tokens in many ways,
and the next byte may lie inside a token that begins before the end of the text. What is wanted is the sum over all ways:

    P(next byte = b | text) ~ sum over covers of text + b of P(cover),     a cover: tokens whose bytes begin with text + b,
                                                                        the last of them ending beyond the text

A cover is a cut of the text up to some place into tokens, and one more token that begins with the rest of the text and is
longer. The trie gives, for a rest, the mass of all such tokens by their next byte in one pass. Cuts are followed from a
boundary of the tokenizer's own cut that lies `lookback` bytes back; those that are a thousand times less likely than it
are dropped. Without these two bounds the sum is exact (a test compares it with brute force).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHABET: Final = 256
LOOKBACK_BYTES: Final = 16
LEAST_SHARE: Final = 1e-3  # of the tokenizer's own cut: less likely ones are dropped
MAX_CUTS: Final = 32  # other cuts that are followed for one window
MAX_NODES: Final = 1 << 14  # of the trie, whose children are remembered


class TokenModel(Protocol):
    """What the adapter needs of a model of tokens. `vocabulary[id]`: its bytes, None where it stands for no text."""

    @property
    def vocabulary(self) -> Sequence[bytes | None]:
        """By token id."""
        ...

    def encode(self, text: bytes) -> list[int]:
        """The tokenizer's own cut; where it cannot stand for exactly these bytes, anything else."""
        ...

    def after(self, texts: Sequence[Sequence[int]], places: Sequence[int]) -> list[Any]:
        """For each text of tokens, probabilities (places, len(vocabulary)) after its last `places` prefixes, itself last."""
        ...


@dataclass(frozen=True)
class Node:
    """A prefix in the trie: the tokens from `low` to `high` in the order of their bytes begin with its `depth` bytes.

    The first `whole` of them are the prefix itself. `nexts` (k,): which bytes follow; `bounds` (k + 1,): where each begins.
    """

    low: int
    high: int
    depth: int
    whole: int
    nexts: NDArray[np.intp]
    bounds: NDArray[np.intp]


class PrefixTrie:
    """The vocabulary in the order of its bytes: every prefix is a range of it."""

    def __init__(self, vocabulary: Sequence[bytes | None]) -> None:
        """Raises ValueError where no token stands for text."""
        ids = sorted((token, i) for i, token in enumerate(vocabulary) if token)
        if not ids:
            raise ValueError("no token stands for text")
        self._tokens = [token for token, _ in ids]
        self.order = np.array([i for _, i in ids])
        self.longest = max(map(len, self._tokens))
        self._nodes: dict[tuple[int, int, int], Node] = {}
        self.root = self._node(0, len(ids), 0)

    def child(self, node: Node, byte: int) -> Node | None:
        """The prefix with one more byte, None where no token has it."""
        at = int(np.searchsorted(node.nexts, byte))
        if at == len(node.nexts) or node.nexts[at] != byte:
            return None
        return self._node(int(node.bounds[at]), int(node.bounds[at + 1]), node.depth + 1)

    def tokens(self, node: Node) -> list[int]:
        """Ids of the tokens that are exactly this prefix."""
        return [int(i) for i in self.order[node.low : node.low + node.whole]]

    def cumulated(self, probabilities: Any) -> Floats:
        """(tokens + 1,): sums of the probabilities of the first tokens in the trie's order; for `masses`."""
        sums = np.zeros(len(self.order) + 1)
        np.cumsum(np.asarray(probabilities, dtype=np.float64)[self.order], out=sums[1:])
        return sums

    def masses(self, node: Node, cumulated: Floats) -> Floats:
        """(256,): how likely a token is that begins with the prefix, by the byte after it."""
        out = np.zeros(ALPHABET)
        out[node.nexts] = np.diff(cumulated[node.bounds])
        return out

    def greedy(self, text: bytes) -> tuple[list[int], int]:
        """(ids, start): the longest token at each place, for the text from `start` on: before it no token fits a byte."""
        ids: list[int] = []
        start = at = 0
        while at < len(text):
            node: Node | None = self.root
            best: tuple[int, int] | None = None
            for end in range(at, min(len(text), at + self.longest)):
                node = self.child(node, text[end]) if node is not None else None
                if node is None:
                    break
                if node.whole:
                    best = (int(self.order[node.low]), end + 1)
            if best is None:
                ids, at = [], at + 1
                start = at
            else:
                ids.append(best[0])
                at = best[1]
        return ids, start

    def _node(self, low: int, high: int, depth: int) -> Node:
        key = (low, high, depth)
        found = self._nodes.get(key)
        if found is None:
            whole = 0
            while low + whole < high and len(self._tokens[low + whole]) == depth:
                whole += 1
            nexts, bounds, at = [], [], low + whole
            while at < high:
                token = self._tokens[at]
                nexts.append(token[depth])
                bounds.append(at)
                after = token[:depth] + bytes([token[depth] + 1]) if token[depth] < ALPHABET - 1 else None
                at = bisect_left(self._tokens, after, at, high) if after is not None else high
            found = Node(low, high, depth, whole, np.array(nexts, dtype=np.intp), np.array([*bounds, high], dtype=np.intp))
            if len(self._nodes) < MAX_NODES:
                self._nodes[key] = found
        return found


Tokens = tuple[int, ...]
Search = Generator[list[Tokens], list[Any], Floats]


class ByteAdapter:
    """Next-byte distributions of a model of tokens."""

    def __init__(
        self, model: TokenModel, start: Sequence[int] = (), *, lookback_bytes: int = LOOKBACK_BYTES,
        least_share: float = LEAST_SHARE, max_cuts: int = MAX_CUTS,
    ) -> None:  # fmt: skip
        """`start`: tokens before every text, at least one where the model needs something to go on."""
        self.model, self.start = model, tuple(start)
        self.trie = PrefixTrie(model.vocabulary)
        self._lookback = lookback_bytes if self.trie.longest > 1 else 0  # single bytes can be cut in one way only
        self._least_share, self._max_cuts = least_share, max_cuts

    def next_bytes(self, windows: Sequence[bytes]) -> Floats:
        """(len(windows), 256) probabilities of the byte after each window."""
        searches = [self._search(window) for window in windows]
        wanted: list[list[Tokens]] = []
        out = np.zeros((len(windows), ALPHABET))
        own = [self.cut(window) for window in windows]
        places = [len(tokens) - anchor + 1 for tokens, anchor, _ in own]
        rows = self.model.after([self.start + tuple(tokens) for tokens, _, _ in own], places)
        for i, search in enumerate(searches):
            next(search)
            wanted.append(_send(search, list(rows[i]), out, i))
        while any(wanted):
            asked = [(i, tokens) for i, part in enumerate(wanted) for tokens in part]
            rows = self.model.after([self.start + tokens for _, tokens in asked], [1] * len(asked))
            answers: dict[int, list[Any]] = {}
            for (i, _), row in zip(asked, rows, strict=True):
                answers.setdefault(i, []).append(row[0])
            wanted = [_send(searches[i], answers[i], out, i) if part else [] for i, part in enumerate(wanted)]
        return out

    def cut(self, window: bytes) -> tuple[list[int], int, int]:
        """(tokens, anchor, start): the tokenizer's cut of window[start:], and how many tokens end `lookback` bytes back."""
        tokens, start = self.model.encode(window), 0
        if b"".join(self.model.vocabulary[token] or b"\0\0" for token in tokens) != window:
            tokens, start = self.trie.greedy(window)
        anchor, left = len(tokens), 0
        while anchor and left < self._lookback:
            anchor -= 1
            left += len(self.model.vocabulary[tokens[anchor]] or b"")
        return tokens, anchor, start

    def _search(self, window: bytes) -> Search:
        """Yields texts of tokens to be continued, takes their rows; returns the distribution.

        The first yield asks for nothing and takes the rows along the tokenizer's own cut, from the anchor to the end.
        """
        tokens, anchor, start = self.cut(window)
        given = yield []
        text, vocabulary = window[start:], self.model.vocabulary
        begun = sum(len(vocabulary[token] or b"") for token in tokens[:anchor])
        known = {tuple(tokens[: anchor + i]): row for i, row in enumerate(given)}
        usual = _usual(tokens, anchor, begun, known, vocabulary)
        pending: dict[int, dict[Tokens, float]] = {begun: {tuple(tokens[:anchor]): 1.0}}
        total, followed = np.zeros(ALPHABET), 0
        for at in range(begun, len(text) + 1):
            states = {t: w for t, w in pending.pop(at, {}).items() if w >= self._least_share * usual[at - begun]}
            new = sorted((t for t in states if t not in known), key=lambda t: -states[t])[: self._max_cuts - followed]
            if new:
                followed += len(new)
                known.update(zip(new, (yield new), strict=True))
            for state in (t for t in states if t in known):
                self._follow(state, states[state], known.pop(state), text, at, pending, total)
        mass = total.sum()
        return total / mass if mass > 0 and np.isfinite(mass) else np.full(ALPHABET, 1.0 / ALPHABET)

    def _follow(
        self, state: Tokens, weight: float, row: Any, text: bytes, at: int, pending: dict[int, dict[Tokens, float]],
        total: Floats,
    ) -> None:  # fmt: skip
        """Add the covers that end with one more token, and the cuts that go on from here."""
        node: Node | None = self.trie.root
        for end in range(at, len(text)):
            node = self.trie.child(node, text[end]) if node is not None else None
            if node is None:
                return
            for token in self.trie.tokens(node):
                longer = pending.setdefault(end + 1, {})
                longer[(*state, token)] = weight * float(row[token])
        assert node is not None
        total += weight * self.trie.masses(node, self.trie.cumulated(row))


def _usual(
    tokens: list[int], anchor: int, begun: int, known: dict[Tokens, Any], vocabulary: Sequence[bytes | None]
) -> list[float]:
    """By place from the anchor on: how likely the tokenizer's own cut is up to its last boundary there."""
    weight, out = 1.0, [1.0]
    for index in range(anchor, len(tokens)):
        weight *= float(known[tuple(tokens[:index])][tokens[index]])
        length = len(vocabulary[tokens[index]] or b"")
        out += [out[-1]] * (length - 1) + [weight]
    return out


def _send(search: Search, rows: list[Any], out: Floats, place: int) -> list[Tokens]:
    """Go on with a search; what it wants next, nothing once its result is in `out`."""
    try:
        return search.send(rows)
    except StopIteration as done:
        out[place] = done.value
        return []
