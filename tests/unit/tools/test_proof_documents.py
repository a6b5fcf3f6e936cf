"""State proofs as documents: a real chain whose authorities change their keys session after session, checked offline.

Every session one of the four authorities announces a new session key, so no set lasts. What is checked is what the command
`quorix query proof verify` gets: the file, the spec, and nothing else.
"""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from genesis.build import build_genesis
from genesis.spec import AccountSpec, AuthoritySpec, ChainSpec, format_spec
from ledger.blocks import Extrinsic
from ledger.chain import Chain
from ledger.client.light import verify_state_proofs
from ledger.client.records import StateProofs, from_json, to_json
from ledger.crypto import KeyPair, digest
from ledger.errors import Error, Rejected, UsageError
from ledger.store import MemoryStore
from ledger.votes import PRECOMMIT, Certificate, Vote, vote_body
from runtime.dispatch import call_number
from runtime.executor import Runtime
from runtime.modules.accounts import ACCOUNT
from runtime.modules.sessions import possession_body
from tools.cli.main import cli
from tools.rpc.render import state_proofs

SESSION_BLOCKS = 5
SESSIONS = 4
ACCOUNTS = [KeyPair.from_seed(digest("seed", b"account", bytes([number]))) for number in range(4)]
KEYS = [[KeyPair.from_seed(digest("seed", bytes([number, age]))) for age in range(2)] for number in range(4)]
WANTED = [ACCOUNT.key(ACCOUNTS[0].public), ACCOUNT.key(ACCOUNTS[3].public), b"absent"]


@pytest.fixture(scope="module")
def spec():
    return ChainSpec(
        "rotating", tuple(AuthoritySpec(KEYS[n][0].public, ACCOUNTS[n].public) for n in range(4)),
        tuple(AccountSpec(key.public, 10**12) for key in ACCOUNTS), session_blocks=SESSION_BLOCKS,
    )


@pytest.fixture(scope="module")
def chain(spec):
    genesis = build_genesis(spec)
    domain, secret = genesis.genesis_hash, {key.public: key for pair in KEYS for key in pair}
    chain = Chain.create(MemoryStore(), genesis.params, Runtime(domain), genesis.state)
    for height in range(1, SESSION_BLOCKS * SESSIONS + 3):
        session, first = divmod(height - 1, SESSION_BLOCKS)
        rotation = [set_key(chain, domain, session)] if first == 1 and session < SESSIONS else []
        executed = chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0, extrinsics=rotation)
        assert [outcome.error for outcome in executed.result.outcomes] == [""] * len(rotation)
        body = vote_body(height, 0, executed.block.hash)
        votes = {
            index: Vote(PRECOMMIT, height, 0, executed.block.hash, index, secret[key].sign("precommit", domain, body))
            for index, key in enumerate(chain.authorities().keys)
        }
        chain.commit(executed, Certificate.build(votes, len(votes)))
    assert chain.authorities().keys == tuple(pair[1].public for pair in KEYS)
    return chain


def set_key(chain, domain, number):
    old, new = KEYS[number]
    proof = new.sign("pop", domain, possession_body(ACCOUNTS[number].public, new.public))
    return Extrinsic.sign(
        ACCOUNTS[number], domain, chain.head.hash, nonce=0, birth_height=chain.head.height,
        call_number=call_number("authorities.set_session_key"), args=[old.public, new.public, proof],
    )


def document(chain, height=None, since=None):
    return state_proofs(chain, WANTED, chain.head.height if height is None else height, since)


def check(spec, proofs, checkpoint=None):
    genesis = build_genesis(spec)
    return verify_state_proofs(proofs, genesis.genesis_hash, genesis.authorities.keys, checkpoint=checkpoint)


def test_the_sets_are_followed_from_the_spec(chain, spec):
    proofs = document(chain)
    header, changes = check(spec, proofs)
    assert header.hash == chain.head.hash and changes == SESSIONS
    assert proofs.entries[0].value is not None and proofs.entries[2].value is None
    for height in (1, SESSION_BLOCKS, SESSION_BLOCKS + 1, 2 * SESSION_BLOCKS):
        assert check(spec, document(chain, height))[1] == (height - 1) // SESSION_BLOCKS
    assert from_json(StateProofs, json.loads(json.dumps(to_json(proofs))), "proof") == proofs


def refused(name, spec, proofs, checkpoint=None):
    with pytest.raises(Rejected) as caught:
        check(spec, proofs, checkpoint)
    assert caught.value.error_name == name


def test_a_missing_or_foreign_link_is_refused(chain, spec):
    proofs = document(chain)
    for missing in range(SESSIONS):
        links = proofs.handovers[:missing] + proofs.handovers[missing + 1 :]
        refused("UntrustedAuthorities", spec, replace(proofs, handovers=links))
    refused("UntrustedAuthorities", spec, replace(proofs, handovers=proofs.handovers[::-1]))
    twice = [proofs.handovers[0], *proofs.handovers]
    refused("NotLater", spec, replace(proofs, handovers=twice))
    weak = replace(proofs.handovers[1], certificate=proofs.handovers[0].certificate)
    refused("OtherBlock", spec, replace(proofs, handovers=[proofs.handovers[0], weak, *proofs.handovers[2:]]))
    first = KEYS[0][1].public  # another chain, on which the same authorities might have signed the same
    other = replace(spec, authorities=(AuthoritySpec(first, ACCOUNTS[0].public), *spec.authorities[1:]))
    refused("UntrustedAuthorities", other, proofs)
    refused("BadCertificate", replace(spec, name="other"), proofs)


def test_changed_values_are_refused(chain, spec):
    proofs = document(chain)
    first, second, absent = proofs.entries
    for entries in (
        [replace(first, value=second.key), second, absent], [first, second, replace(absent, value=b"")],
        [first, second], [first, second, absent, absent], [first, replace(second, value=None), absent], [],
    ):
        refused("BadProof", spec, replace(proofs, entries=entries))
    refused("OtherRoot", spec, replace(proofs, state_root=bytes(32)))
    refused("OtherBlock", spec, replace(proofs, at=replace(proofs.at, height=3)))


def test_a_checkpoint_shortens_the_way(chain, spec):
    for height in (2, SESSION_BLOCKS, 2 * SESSION_BLOCKS + 1, chain.head.height):
        proofs, trusted = document(chain, since=height), (height, chain.hash_at(height))
        header, changes = check(spec, proofs, trusted)
        assert header.height == chain.head.height
        # a trusted header already names the set after it
        assert changes == len([end for end in range(5, 21, 5) if end > height])
        assert len(proofs.handovers) <= SESSIONS + 1
        refused("OtherChain", spec, proofs, (height, bytes(32)))
    refused("NoCheckpoint", spec, document(chain), (3, chain.hash_at(3)))
    refused("UntrustedAuthorities", spec, document(chain, since=SESSION_BLOCKS + 1))  # without saying what is trusted
    early = replace(document(chain, since=12), finality=document(chain, 3).finality)
    refused("UntrustedAuthorities", spec, early, (12, chain.hash_at(12)))  # blocks below it are not judged
    for wrong in (0, chain.head.height + 1):
        with pytest.raises(UsageError, match="checkpoint"):
            document(chain, since=wrong)


def test_the_command_needs_the_file_and_the_spec_only(chain, spec, tmp_path):
    file, chainspec = tmp_path / "p.json", tmp_path / "spec.toml"
    chainspec.write_text(format_spec(spec))
    proofs = document(chain, since=7)
    file.write_text(json.dumps(to_json(proofs)))
    hash_at_7 = chain.hash_at(7).hex()

    def run(*words):
        command = ["--rpc", "http://127.0.0.1:1", "query", "proof", "verify", str(file), "--genesis", str(chainspec), *words]
        result = CliRunner().invoke(cli, command, standalone_mode=False)
        return result.exception or result.stdout

    shown = run("--checkpoint", f"7:{hash_at_7}").splitlines()
    assert shown[0] == "valid: block 22 is final, by 3 changes of the authority set since checkpoint 7"
    assert shown[3] == f"0x{b'absent'.hex()}  absent" and len(shown) == 4
    assert run().error_name == "UntrustedAuthorities" and run().exit_code == 1
    assert run("--checkpoint", f"7:0x{hash_at_7[::-1]}").error_name == "OtherChain"
    for wrong in ("7", "7:", f"x:{hash_at_7}", f"7:{hash_at_7}0"):
        assert run("--checkpoint", wrong).exit_code == 2
    file.write_text(json.dumps(to_json(document(chain))))
    assert run().splitlines()[0] == f"valid: block 22 is final, by {SESSIONS} changes of the authority set since the genesis"
    for text in ("", "{", "[]", "[" * 100_000, '{"at": 1}', '{"at": {"height": 1, "hash": "0x"}}'):
        file.write_text(text)
        error = run()
        assert isinstance(error, Error) and error.exit_code == 2, text[:20]
