"""Metrics of the nodes of a process, in Prometheus' text form, collected when they are asked for.

The counters are plain numbers (`counters.py`); prometheus_client is imported at the first scrape. Names have the prefix
`quorix_`, base units, and `_total` for counters. There are no labels by peer: their number is not bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .counters import Histogram, RpcCounters
from .node import Node

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Observed:
    """One node as the collector sees it. `subscriptions` counts those of all its WebSockets."""

    name: str
    node: Node
    rpc: RpcCounters
    database: Path | None
    subscriptions: Callable[[], int]


_Reader = Callable[[Observed], Any]
_GAUGES: Final[list[tuple[str, str, _Reader]]] = [
    ("chain_height", "height of the head, which is final", lambda each: each.node.tip.height),
    ("chain_head_age_seconds", "age of the head by the wall clock", lambda each: each.node.health().head_age_ms / 1000),
    ("finality_seconds", "of the last block, from the proposal's arrival to the commit",
     lambda each: each.node.last_finality_ms / 1000),
    ("mempool_size", "transactions that wait", lambda each: len(each.node.pool)),
    ("mempool_bytes", "size of the transactions that wait", lambda each: each.node.pool.size_bytes),
    ("sync_state", "1 while the node is syncing", lambda each: each.node.follower.syncing),
    ("sync_behind_blocks", "blocks missing to the best announced height", lambda each: each.node.follower.planner.behind),
    ("authority", "1 while the node's key is in the authority set", lambda each: each.node.role == "authority"),
    ("ready", "1 while /readyz answers 200", lambda each: each.node.health().ready),
    ("runtime_version", "of the rules that execute the next block", lambda each: each.node.upgrade().runtime_version),
    ("upgrade_height", "from which a scheduled runtime version is to be in force; 0: none is scheduled",
     lambda each: each.node.upgrade().height or 0),
    ("upgrade_unknown", "1 while a runtime version is scheduled that this node cannot run",
     lambda each: bool(each.node.upgrade().warning)),
    ("ws_subscriptions", "subscriptions of all WebSockets", lambda each: each.subscriptions()),
    ("db_size_bytes", "size of the chain database", lambda each: _folder_bytes(each.database)),
    ("chain_queue", "jobs that wait for the chain thread", lambda each: len(each.node.parts.threads.chain)),
    ("verify_queue", "jobs that wait for the verify threads", lambda each: len(each.node.parts.threads.verify)),
    ("disk_queue", "jobs that wait for the node's disk thread", lambda each: len(each.node.parts.disk)),
]
_COUNTERS: Final[list[tuple[str, str, _Reader]]] = [
    ("block_txs", "transactions in committed blocks", lambda each: each.node.shell.counters.transactions),
    ("blocks_refused", "blocks that broke a rule", lambda each: each.node.shell.counters.bad_blocks),
    ("authority_equivocations", "authorities seen signing two things", lambda each: each.node.shell.counters.equivocations),
    ("sign_records", "records written before signing", lambda each: each.node.shell.counters.records),
    ("frames_dropped", "frames dropped because too much waited", lambda each: each.node.shell.counters.frames_dropped),
    ("emission_units", "rao minted by committed blocks", lambda each: each.node.shell.counters.minted_rao),
    ("mempool_submitted", "transactions taken in by RPC", lambda each: each.node.shell.counters.submitted),
    ("mempool_gossiped", "transactions taken in from peers", lambda each: each.node.shell.counters.gossiped),
]
_HISTOGRAMS: Final[list[tuple[str, str, Callable[[Observed], Histogram]]]] = [
    ("block_import_seconds", "checking and executing others' blocks", lambda each: each.node.shell.counters.check),
    ("block_build_seconds", "building own blocks", lambda each: each.node.shell.counters.build),
    ("block_commit_seconds", "making blocks durable", lambda each: each.node.shell.counters.commit),
    ("rpc_seconds", "RPC calls", lambda each: each.rpc.seconds),
]
# name, help, names of the labels beside `node`, and rows of label values and number
_LABELLED: Final[list[tuple[str, str, tuple[str, ...], Callable[[Observed], Iterator[tuple[tuple[str, ...], Any]]]]]] = [
    ("authority_turns", "own turns to lead: led, missed, skipped", ("outcome",),
     lambda each: (((name,), n) for name, n in each.node.shell.counters.turns.items())),
    ("mempool_rejected", "refused transactions", ("reason",),
     lambda each: (((name,), n) for name, n in each.node.shell.counters.rejected.items())),
    ("p2p_bytes", "bytes of messages", ("dir", "topic"), lambda each: iter(each.node.shell.counters.network_bytes.items())),
    ("rpc_requests", "RPC calls", ("method", "code"),
     lambda each: (((method, str(code)), n) for (method, code), n in each.rpc.requests.items())),
]


class Collector:
    """A prometheus_client collector over all nodes of the process."""

    def __init__(self, nodes: list[Observed], version: str, now_s: Callable[[], float]) -> None:
        self._nodes, self._version, self._now_s = nodes, version, now_s

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

        yield InfoMetricFamily("quorix_build", "version of the program", value={"version": self._version})
        for name, about, read in _GAUGES:
            gauge = GaugeMetricFamily(f"quorix_{name}", about, labels=["node"])
            for each in self._nodes:
                gauge.add_metric([each.name], float(read(each)))
            yield gauge
        for name, about, read in _COUNTERS:
            counter = CounterMetricFamily(f"quorix_{name}", about, labels=["node"])
            for each in self._nodes:
                counter.add_metric([each.name], float(read(each)))
            yield counter
        for name, about, labels, rows in _LABELLED:
            counter = CounterMetricFamily(f"quorix_{name}", about, labels=["node", *labels])
            for each in self._nodes:
                for values, number in rows(each):
                    counter.add_metric([each.name, *values], float(number))
            yield counter
        for name, about, which in _HISTOGRAMS:
            histogram = HistogramMetricFamily(f"quorix_{name}", about, labels=["node"])
            for each in self._nodes:
                histogram.add_metric([each.name], which(each).buckets(), which(each).total_s)
            yield histogram
        yield self._peers(GaugeMetricFamily("quorix_p2p_peers", "connected peers", labels=["node", "direction"]))
        yield self._epochs(GaugeMetricFamily(
            "quorix_epoch_seconds", "execution of the block of a subnet's last epoch", labels=["node", "netuid"]
        ))
        yield self._lookups(GaugeMetricFamily("quorix_db_get_seconds", "one lookup, made now", labels=["node"]))

    def _peers(self, family: Any) -> Metric:
        for each in self._nodes:
            connected = each.node.network.peers() if each.node.network is not None else []
            for direction in ("in", "out"):
                family.add_metric([each.name, direction], float(sum(peer.direction == direction for peer in connected)))
        return family  # type: ignore[no-any-return]

    def _epochs(self, family: Any) -> Metric:
        for each in self._nodes:
            for netuid, seconds in each.node.shell.counters.epoch_s.items():
                family.add_metric([each.name, str(netuid)], seconds)
        return family  # type: ignore[no-any-return]

    def _lookups(self, family: Any) -> Metric:
        for each in self._nodes:
            started_s = self._now_s()
            each.node.chain.extra_row(b"none")
            family.add_metric([each.name], self._now_s() - started_s)
        return family  # type: ignore[no-any-return]


class Exposition:
    """The text of /metrics."""

    def __init__(self, nodes: list[Observed], version: str) -> None:
        self._collector = Collector(nodes, version, asyncio.get_running_loop().time)
        self._registry: CollectorRegistry | None = None

    def text(self) -> bytes:
        from prometheus_client import CollectorRegistry, generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self._collector)
        return generate_latest(self._registry)


def _folder_bytes(folder: Path | None) -> int:
    total = 0
    for path in folder.iterdir() if folder is not None else ():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            pass  # compacted away meanwhile
    return total
