"""A light client: decide offline, from the genesis alone, that a block is final and what its state holds.

    trust     the authority set of the genesis (it is in the chain's specification), by its hash
    finality  a header, a precommit certificate of it, and the keys that signed: the keys must hash to the trusted set
    sets      the last block of a session names the next set (`next_authorities_hash`); a final one extends the trust
    recovery  a file that the operators agreed on names another set after a final block (`recover`): trust it knowingly
    rewinds   a rewound devnet signs in other domains than its genesis names: whoever verifies is given their list
    state     the header commits to the state root; an inclusion or absence proof commits to keys under that root
    checkpoint  instead of the genesis: height and hash of a block that the user trusts, because an authority set that was
              replaced long ago could certify another past if its keys leaked

Nothing here asks anybody: all that is needed travels in `Finality`, `StateProof` and `StateProofs`. Refusals are
`Rejected` with a name that says which link is broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..blocks import Header
from ..errors import Rejected
from ..votes import MAX_AUTHORITIES, PRECOMMIT, Certificate, authorities_hash, next_domain
from .proofs import verify_state, verify_states
from .records import At, Finality, StateProof, StateProofs

Successors = tuple[bytes, Sequence[bytes], bytes]  # of a recovery file: hash of its block, session keys, hash of the file


class LightClient:
    """What is trusted: the chain's genesis hash, or the signing domains after rewinds, and its authority sets so far."""

    def __init__(
        self, genesis_hash: bytes, authorities: Sequence[bytes], *, domain: bytes | None = None,
        domains: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        """`domains`: (from height, signing domain), ascending; `domain`: the only one, if it is not the genesis hash."""
        self._domains = list(domains) or [(0, genesis_hash if domain is None else domain)]
        self._sets: list[tuple[int, bytes]] = [(0, authorities_hash(authorities))]  # (from height, hash), ascending

    @classmethod
    def from_checkpoint(
        cls, genesis_hash: bytes, header: Header, *, domain: bytes | None = None, domains: Sequence[tuple[int, bytes]] = ()
    ) -> LightClient:
        """Trust a header without its certificate; blocks below it cannot be judged."""
        client = cls(genesis_hash, (), domain=domain, domains=domains)
        client._sets = [(header.height, header.authorities_hash)]
        if header.next_authorities_hash != header.authorities_hash:
            client._sets.append((header.height + 1, header.next_authorities_hash))
        return client

    def verify(self, finality: Finality) -> Header:
        """The header, if it is final. Raises Rejected or DecodeError."""
        header = Header.decode(finality.header)
        certificate = Certificate.decode(finality.certificate)
        keys = finality.authorities
        if not 0 < len(keys) <= MAX_AUTHORITIES or any(len(key) != 32 for key in keys):
            raise Rejected("MalformedAuthorities", "not a list of 1 to 100 keys")
        if authorities_hash(keys) != header.authorities_hash or header.authorities_hash != self._set_at(header.height):
            raise Rejected(
                "UntrustedAuthorities", f"block {header.height} is certified by a set that is not derived from genesis",
                hint="is it of this chain? If so, add the finality of the last block of each session in which the set changed",
            )
        named = (certificate.kind, certificate.height, certificate.block_hash)
        if named != (PRECOMMIT, header.height, header.hash):
            raise Rejected("OtherBlock", "the certificate is not a precommit certificate of this header")
        if not certificate.verify(keys, _at(self._domains, header.height)):
            raise Rejected(
                "BadCertificate", f"the certificate of block {header.height} was not signed for the chain of this genesis",
                hint="is it of another chain with the same authorities? The genesis hash is part of what is signed. A rewound "
                "devnet signs in other domains: rewinds.json in the home of one of its nodes lists them",
            )
        return header

    def advance(self, finality: Finality) -> Header:
        """Verify a later block and trust the set that it names for the next height."""
        header = self.verify(finality)
        from_height, _ = self._sets[-1]
        if header.height + 1 <= from_height:
            raise Rejected("NotLater", f"sets are known up to height {from_height} already")
        if header.next_authorities_hash != self._sets[-1][1]:
            self._sets.append((header.height + 1, header.next_authorities_hash))
        return header

    def recover(self, head_hash: bytes, keys: Sequence[bytes], file_hash: bytes, finality: Finality) -> Header:
        """Trust the set of a recovery file from the height after its block on.

        `head_hash`, `keys` (session keys in order) and `file_hash` are the file's; `finality` is that of its block.
        """
        header, known = self.verify(finality), authorities_hash(keys)
        if header.hash != head_hash:
            raise Rejected("OtherBlock", "the recovery file names another block than the certificate")
        domain = next_domain(_at(self._domains, header.height), header.height, head_hash, known, file_hash)
        changed = [(self._sets, known)]
        if (header.height + 1, domain) not in self._domains:
            changed.append((self._domains, domain))
        for entries, value in changed:
            entries[:] = [entry for entry in entries if entry[0] <= header.height]
            entries.append((header.height + 1, value))
        return header

    def verify_state(self, proof: StateProof) -> bytes | None:
        """The proven value of `proof.key`, or None if the key is proven absent. Raises Rejected or DecodeError."""
        header = self._proven_header(proof.finality, proof.at, proof.state_root)
        if not verify_state(header.state_root, proof.key, proof.value, proof.proof):
            raise Rejected("BadProof", "the proof does not connect the value to the state root")
        return proof.value

    def verify_states(self, proofs: StateProofs) -> dict[bytes, bytes | None]:
        """The proven values by key, None for a key that is proven absent. Raises Rejected or DecodeError."""
        header = self._proven_header(proofs.finality, proofs.at, proofs.state_root)
        values = {entry.key: entry.value for entry in proofs.entries}
        if len(values) != len(proofs.entries) or not verify_states(header.state_root, values, proofs.proof):
            raise Rejected("BadProof", "the proof does not connect the values to the state root")
        return values

    def _proven_header(self, finality: Finality, at: At, state_root: bytes) -> Header:
        header = self.verify(finality)
        if (at.height, at.hash) != (header.height, header.hash):
            raise Rejected("OtherBlock", "the proof names another block than its certificate")
        if state_root != header.state_root:
            raise Rejected("OtherRoot", "the proof is against another state root than the certified header's")
        return header

    def _set_at(self, height: int) -> bytes:
        return _at(self._sets, height)


def _at(entries: Sequence[tuple[int, bytes]], height: int) -> bytes:
    """What holds at a height, of (from height, value) in ascending order; nothing below the first."""
    return next((found for from_height, found in reversed(entries) if from_height <= height), b"")


def verify_state_proof(
    proof: StateProof, genesis_hash: bytes, authorities: Sequence[bytes], *, sessions: Iterable[Finality] = ()
) -> Header:
    """Check a state proof with nothing but the genesis; returns the certified header. Raises Rejected or DecodeError.

    `authorities`: the ordered session keys of the genesis. `sessions`: the finality of the last block of every session
    after which the set changed, ascending, for chains whose set is no longer the first one.
    """
    client = LightClient(genesis_hash, authorities)
    for finality in sessions:
        client.advance(finality)
    client.verify_state(proof)
    return Header.decode(proof.finality.header)


def verify_state_proofs(
    proofs: StateProofs, genesis_hash: bytes, authorities: Sequence[bytes], *,
    checkpoint: tuple[int, bytes] | None = None, domains: Sequence[tuple[int, bytes]] = (),
    recoveries: Mapping[int, Successors] | None = None,
) -> tuple[Header, int]:
    """Check a whole document offline: the certified header, and how many handovers lead to it.

    `authorities`: the ordered session keys of the genesis. `checkpoint`: height and hash of a block to trust instead;
    the document must hold it. `domains`: (from height, signing domain), ascending, of a chain that was rewound or recovered;
    `recoveries`: by height, what the recovery files say that the verifier trusts. Raises Rejected or DecodeError.
    """
    links = [*proofs.handovers, proofs.finality]
    if checkpoint is None:
        client, first = LightClient(genesis_hash, authorities, domains=domains), 0
    else:
        client, first = _from_checkpoint(links, genesis_hash, checkpoint, domains)
    followed = 0
    for link in proofs.handovers:
        height = Header.decode(link.header).height
        if height < first:
            continue
        if recoveries is not None and height in recoveries:
            client.recover(*recoveries[height], link)
            followed += 1
        else:
            header = client.advance(link)
            followed += header.next_authorities_hash != header.authorities_hash
    client.verify_states(proofs)
    return Header.decode(proofs.finality.header), followed


def _from_checkpoint(
    links: Sequence[Finality], genesis_hash: bytes, checkpoint: tuple[int, bytes], domains: Sequence[tuple[int, bytes]]
) -> tuple[LightClient, int]:
    """A client that trusts the checkpoint, and the height from which on it follows the other blocks."""
    height, wanted = checkpoint
    headers = [Header.decode(link.header) for link in links]
    at_height = [header for header in headers if header.height == height]
    if not at_height:
        raise Rejected(
            "NoCheckpoint", f"block {height} is not in this proof",
            hint=f"make it with quorix query state KEY --proof --checkpoint {height}",
        )
    if any(header.hash != wanted for header in at_height):
        raise Rejected("OtherChain", f"block {height} of this proof is not the checkpoint")
    return LightClient.from_checkpoint(genesis_hash, at_height[0], domains=domains), height + 1
