"""Runs a server from its settings to its end: database, node, sockets, signals."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from tornado.netutil import bind_sockets

from actors.agents.agents_file import load_agents
from actors.agents.registry import AgentRegistry
from actors.turn_runner import interrupt_agent
from server.admin_handlers import make_admin_app
from server.admin_server import AdminServer
from server.app import make_app
from server.config import ConfigError, SettingInForce, Settings, describe_settings
from server.event_loop import make_event_loop
from server.garbage import collect_garbage_seldom
from server.gate import Gate, make_gate
from server.listener import SPARE_CONNECTIONS, ChatServer
from server.logs import configure_logging
from server.loop_watch import LoopWatch
from server.node import Node
from server.open_files import allow_connections
from server.tracing import NodeTracer, find_tracing
from storage.database import migrate
from storage.embedded import EmbeddedPostgres
from storage.errors import EmbeddedPostgresError

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may hold the interpreter when another wants it. The writer's thread asks for it several times per
commit, and each time waits that long for a loop that is busy. With Python's 5 ms, the first token beside one unpaced
agent took 210 to 250 ms; with 0.5 ms, 54 to 62 ms (medians of 60, alternating, two cores)."""

WATCH_INTERVAL_S = 0.5
"""How often to look whether the embedded PostgreSQL still can be reached."""

CANCEL_TIMEOUT_S = 2.0
"""How long tasks that are left at the end, agents' mostly, may take to clean up."""


def serve(settings: Settings, environ: Mapping[str, str], options: Mapping[str, str | None] | None = None) -> None:
    """Run a server until it is told to stop.

    Args:
        settings: What is in force.
        environ: The environment.
        options: The command's; what of the settings came from them, operators are told.

    Raises:
        ConfigError, AgentsFileError, StorageError: if it cannot start; the text says why and what to do.
    """
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gate = make_gate(settings, max_visits=allow_connections(settings.max_connections))
    agents = load_agents(settings.agents_file, environ)
    make_tracer = find_tracing(settings)
    with open_database_for(settings) as dsn:
        migrate(dsn)
        collect_garbage_seldom()
        revive = None if settings.database_url is not None else partial(revive_embedded, settings)
        described = describe_settings(settings, options or {}, environ)
        run_to_end(run_node(settings, dsn, agents, gate, revive, described, make_tracer))


def run_to_end(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on a new loop; tasks that it leaves are cancelled, and left to themselves if they resist.

    `asyncio.run` would wait for them, and an agent that swallows its cancellation would keep the server from stopping.
    """
    loop = make_event_loop()
    try:
        loop.run_until_complete(main)
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            _, resisting = loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_S))
            if resisting:
                log.warning("%s tasks do not end; leaving them", len(resisting), extra={"action": "tasks_left"})
                logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # which has nothing to add
    finally:
        loop.close()


@contextmanager
def open_database_for(settings: Settings) -> Iterator[str]:
    """Give the URI of the database: the one configured, or an embedded one that stops with the block."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    embedded = EmbeddedPostgres.start(settings.data_dir, report=report_progress)
    try:
        yield embedded.dsn
    finally:
        embedded.stop()


def revive_embedded(settings: Settings) -> None:
    """Start the embedded PostgreSQL again if it is gone, as after a kill; its recovery is waited for."""
    try:
        # A second handle of this process: starting is attaching if it runs, and leaving stops nothing while we use it.
        EmbeddedPostgres.start(settings.data_dir, report=report_progress).stop()
    except EmbeddedPostgresError as error:
        log.error("Could not start PostgreSQL again: %s", error, extra={"action": "postgres_not_revived"})


async def watch_database(node: Node, revive: Callable[[], None]) -> None:
    """Revive the database whenever the writer has not reached it at two looks in a row."""
    was_reachable = True
    while True:
        await asyncio.sleep(WATCH_INTERVAL_S)
        is_reachable = node.is_database_reachable
        if not is_reachable and not was_reachable:
            await asyncio.to_thread(revive)
        was_reachable = is_reachable


def report_progress(text: str) -> None:
    """Log what the embedded PostgreSQL is at."""
    log.info("%s", text, extra={"action": "postgres_progress"})


async def run_node(
    settings: Settings,
    dsn: str,
    agents: AgentRegistry,
    gate: Gate,
    revive: Callable[[], None] | None = None,
    described: Sequence[SettingInForce] = (),
    make_tracer: Callable[[str], NodeTracer] | None = None,
) -> None:
    """Listen, say so on standard output, and serve until SIGINT or SIGTERM; a second one ends the grace at once."""
    node = Node(settings, dsn=dsn, agents=agents, make_tracer=make_tracer)
    try:
        sockets = bind_sockets(settings.port, settings.address)
    except OSError as error:
        raise ConfigError(
            f"--port (PORT): cannot listen on {settings.address}:{settings.port}: {error.strerror}; "
            "stop what listens there, or choose another port (0 takes a free one)"
        ) from error
    node.start()
    loop_watch = LoopWatch(asyncio.get_running_loop(), interrupt=interrupt_agent, limit_s=settings.turn_block_s)
    loop_watch.start()
    watch = asyncio.create_task(watch_database(node, revive)) if revive is not None else None
    app = make_app(node, gate, metrics_token=settings.metrics_token)
    server = ChatServer(app, max_connections=gate.max_visits + SPARE_CONNECTIONS)
    server.add_sockets(sockets)
    admin = AdminServer(make_admin_app(node, described), settings.data_dir, node.node_id)
    admin.start()
    stop = listen_for_signals(node)
    host = f"[{settings.address}]" if ":" in settings.address else settings.address
    print(f"Callboard listening on http://{host}:{sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await stop.wait()
    log.info("Stopping", extra={"action": "stopping"})
    if watch is not None:
        watch.cancel()
    server.stop()
    await node.stop()
    admin.close()
    await server.close_all_connections()
    loop_watch.close()


def listen_for_signals(node: Node) -> asyncio.Event:
    """Return an event that the first SIGINT or SIGTERM sets; later ones end the grace."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            node.end_grace()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop
