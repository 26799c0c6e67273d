import inspect
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.acceptance import agents_of_tests
from tests.acceptance.agents_of_tests import MisbehavingAgent
from tests.acceptance.server_process import ServerProcess, Servers
from tests.acceptance.tokens import MAX_PER_USER, ORIGIN, SECRET

MISBEHAVIOURS = [
    name
    for name, _ in inspect.getmembers(MisbehavingAgent, inspect.isfunction)
    if not name.startswith("_") and name not in {"behave", "stream_chat"}
]
KINDS = ("eliza", "echo", "metronome")
FACTORIES = {"hang-once": "HangOnceAgent", "flood": "FloodAgent", "exit": "ExitingAgent", "flaky": "FlakyAgent"}
FACTORIES |= {"stubborn": "StubbornAgent", "mended": "MendedAgent"}

_thread_numbers = count(1)


@pytest.fixture(scope="session")
def agents_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in agents, and those of the tests under the names of what they do."""
    folder = tmp_path_factory.mktemp("agents")
    shutil.copy(agents_of_tests.__file__, folder)
    tables = ['default = "eliza"']
    tables += [f'[agents.{kind}]\nkind = "{kind}"' for kind in KINDS]
    python = '[agents.{}]\nkind = "python"\nfactory = "agents_of_tests:{}"'
    tables += [python.format(agent_id, factory) for agent_id, factory in FACTORIES.items()]
    tables += [python.format(how, "MisbehavingAgent") + f'\noptions = {{how = "{how}"}}' for how in MISBEHAVIOURS]
    file = folder / "agents.toml"
    file.write_text("\n".join(tables))
    return file


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, agents_file: Path) -> Iterator[ServerProcess]:
    """The server that most tests share; it logs all that there is, as JSON."""
    servers = Servers(tmp_path_factory.mktemp("shared"))
    options = ["--shutdown-grace-s", "0.5", "--log-level", "debug", "--turn-block-s", "0.5"]
    yield servers.start(*options, CALLBOARD_AGENTS=str(agents_file), LOG_FORMAT="json", TURN_RETRY_PAUSE_S="0.05")
    servers.stop_all()


@pytest.fixture(scope="session")
def impatient_server(tmp_path_factory: pytest.TempPathFactory, agents_file: Path) -> Iterator[ServerProcess]:
    """A server whose turns end after half a second, whose sessions leave memory at once, and that polls always."""
    servers = Servers(tmp_path_factory.mktemp("impatient"))
    options = ["--turn-timeout-s", "0.5", "--session-idle-s", "0.05", "--shutdown-grace-s", "0.5"]
    options += ["--turn-retries", "0", "--turn-block-s", "0.3"]
    environ = {"EFFECT_POLL_INTERVAL_MS": "10", "COALESCE_TOKENS": "0", "LOG_LEVEL": "DEBUG"}
    yield servers.start("--agents", str(agents_file), *options, data_dir=None, max_files=None, **environ)
    servers.stop_all()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that wants tokens."""
    servers = Servers(tmp_path_factory.mktemp("guarded"))
    options = ["--log-level", "debug", "--auth-clock-skew-s", "0", "--shutdown-grace-s", "0.5"]
    options += ["--allowed-origins", ORIGIN, "--max-connections-per-user", str(MAX_PER_USER)]
    yield servers.start(*options, AUTH_JWT_SECRET=SECRET)
    servers.stop_all()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory that a module's tests hand on: the first to start a server on it has it made."""
    path = tmp_path_factory.mktemp("handed-on")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Servers of a test's own."""
    started = Servers(tmp_path)
    yield started
    started.stop_all()


@pytest.fixture
def thread() -> str:
    """A thread that no other test uses."""
    return f"t{next(_thread_numbers)}"
