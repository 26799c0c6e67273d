"""For all tests: a stray ERROR in the log fails a test, as a stray warning does."""

import hashlib
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples import give_examples


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take many seconds each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if marker := item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason=f"{marker.kwargs['reason']}: --slow"))


def pytest_configure(config: pytest.Config) -> None:
    """Say how many examples there are, heed Ctrl-C, and keep apart from other runs.

    The tests' processes heed Ctrl-C, too, which what a shell without job control puts aside would ignore. And pytest
    makes its folder private at each start: where root runs the tests, PostgreSQL's account lost its way into the folder
    as soon as another clone's tests began.
    """
    give_examples(all_of_them=bool(config.getoption("--slow")))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    clone = hashlib.sha256(str(config.rootpath).encode()).hexdigest()[:6]
    folder = Path(tempfile.gettempdir()) / f"cb{os.geteuid()}-{clone}"
    folder.mkdir(mode=0o711, exist_ok=True)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


class _ErrorCollector(logging.Handler):
    """Keeps what is logged at ERROR or above, from any thread."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def _error_collector(request: pytest.FixtureRequest) -> Iterator[_ErrorCollector]:
    collector = _ErrorCollector()
    logging.getLogger().addHandler(collector)
    yield collector
    logging.getLogger().removeHandler(collector)
    if collector.records and "error_logs" not in request.fixturenames:
        lines = [f"{record.name}: {record.getMessage()}" for record in collector.records]
        pytest.fail("logged at ERROR, which the test does not expect:\n" + "\n".join(lines))


@pytest.fixture
def error_logs(_error_collector: _ErrorCollector) -> list[logging.LogRecord]:
    """What was logged at ERROR or above; a test that takes this expects such records, and looks at them itself."""
    return _error_collector.records
