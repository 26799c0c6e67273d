"""Runs the test suite that Thespian installs (`thespian.test`) against LoopSystemBase, unmodified but for its fixture.

Each of its modules that tests an actor system by the fixture `asys` is collected here, in place of the file
`thespian.suite`, with an `asys` of ours. What cannot apply is named in `exclusions`, and held to (`skips`).
"""

import asyncio
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import thespian.test
from thespian.actors import ActorSystem

from actors.loop_base import LoopSystemBase
from actors.loop_system import LoopActorSystem
from tests.conformance import skips
from tests.conformance.exclusions import EXCLUSIONS, NOT_HERE, NOT_ON_ONE_PROCESS, SLOW, SLOW_MODULES
from tests.conformance.skips import NODE_ID, get_names

SUITE_DIR = Path(thespian.test.__file__).parent

# Where Thespian looks for a base by its name: the suite makes systems so.
_module = ModuleType("thespian.system.loopSystemBase")
_module.ActorSystemBase = LoopSystemBase  # type: ignore[attr-defined]
sys.modules[_module.__name__] = _module

IN_A_THREAD = "loopSystemBase-thread"
"""The system whose loop runs in a thread: for --slow, as the other one is tested for the same."""

SHARED_MEMORY_TESTS = {
    "test_sourceLoading.test05_verifyUnloadOfHashedSourceDoesNotKillActiveActors",
    "test_sourceLoading.test07_sourceAuthorityExceptions",
}
"""Tests that expect one thing of `simpleSystemBase`, for being one process, and another of all other bases."""


@pytest.fixture(params=["loopSystemBase", IN_A_THREAD])
def asys(request: pytest.FixtureRequest) -> Iterator[ActorSystem]:
    """A system whose loop is run by the calls from outside, and one whose loop runs in a thread."""
    capabilities = {"Foo Allowed": True, "Cows Allowed": True, "Dogs Allowed": True, "dog": "food"}
    if request.param != IN_A_THREAD:
        system = ActorSystem("loopSystemBase", capabilities, logDefs=False, transientUnique=True)
        yield _describe(system, request)
        system.shutdown()
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    system = LoopActorSystem(loop, capabilities=capabilities)
    yield _describe(system, request)
    system.shutdown()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _describe(system: ActorSystem, request: pytest.FixtureRequest) -> ActorSystem:
    """Add what the suite's tests ask of their fixture."""
    names = get_names(request.node)
    in_one_process = names & SHARED_MEMORY_TESTS or names & NOT_ON_ONE_PROCESS.keys()
    system.base_name = "simpleSystemBase" if in_one_process else request.param
    system.port_num = None
    system.txonly = False
    return system


thespian.test.asys = asys  # the suite's modules import it from there


def pytest_configure(config: pytest.Config) -> None:
    """Have `skips` look at the reports: the hooks of a conftest are not called for the suite's files, elsewhere."""
    config.pluginmanager.register(skips)


class Suite(pytest.File):
    def collect(self) -> Iterable[pytest.Module]:
        for path in sorted(SUITE_DIR.glob("test_*.py")):
            yield pytest.Module.from_parent(self, path=path, nodeid=NODE_ID + path.name)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return Suite.from_parent(parent, path=file_path) if file_path.suffix == ".suite" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what tests no actor system of this fixture, and mark what cannot apply or is slow."""
    for item in list(items):
        if not item.nodeid.startswith(NODE_ID):
            continue
        if not isinstance(item, pytest.Function) or "asys" not in item.fixturenames:
            items.remove(item)
            continue
        item.add_marker(pytest.mark.filterwarnings("ignore::ImportWarning"))  # of Thespian's own source loader
        names, is_slow = get_names(item), config.getoption("--slow")
        for name in names & EXCLUSIONS.keys():
            if not is_slow:
                item.add_marker(pytest.mark.skip(reason=EXCLUSIONS[name]))
            elif name in NOT_HERE:
                # Not run: to see the five fail takes four minutes, all of it spent in their own timeouts.
                item.add_marker(pytest.mark.xfail(reason=EXCLUSIONS[name], run=False))
        if not is_slow and (names & SLOW or item.path.stem in SLOW_MODULES or IN_A_THREAD in item.name):
            items.remove(item)


@pytest.fixture(autouse=True)
def _error_collector() -> None:
    """Errors in the log are expected here: the suite has actors that fail."""
