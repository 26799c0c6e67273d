"""Operators' sockets: those of nodes that live stay, whatever these are at; those of dead ones go."""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tornado.web import Application

from scripts.admin.failures import AdminError, ExitCode
from scripts.admin.node_client import NodeClient
from server import admin_server
from server.admin_server import AdminServer, is_served, list_sockets, remove_stale


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where nodes have their sockets."""
    folder = tmp_path / "admin"
    folder.mkdir()
    return folder


@pytest.fixture
def stopped(folder: Path) -> Iterator[Path]:
    """The socket of a node that lets nobody in, with as many waiting as may."""
    path = folder / "stopped.sock"
    with ExitStack() as opened:
        listening = opened.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(path))
        listening.listen(0)
        while True:
            client = opened.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        yield path


def test_node_that_starts_leaves_one_alone_that_is_about_to_listen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[str] = []

    def bind_slowly(name: str, mode: int) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        listening.setblocking(False)
        listening.bind(name)
        if not bound:
            remove_stale(folder)  # another node's start
        bound.append(f"{name} {mode:o}")
        listening.listen()
        return listening

    async def start() -> None:
        monkeypatch.setattr(admin_server, "bind_unix_socket", bind_slowly)
        server = AdminServer(Application(), folder.parent, "node1")
        server.start()
        assert [path.name for path in list_sockets(folder.parent)] == ["node1.sock"]
        assert is_served(folder / "node1.sock")
        server.close()

    asyncio.run(start())
    assert list(folder.iterdir()) == []


def test_node_that_starts_waits_for_none_that_stands_still(folder: Path, stopped: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(remove_stale, folder).result(timeout=5)
    assert stopped.exists()


def test_node_that_stands_still_does_not_answer(stopped: Path) -> None:
    with pytest.raises(AdminError, match="node stopped does not answer within 3 s: it is overloaded") as failed:
        NodeClient(stopped).get("/status", timeout_s=3)
    assert failed.value.exit_code == ExitCode.NO_NODE


def test_what_dead_nodes_have_left_is_taken_away(folder: Path) -> None:
    for name in ("dead.sock", "dead2.sock.new"):
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(folder / name))
            listening.listen()
    (folder / "notes").touch()
    remove_stale(folder)
    assert [path.name for path in folder.iterdir()] == ["notes"]
