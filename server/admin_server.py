"""Where operators' commands reach a running node: HTTP on a socket of the file system, for its owner and root alone.

    <data directory>/admin/<node id>.sock        0600, in a folder 0700

Whoever can open it may do everything; who is who there is the operating system's business. What it says is for
`callboard admin` of the same version, and no contract.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from tornado.web import Application

log = logging.getLogger(__name__)

FOLDER: Final = "admin"
SUFFIX: Final = ".sock"
MAX_BODY_BYTES: Final = 64 * 1024


def list_sockets(data_dir: Path) -> list[Path]:
    """Return the sockets in a data directory, those of dead nodes too.

    Raises:
        OSError: If that may not be read; none if there is no such folder.
    """
    folder = data_dir / FOLDER
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
    except FileNotFoundError:
        return []


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Give a name for a socket's path that is short enough for the system, 107 bytes, wherever its folder is."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def is_served(path: Path) -> bool:
    """Tell whether somebody listens on a socket of the file system."""
    with short_path(path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(name)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


class AdminServer:
    """Serves an application on a node's socket.

    Args:
        application: What operators ask.
        data_dir: The data directory.
        node_id: The node's.
    """

    def __init__(self, application: Application, data_dir: Path, node_id: str) -> None:
        self._server = HTTPServer(application, max_body_size=MAX_BODY_BYTES, max_buffer_size=4 * MAX_BODY_BYTES)
        self._path = data_dir / FOLDER / f"{node_id}{SUFFIX}"
        self._is_open = False

    def start(self) -> None:
        """Listen; a node that cannot goes on without, as its clients need none of this."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_stale(self._path.parent)
            with short_path(self._path) as name:
                self._server.add_socket(bind_unix_socket(name, mode=0o600))
        except OSError as error:
            log.warning(
                "Operators cannot reach this server: cannot listen on %s: %s",
                self._path,
                error.strerror,
                extra={"action": "admin_socket_failed"},
            )
            return
        self._is_open = True

    def close(self) -> None:
        """Listen no more, and take the socket away."""
        if self._is_open:
            self._server.stop()
            self._path.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Take away what killed nodes have left."""
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):
            if not is_served(path):
                path.unlink(missing_ok=True)
