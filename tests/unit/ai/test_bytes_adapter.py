"""Next-byte distributions of models of tokens, against the sum over all ways to cut a text."""

import itertools
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.models.bytes_adapter import ByteAdapter, PrefixTrie

VOCABULARY = [b"a", b"b", b"c", b"ab", b"abc", b"bc", b"ca", b"cab", None, b"aa", b"abca", b"b"]  # one twice, one without text


class Toy:
    """Probabilities of a token that depend on all tokens before."""

    def __init__(self, vocabulary=VOCABULARY, sharp=2.0):
        self.vocabulary, self.sharp, self.trie, self.asked = vocabulary, sharp, PrefixTrie(vocabulary), 0

    def encode(self, text):
        return self.trie.greedy(text)[0]

    def row(self, tokens):
        seed = int.from_bytes(blake2b(repr(tuple(tokens)).encode(), digest_size=4).digest(), "big")
        logits = self.sharp * np.random.default_rng(seed).standard_normal(len(self.vocabulary))
        return np.exp(logits) / np.exp(logits).sum()

    def after(self, texts, places):
        self.asked += len(texts)
        return [np.stack([self.row(t[: len(t) - k]) for k in range(p - 1, -1, -1)]) for t, p in zip(texts, places, strict=True)]


def brute_force(model, text):
    """Over all sequences of tokens that cover the text and end beyond it."""
    total = np.zeros(256)

    def extend(tokens, done, weight):
        row = model.row(tokens)
        for token, data in enumerate(model.vocabulary):
            if not data:
                continue
            rest = text[done:]
            if data.startswith(rest) and len(data) > len(rest):
                total[data[len(rest)]] += weight * row[token]
            elif rest.startswith(data):
                extend((*tokens, token), done + len(data), weight * row[token])

    extend((), 0, 1.0)
    return total / total.sum()


@given(st.text("abc", max_size=7))
@settings(max_examples=40, deadline=None)
def test_without_bounds_it_is_the_sum_over_all_covers(text):
    model = Toy()
    adapter = ByteAdapter(model, lookback_bytes=99, least_share=0.0, max_cuts=10**6)
    (row,) = adapter.next_bytes([text.encode()])
    assert np.allclose(row, brute_force(model, text.encode()), atol=1e-12)


class Local(Toy):
    """Depends on the last two tokens."""

    def row(self, tokens):
        return super().row(tokens[-2:])


def test_unlikely_cuts_cost_little_to_drop_and_the_rest_is_bounded():
    bounded, free, capped = Local(), Local(), Local()
    texts = ["".join(t).encode() for t in itertools.islice(itertools.product("abc", repeat=10), 0, 59049, 2997)]
    near = ByteAdapter(bounded, max_cuts=10**6).next_bytes(texts)
    far = ByteAdapter(free, least_share=0.0, max_cuts=10**6).next_bytes(texts)
    assert (np.abs(near - far).sum(axis=1) / 2).max() < 0.02 and bounded.asked < free.asked / 2
    ByteAdapter(capped, max_cuts=8).next_bytes(texts)
    assert capped.asked <= 9 * len(texts)


def test_many_windows_are_asked_together_and_get_what_they_get_alone():
    texts = [b"", b"a", b"abcab", b"cccc", b"abcabcabc"]
    together = ByteAdapter(Toy()).next_bytes(texts)
    for text, row in zip(texts, together, strict=True):
        assert np.allclose(ByteAdapter(Toy()).next_bytes([text])[0], row)


def test_single_bytes_need_one_row_a_window():
    model = Toy([bytes([b]) for b in range(256)])
    adapter = ByteAdapter(model)
    row = adapter.next_bytes([b"xyz"])[0]
    assert np.allclose(row, model.row((120, 121, 122))) and model.asked == 1


def test_bytes_that_no_token_has_are_skipped_with_what_is_before():
    model = Toy()
    adapter = ByteAdapter(model)
    assert np.allclose(adapter.next_bytes([b"ab\xffca"]), adapter.next_bytes([b"ca"]))
    assert np.allclose(adapter.next_bytes([b"ab\xff"]), adapter.next_bytes([b""]))
    assert adapter.next_bytes([b"abc"])[0][ord("z")] == 0


def test_a_model_that_says_nothing_is_even():
    class Nothing(Toy):
        def row(self, tokens):
            return np.zeros(len(self.vocabulary))

    assert np.allclose(ByteAdapter(Nothing()).next_bytes([b"ab"]), 1 / 256)
    with pytest.raises(ValueError, match="no token"):
        PrefixTrie([None, b""])


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=40), st.binary(max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_trie_sums_what_a_scan_sums(vocabulary, prefix):
    trie, probabilities = PrefixTrie(vocabulary), np.arange(1, len(vocabulary) + 1, dtype=float)
    node = trie.root
    for byte in prefix:
        node = trie.child(node, byte) if node is not None else None
    expected = np.zeros(256)
    for token, p in zip(vocabulary, probabilities, strict=True):
        if token.startswith(prefix) and len(token) > len(prefix):
            expected[token[len(prefix)]] += p
    if node is None:
        assert not any(token.startswith(prefix) for token in vocabulary)
    else:
        assert np.allclose(trie.masses(node, trie.cumulated(probabilities)), expected)
        assert sorted(trie.tokens(node)) == [i for i, token in enumerate(vocabulary) if token == prefix]
