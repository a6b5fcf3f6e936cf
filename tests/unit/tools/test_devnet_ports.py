"""Blocks of ports: two devnets that start at the same moment never share one."""

import socket

import pytest

from ledger.errors import UsageError
from tools.devnet.layout import DEFAULT_BASE, MAX_NEURONS, MAX_NODES, PORT_BLOCK, Layout, claim_ports

HOST = "127.0.0.1"


def test_a_claimed_block_is_not_given_again():
    claims = [claim_ports("auto", 4, 9, HOST) for _ in range(3)]
    bases = [ports.base for ports, _ in claims]
    assert len(set(bases)) == 3 and all(base >= DEFAULT_BASE and base % PORT_BLOCK == 0 for base in bases)
    with pytest.raises(UsageError, match=f"port {bases[1] + 49} is taken by process"):
        claim_ports(str(bases[1]), 4, 9, HOST)
    for _, claim in claims:
        claim.close()
    ports, claim = claim_ports(str(bases[1]), 4, 9, HOST)
    claim.close()
    assert ports.base == bases[1]


def test_the_last_run_s_ports_are_kept(tmp_path):
    layout = Layout(tmp_path, "mine")
    assert layout.last_base() == DEFAULT_BASE
    layout.root.mkdir(parents=True)
    layout.keep_base(10_300)
    assert Layout(tmp_path, "mine").last_base() == 10_300


@pytest.mark.parametrize("offset", [0, 3, 20, 23, 40, 41, 50, 58])
def test_any_port_in_use_makes_the_block_taken(offset):
    ports, claim = claim_ports("auto", 4, 9, HOST)
    claim.close()
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was in use a moment ago will do
        holder.bind((HOST, ports.base + offset))
        holder.listen()
        with pytest.raises(UsageError, match=f"port {ports.base + offset} is taken"):
            claim_ports(str(ports.base), 4, 9, HOST)
        other, second = claim_ports("auto", 4, 9, HOST)
        second.close()
        assert other.base != ports.base


@pytest.mark.parametrize(("base", "nodes", "neurons"), [
    ("80", 4, 9), ("65001", 4, 9), ("-1", 4, 9), ("1e4", 4, 9), ("", 4, 9), ("auto", MAX_NODES + 1, 0),
    ("auto", 1, MAX_NEURONS + 1),
])
def test_what_is_no_block_is_refused(base, nodes, neurons):
    with pytest.raises(UsageError):
        claim_ports(base, nodes, neurons, HOST)
