"""A `callboard serve` process on a database that is given, for benchmarks that speak to it from outside."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.bench.stream_servers import KEPT_VARIABLES, LISTENING, ServerFailed, stop_process


@contextmanager
def serve(database_url: str, *, merge: bool) -> Iterator[str]:
    """Run a server on a free port; gives where it listens, as `127.0.0.1:40001`.

    Args:
        database_url: Its database.
        merge: True if it may merge tokens that wait.

    Raises:
        ServerFailed: If it does not start.
    """
    options = ["--port", "0", "--coalesce-tokens", "1" if merge else "0", "--log-level", "WARNING"]
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as data_dir:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.cli", "serve", *options, "--shutdown-grace-s", "0"],
            stdout=subprocess.PIPE,
            text=True,
            env=make_environment(database_url, data_dir),
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = LISTENING.fullmatch(line)
            if found is None:
                raise ServerFailed(f"callboard serve said {line!r}")
            yield found[1]
        finally:
            stop_process(process)


def make_environment(database_url: str, data_dir: str) -> dict[str, str]:
    """Return an environment without any setting of a server but its database, and the folder of its admin socket.

    The database is not an option on its command line, which anyone on the machine can read: it may hold a password.
    """
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return kept | {"DATABASE_URL": database_url, "CALLBOARD_DATA_DIR": data_dir}
