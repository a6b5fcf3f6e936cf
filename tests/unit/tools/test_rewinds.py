"""The file that lists a devnet's signing domains, and proofs of chains that were rewound or recovered, checked offline."""

import json

import pytest
from click.testing import CliRunner

from genesis.build import build_genesis
from genesis.spec import AccountSpec, AuthoritySpec, ChainSpec, format_spec
from ledger.chain import Chain
from ledger.client.light import verify_state_proofs
from ledger.client.records import to_json
from ledger.crypto import KeyPair, digest
from ledger.errors import DecodeError, NotFound, Rejected, UsageError, WrongGenesis
from ledger.recovery import Recovery, members_of, recovered_domains
from ledger.signer import domain_at
from ledger.store import MemoryStore
from ledger.votes import PRECOMMIT, Certificate, Vote, vote_body
from runtime.executor import Runtime
from runtime.modules.accounts import ACCOUNT
from tools.cli.main import cli
from tools.node.rewinds import NAME, parse_rewinds, read_rewinds, rewinds_of, rewinds_text, unkept_rewinds
from tools.rpc.render import state_proofs

GENESIS, DOMAIN = digest("genesis", b"here"), digest("domain", b"second")
DOMAINS = ((1, GENESIS), (4, DOMAIN))
OLD, NEW, OWNER = (KeyPair.from_seed(digest("seed", name)) for name in (b"old", b"new", b"owner"))
KEY = ACCOUNT.key(OWNER.public)


def test_the_file_says_what_it_was_told(tmp_path):
    path = tmp_path / NAME
    assert rewinds_of(tmp_path, GENESIS, 1) == ((1, GENESIS),) and unkept_rewinds(tmp_path, GENESIS, ((1, GENESIS),)) == []
    ((written, text),) = unkept_rewinds(tmp_path, GENESIS, DOMAINS)
    assert written == path
    path.write_bytes(text)
    assert rewinds_of(tmp_path, GENESIS, 1) == DOMAINS and unkept_rewinds(tmp_path, GENESIS, DOMAINS) == []
    assert len(unkept_rewinds(tmp_path, GENESIS, ((1, DOMAIN),))) == 1  # rewound to the genesis: none of its heights is left
    with pytest.raises(WrongGenesis):
        read_rewinds(path, DOMAIN)
    with pytest.raises(NotFound):
        read_rewinds(tmp_path / "none", GENESIS)


@pytest.mark.parametrize("change", [
    lambda tree: tree | {"version": 2}, lambda tree: tree | {"more": 1}, lambda tree: tree | {"genesis_hash": "00"},
    lambda tree: tree | {"domains": []}, lambda tree: tree | {"domains": tree["domains"] * 40},
    lambda tree: tree | {"domains": tree["domains"][::-1]}, lambda tree: tree | {"domains": tree["domains"][:1] * 2},
    lambda tree: tree | {"domains": [{"from_height": True, "domain": "0" * 64}]},
    lambda tree: tree | {"domains": [{"from_height": -1, "domain": "0" * 64}]},
    lambda tree: tree | {"domains": [{"from_height": 1, "domain": "g" * 64}]},
    lambda tree: tree | {"domains": [{"from_height": 1}]}, lambda tree: tree | {"domains": [[1, "0" * 64]]},
    lambda tree: [tree],
])
def test_misshapen_files_are_refused(change):
    tree = json.loads(rewinds_text(GENESIS, DOMAINS))
    with pytest.raises(DecodeError):
        parse_rewinds(json.dumps(change(tree)).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 9000, b" " * 20_000, b"null"])
def test_what_is_no_file_is_refused(data):
    with pytest.raises(DecodeError):
        parse_rewinds(data)


# --- proofs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spec():
    return ChainSpec("odd", (AuthoritySpec(OLD.public, OWNER.public),), (AccountSpec(OWNER.public, 10**12),))


def grow(chain, signer, blocks):
    for _ in range(blocks):
        executed = chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0)
        height = executed.block.height
        body = vote_body(height, 0, executed.block.hash)
        vote = Vote(PRECOMMIT, height, 0, executed.block.hash, 0, signer.sign("precommit", chain.domain_at(height), body))
        chain.commit(executed, Certificate.build({0: vote}, 1))
    return chain


@pytest.fixture(scope="module")
def recovered(spec):
    """Blocks 1..2 of the old authority, 3..4 of the new one in the domain of the recovery file, 5..6 in that of a rewind."""
    genesis, store = build_genesis(spec), MemoryStore()
    own, params = genesis.genesis_hash, genesis.params
    head = grow(Chain.create(store, params, Runtime(own), genesis.state), OLD, 2).head
    file = Recovery(own, 2, head.hash, ((NEW.public, OWNER.public),), "lost")
    domains = (*recovered_domains(((1, own),), {2: file}), (5, DOMAIN))

    def domain(height):
        return domain_at(domains, height)

    machine = Runtime(own, domain, members_of({2: file}))
    chain = Chain.open(store, params, machine, domain_at=domain, recoveries={2: file})
    return grow(chain, NEW, 4), file, domains


def check(spec, proofs, domains=(), files=()):
    genesis = build_genesis(spec)
    named = {file.height: (file.head_hash, file.keys, file.hash) for file in files}
    return verify_state_proofs(
        proofs, genesis.genesis_hash, genesis.authorities.keys, domains=domains, recoveries=named
    )


def refused(name, *arguments):
    with pytest.raises(Rejected) as caught:
        check(*arguments)
    assert caught.value.error_name == name


def test_proofs_of_a_recovered_and_rewound_chain(spec, recovered):
    chain, file, domains = recovered
    early, late, last = (state_proofs(chain, [KEY], height, None) for height in (2, 4, 6))
    assert check(spec, early)[1] == 0
    assert check(spec, late, (), [file])[1] == 1  # the file alone says which domain follows
    assert check(spec, last, domains, [file])[0].height == 6
    refused("UntrustedAuthorities", spec, late)
    refused("UntrustedAuthorities", spec, last, domains)
    refused("BadCertificate", spec, last, (), [file])
    refused("BadCertificate", spec, last, (*domains[:-1], (5, GENESIS)), [file])
    other = Recovery(file.genesis_hash, 2, file.head_hash, ((OLD.public, OWNER.public),), "lost")
    refused("UntrustedAuthorities", spec, late, (), [other])
    elsewhere = Recovery(file.genesis_hash, 2, DOMAIN, file.members, "lost")
    refused("OtherBlock", spec, late, (), [elsewhere])
    renamed = Recovery(file.genesis_hash, 2, file.head_hash, file.members, "another reason, another hash")
    refused("BadCertificate", spec, late, (), [renamed])


def test_the_command_takes_the_files(spec, recovered, tmp_path):
    chain, file, domains = recovered
    paths = {name: tmp_path / name for name in ("spec.toml", "proof.json", "recovery.json", NAME)}
    own = build_genesis(spec).genesis_hash
    paths["spec.toml"].write_text(format_spec(spec))
    paths["proof.json"].write_text(json.dumps(to_json(state_proofs(chain, [KEY], 6, None))))
    paths["recovery.json"].write_text(file.text())
    paths[NAME].write_text(rewinds_text(own, domains))

    def verify(*more):
        arguments = ["query", "proof", "verify", str(paths["proof.json"]), "--genesis", str(paths["spec.toml"])]
        return CliRunner().invoke(cli, [*arguments, *map(str, more)])

    good = verify("--recovery", paths["recovery.json"], "--rewinds", paths[NAME])
    assert good.exit_code == 0 and "valid: block 6 is final" in good.output, good.output
    assert isinstance(verify().exception, Rejected)
    without = verify("--recovery", paths["recovery.json"]).exception
    assert isinstance(without, Rejected) and NAME in without.hint
    paths[NAME].write_text(rewinds_text(GENESIS, DOMAINS))
    assert isinstance(verify("--rewinds", paths[NAME]).exception, WrongGenesis)
    paths["recovery.json"].write_text(Recovery(GENESIS, 2, file.head_hash, file.members, "lost").text())
    assert isinstance(verify("--recovery", paths["recovery.json"]).exception, UsageError)
