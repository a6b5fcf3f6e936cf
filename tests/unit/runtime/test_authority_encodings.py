"""The bytes of what concerns authorities: calls, rows of the state, proofs, recovery files. A change is another protocol."""

import json
from pathlib import Path

import pytest

import runtime.executor  # noqa: F401 - registers everything
from ledger.codec import encode
from ledger.crypto import KeyPair, digest
from ledger.recovery import Recovery, recovered_domains
from runtime.modules import authorities, bonds, evidence, sessions
from runtime.registry import CALL_NUMBERS, CALLS, decode_args

GOLDEN = Path(__file__).parents[2] / "golden" / "authorities.json"
KEYS = [KeyPair.from_seed(bytes([index]) * 32) for index in range(3)]
PUBLIC = [key.public for key in KEYS]
DOMAIN = digest("genesis", b"golden")
PROOF = KEYS[2].sign("pop", DOMAIN, sessions.possession_body(PUBLIC[0], PUBLIC[2]))
RECOVERY = Recovery(DOMAIN, 7, digest("header", b"head"), ((PUBLIC[0], PUBLIC[1]), (PUBLIC[2], PUBLIC[1])), "two are lost")
ARGUMENTS = {
    "authorities.propose_set": [[[PUBLIC[0], PUBLIC[1], None], [PUBLIC[2], PUBLIC[0], PROOF]]],
    "authorities.set_session_key": [PUBLIC[0], PUBLIC[2], PROOF],
    "authorities.bond": [100 * 10**9],
    "authorities.unbond": [1],
    "authorities.withdraw_bond": [],
}


def samples():
    """Name -> bytes."""
    calls = {name: encode([CALL_NUMBERS[name], args]) for name, args in ARGUMENTS.items()}
    rows = {
        "authority row": authorities.AUTHORITIES.encode(authorities.Authority(PUBLIC[1], True, False, 2, 1, [3, 1], [1])),
        "session row": authorities.SESSIONS.encode(authorities.Session(101, PUBLIC[:2], PUBLIC[1:])),
        "uptime row": authorities.UPTIMES.encode(authorities.Uptime([3, 4], [1, 2], 4)),
        "candidate row": authorities.CANDIDATES.encode(authorities.Candidate(PUBLIC[1], 4, [1])),
        "bond row": bonds.BONDS.encode(bonds.Bond(10**11, [[15, 10**9]])),
        "offence row": evidence.OFFENCES.encode(evidence.Offence(PUBLIC[1], PUBLIC[0], 10**11, 50_000, 5 * 10**9)),
        "key of an offence": evidence.OFFENCES.key(4, PUBLIC[2]),
    }
    return calls | rows | {
        "proof of possession": PROOF, "recovery hash": RECOVERY.hash, "recovery file": RECOVERY.text().encode(),
        "recovered domain": recovered_domains(((1, DOMAIN),), {7: RECOVERY})[-1][1],
    }


@pytest.mark.parametrize("name", samples())
def test_golden_bytes(name):
    assert samples()[name].hex() == json.loads(GOLDEN.read_text()).get(name), f"the bytes of {name!r} changed"


def test_the_file_names_nothing_else():
    assert list(json.loads(GOLDEN.read_text())) == list(samples())


def test_every_call_on_authorities_is_pinned_and_takes_its_arguments():
    assert {entry.name for entry in CALLS.values() if entry.name.startswith("authorities.")} == set(ARGUMENTS)
    for name, args in ARGUMENTS.items():
        decode_args(CALLS[CALL_NUMBERS[name]], args)
