"""What all tests share: a watch on slow tests, and one real devnet for the tests that look at a running market.

A test that takes more than 20 seconds without the mark `slow` or `long` fails the run: a suite that is slow is not run.
The ten slowest are printed. On a machine that has more to do than these tests the limit grows with its load, since a
test is not to blame for that; `QUORIX_TEST_LIMIT_S` sets another limit.

Tests that use the fixture `devnet` stay together: with pytest-xdist one worker gets them all, so that only one devnet
runs however many workers there are; unit tests stay together by file, for their fixtures. (The mark xdist_group does
nothing with this pytest.) Trained models are kept in QUORIX_CACHE, or for this run in its temporary folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.devnets import Devnet
from tests.devnets import devnet as running_devnet

# The same examples in every run of `make test`, and no deadline for one: a red run must mean a change. `make test-all` sets
# QUORIX_FRESH_EXAMPLES and looks further each time.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("fresh", deadline=None)
settings.load_profile("fresh" if os.environ.get("QUORIX_FRESH_EXAMPLES") else "repeatable")

LIMIT_S = 20.0
ORDINARY_LOAD = 2.0  # processes a core that want to run: two workers and a devnet on two cores
SHOWN = 10
ALLOWED = ("slow", "long")
USERS_OF_DEVNET = ("tests/browser/", "tests/e2e/test_devnet_running.py", "tests/e2e/test_market_running.py")


class SlowTests:
    """Notes how long tests take. Lives in the process that prints the summary."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.took: list[tuple[float, str]] = []
        self.offenders: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        self.took.append((report.duration, report.nodeid))
        if report.duration > self.limit_s * busyness() and not any(mark in report.keywords for mark in ALLOWED):
            self.offenders.append(f"{report.nodeid}: {report.duration:.1f} s")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.offenders and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        slowest = sorted(self.took, reverse=True)[:SHOWN]
        if slowest and slowest[0][0] >= 1.0:
            terminalreporter.section(f"slowest tests (limit {self.limit_s:g} s, now times {busyness():.1f})")
            for seconds, name in slowest:
                terminalreporter.line(f"{seconds:6.1f} s  {name}")
        if self.offenders:
            terminalreporter.section("tests over the limit without the mark slow or long", red=True)
            for offender in self.offenders:
                terminalreporter.line(offender)


def busyness() -> float:
    """1 on a machine with nothing else to do, 2 on one with twice the ordinary load, and so on."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / ORDINARY_LOAD)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(SlowTests(float(os.environ.get("QUORIX_TEST_LIMIT_S", LIMIT_S))), "slow-tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How tests are spread over workers with -n: in the order of collection; together what shares something costly."""
    if config.getvalue("dist") != "load":
        return None  # somebody chose another way
    from xdist.scheduler import LoadScopeScheduling

    class Spread(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(USERS_OF_DEVNET):
                return "devnet"
            return nodeid.partition("::")[0] if nodeid.startswith("tests/unit/") else nodeid

    config.option.loadscopereorder = False
    return Spread(config, log)


def pytest_itemcollected(item: pytest.Item) -> None:
    if "devnet" in getattr(item, "fixturenames", ()) and not item.nodeid.startswith(("tests/unit/", *USERS_OF_DEVNET)):
        raise pytest.UsageError(f"{item.nodeid} uses the shared devnet: name its file in USERS_OF_DEVNET")


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where trained models are kept: shared by all workers of this run."""
    given = os.environ.get("QUORIX_CACHE")
    if given:
        return Path(given)
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return root / "cache"


@pytest.fixture(scope="session")
def devnet(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Iterator[Devnet]:
    """The running market: four authorities, 250 ms blocks, five small neurons, three validators, explorer and gateway.

    Its cast is `cabal`: validator 2 votes for its own miner, so that there is something to clip.
    """
    home = tmp_path_factory.mktemp("home")
    with running_devnet(home, model_cache, "--ai", "tiny", "--block-time", "250ms", "--cast", "cabal") as net:
        net.wait_ready()
        yield net
