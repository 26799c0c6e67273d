"""Asks a node over its socket."""

import http.client
import json
import math
import socket
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from scripts.admin.failures import AdminError, ExitCode
from server.admin_server import short_path
from storage.records import AuditRecord

TIMEOUT_S: Final = 15.0
"""More than a node takes for an action (`admin_handlers.ACTION_TIMEOUT_S`)."""

CODES: Final = {
    400: ExitCode.UNUSABLE_ARGUMENT,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.REFUSED,
    503: ExitCode.REFUSED,
}


class _SocketConnection(http.client.HTTPConnection):
    """HTTP on a socket of the file system."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_path(self._path) as name:
            self.sock.connect(name)


class NodeClient:
    """A node of this machine.

    Args:
        path: Its socket.

    Attributes:
        node_id: Its id, by the socket's name.
    """

    def __init__(self, path: Path) -> None:
        self.node_id = path.stem
        self._path = path

    @property
    def age_s(self) -> float:
        """How long it has had its socket; endless if it has none any more."""
        try:
            return time.time() - self._path.stat().st_mtime
        except OSError:
            return math.inf

    def get(self, path: str, query: list[tuple[str, str]] | None = None, *, timeout_s: float = TIMEOUT_S) -> Any:
        """Ask something.

        Raises:
            AdminError: If it does not answer, or with a refusal.
        """
        return self._ask("GET", path + (f"?{urlencode(query)}" if query else ""), None, timeout_s)

    def post(self, path: str, body: dict[str, Any], *, timeout_s: float = TIMEOUT_S) -> Any:
        """Do something.

        Raises:
            AdminError: If it does not answer, or with a refusal.
        """
        return self._ask("POST", path, json.dumps(body), timeout_s)

    def act(self, path: str, audit: AuditRecord, **wanted: Any) -> Any:
        """Do something to a session, which is noted.

        Raises:
            AdminError: If it does not answer, or with a refusal.
        """
        body = {"session_key": audit.session_key, "action_id": str(audit.id), "operator": audit.operator}
        return self.post(path, {**body, **wanted})

    def _ask(self, method: str, path: str, body: str | None, timeout_s: float) -> Any:
        connection = _SocketConnection(self._path, timeout_s)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            document = json.loads(response.read())
        except PermissionError as error:
            raise AdminError(
                ExitCode.NO_NODE,
                f"may not use {self._path}: run the command as the user that the server runs as, or as root",
            ) from error
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise NodeGone(self._path) from error
        except (TimeoutError, BlockingIOError) as error:  # the latter if as many wait to be let in as may
            raise AdminError(
                ExitCode.NO_NODE,
                f"node {self.node_id} does not answer within {timeout_s:g} s: it is overloaded or stands still; "
                "see its log, and `kill -9` it if it stays so: another start goes on where it was",
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            advice = "ask again" if method == "GET" else "whether it was done, `callboard admin audit` tells"
            words = f"node {self.node_id} broke off its answer ({error}): {advice}"
            raise AdminError(ExitCode.NO_NODE, words) from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise AdminError(CODES.get(response.status, ExitCode.NO_NODE), document["error"])
        return document


class NodeGone(AdminError):
    """Raised when nobody listens on a socket: its node was killed."""

    def __init__(self, path: Path) -> None:
        super().__init__(ExitCode.NO_NODE, f"nobody listens on {path}: the node is gone")
