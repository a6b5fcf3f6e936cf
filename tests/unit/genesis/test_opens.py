"""The devnet's genesis opens as a chain: the ledger executes the runtime's blocks, with pool and certificates."""

from genesis.build import build_genesis
from genesis.cast import cast, devnet_spec
from ledger.blocks import Extrinsic
from ledger.chain import Chain
from ledger.inherents import HEARTBEAT, Heartbeat
from ledger.pool import Pool
from ledger.store import MemoryStore
from ledger.votes import Certificate, Vote, vote_body
from runtime.executor import Runtime
from runtime.modules import accounts, authorities, subnets


def test_a_devnet_runs_through_its_first_epoch():
    genesis, members = build_genesis(devnet_spec(1)), cast(1)
    runtime = Runtime(genesis.genesis_hash)
    chain = Chain.create(MemoryStore(), genesis.params, runtime, genesis.state)
    runtime.domain_at = chain.domain_at
    pool, payer, sessions = Pool(chain), members[0].coldkey, [member.session for member in members[:4]]
    for height in range(1, 19):
        pool.submit(Extrinsic.sign(
            payer, genesis.genesis_hash, chain.head.hash, nonce=height - 1, birth_height=height - 1, call_number=1,
            args=[members[1].coldkey.public, 10**6, True],
        ).encode())
        for key in sessions:
            if runtime.heartbeat_is_due(chain.view(), key.public, height):
                beat = Heartbeat.sign(key, chain.domain_at(height), 0, chain.head.hash, "0.1", (1,))
                assert pool.add_inherent(HEARTBEAT, beat.encode())
        made = chain.build(
            timestamp_ms=1000 * height, round_=0, extrinsics=pool.select(200_000, 50_000), inherents=pool.inherents(),
        )
        checked = chain.check(made.block)
        body = vote_body(height, 0, made.block.hash)
        votes = {
            index: Vote(2, height, 0, made.block.hash, index, key.sign("precommit", genesis.genesis_hash, body))
            for index, key in enumerate(sessions)
        }
        chain.commit(checked, Certificate.build(votes, 4))
        pool.on_block(checked)
        assert [outcome.error for outcome in chain.outcomes(height)] == [""]
    state = chain.view()
    assert len(pool) == 0 and accounts.account(state, payer.public).nonce == 18
    assert [subnets.tempo(state, netuid).epoch_index for netuid in (0, 1, 2)] == [1, 1, 1]
    assert authorities.uptime(state, 0).signed == [17] * 4
    assert authorities.authority(state, sessions[0].public).versions == [1]
    assert runtime.audit(state, deep=True) == [] and runtime.audits_itself(state)
