"""Where operators' commands reach a running node: HTTP on a socket of the file system, for its owner and root alone.

    <data directory>/admin/<node id>.sock        0600, in a folder 0700

Whoever can open it may do everything; who is who there is the operating system's business. What it says is for
`callboard admin` of the same version, and no contract.
"""

import errno
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
UNFINISHED: Final = ".new"
LISTEN_TRIES: Final = 5
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
    """Tell whether somebody listens on a socket of the file system; at once, also if they stand still."""
    with short_path(path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(name)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:  # as many wait already as may
            return True
        return True


def listen_at(path: Path) -> socket.socket:
    """Return a socket of the file system that listens; it has its name only once it does.

    For whoever starts takes a name on which nobody listens for a dead node's. What it is made under is in the same
    danger, but nobody asks there: it is made again.

    Raises:
        OSError: If it cannot be made.
    """
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    for _ in range(LISTEN_TRIES):
        with short_path(unfinished) as name:
            listening = bind_unix_socket(name, mode=0o600)
        try:
            unfinished.rename(path)
        except FileNotFoundError:
            listening.close()
        except OSError:
            listening.close()
            raise
        else:
            return listening
    raise FileNotFoundError(errno.ENOENT, "somebody takes it away each time", str(unfinished))


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
            self._server.add_socket(listen_at(self._path))
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
    for pattern in (f"*{SUFFIX}", f"*{SUFFIX}{UNFINISHED}"):
        for path in folder.glob(pattern):
            with suppress(OSError):
                if not is_served(path):
                    path.unlink(missing_ok=True)
