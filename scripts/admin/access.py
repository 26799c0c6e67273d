"""How commands reach what is stored, and the nodes of this machine."""

import getpass
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import click

from scripts.admin.failures import AdminError, ExitCode
from scripts.admin.node_client import NodeClient, NodeGone
from server.admin_server import list_sockets
from server.config import ConfigError, Settings, load_settings
from storage.audit_store import AuditStore
from storage.database import (
    Database,
    DatabaseError,
    connected,
    describe_dsn,
    describe_error,
    open_database,
    pending_migrations,
)
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailable, EmbeddedPostgresError, SchemaError
from storage.inspection_records import StoredSession
from storage.inspection_store import InspectionStore
from storage.operator_store import OperatorStore
from storage.records import AuditRecord, EventType

STATUS_TIMEOUT_S: Final = 3.0

READY_LIMIT_S: Final = 5.0
"""How long an embedded PostgreSQL may let no connection in: as long as another one's `connect_timeout`."""

DEATH_TIMEOUT_S: Final = 4.0
"""How long nodes that were killed are waited for: longer than the two seconds that they linger."""

DEATH_LOOK_S: Final = 0.1

YOUNG_S: Final = 10.0
"""A server that has started so long ago may have no row yet: it listens before its writer has reached the database."""

ROW_TIMEOUT_S: Final = 2.0
"""How long the row of such a one is waited for."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the nodes of this machine say.

    Attributes:
        answers: By node.
        failures: Of those that do not answer, why.
        gone: Those that were killed: they have a socket, and nobody listens on it.
    """

    answers: Mapping[str, Any]
    failures: Mapping[str, AdminError]
    gone: frozenset[str]


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored data, with a connection held.

    Attributes:
        dsn: Where they are.
    """

    dsn: str
    database: Database
    inspection: InspectionStore
    operator: OperatorStore
    audit: AuditStore

    def list_open(self, session: StoredSession, *, reaches_all: bool) -> list[int]:
        """Return the events of a session that have no outcome: the first one, or all."""
        events = self.inspection.list_events(session.session_key, after=session.processed_event_seq, limit=10_000)
        found = [event.seq for event in events if event.type is EventType.USER_MESSAGE]
        return found if reaches_all else found[:1]

    def require_session(self, session_key: str) -> StoredSession:
        """Return a session.

        Raises:
            AdminError: If there is none of that key.
        """
        session = self.inspection.read_session(session_key)
        if session is None:
            raise AdminError(
                ExitCode.NOT_FOUND,
                f"there is no session {session_key}; `callboard admin sessions list` shows those that there are",
            )
        return session


class Access:
    """What a command was started with.

    Args:
        options: Of the group: where the data are.
        environ: The environment.
    """

    def __init__(self, options: Mapping[str, str | None], environ: Mapping[str, str]) -> None:
        try:
            self.settings: Settings = load_settings(options, environ)
        except (ConfigError, EmbeddedPostgresError) as error:
            raise AdminError(ExitCode.UNUSABLE_ARGUMENT, str(error)) from error
        self.options = options
        self.environ = environ

    @contextmanager
    def open_dsn(self, *, create: bool = False) -> Iterator[str]:
        """Give the URI of the database; an embedded one is started for the length of the block, if it does not run.

        Args:
            create: True to make an embedded one that is not there.

        Raises:
            AdminError: If there is none.
        """
        if self.settings.database_url is not None:
            yield self.settings.database_url
            return
        data_dir = self.settings.data_dir
        if not create and not self._has_data():
            raise AdminError(
                ExitCode.NO_DATABASE,
                f"there are no data in {data_dir}: name the server's directory, `callboard admin --data-dir DIR ...` "
                "(CALLBOARD_DATA_DIR), or its database, `callboard admin --database-url URL ...` (DATABASE_URL)",
            )
        try:
            embedded = EmbeddedPostgres.start(data_dir, report=lambda _: None, ready_limit_s=READY_LIMIT_S)
        except EmbeddedPostgresError as error:
            raise AdminError(ExitCode.NO_DATABASE, str(error)) from error
        try:
            yield embedded.dsn
        finally:
            embedded.stop()

    def _has_data(self) -> bool:
        try:
            return (self.settings.data_dir / "postgres" / "PG_VERSION").exists()
        except OSError as error:
            raise AdminError(
                ExitCode.NO_DATABASE,
                f"may not read {self.settings.data_dir}: {error.strerror}; run the command as the user that the "
                "server runs as, or as root",
            ) from error

    def describe_target(self) -> str:
        """Return where the data are, without credentials."""
        url = self.settings.database_url
        return str(self.settings.data_dir) if url is None else describe_dsn(url)

    @contextmanager
    def open_stored(self) -> Iterator[Stored]:
        """Give the stored data.

        Raises:
            AdminError: If they cannot be used.
        """
        with self.open_dsn() as dsn, opened(dsn) as database, connected(database):
            require_schema(database)
            yield Stored(dsn, database, InspectionStore(database), OperatorStore(database), AuditStore(database))

    def list_nodes(self) -> list[NodeClient]:
        """Return the nodes of this machine that have a socket in the data directory, dead ones too.

        Raises:
            AdminError: If it may not be read.
        """
        try:
            return [NodeClient(path) for path in list_sockets(self.settings.data_dir)]
        except OSError as error:
            raise AdminError(
                ExitCode.NO_NODE,
                f"may not read {self.settings.data_dir}: {error.strerror}; run the command as the user that the "
                "server runs as, or as root",
            ) from error

    def ask_nodes(self, path: str, query: list[tuple[str, str]] | None = None) -> dict[str, Any]:
        """Ask all nodes of this machine that have the database something, and return the answers by node.

        Those that are gone are left out; of one that does not answer, standard error has a line.

        Raises:
            AdminError: If none answers, and not because none runs.
        """
        said = self.try_nodes(path, query, among=self._read_own_nodes())
        if said.failures and not said.answers:
            raise next(iter(said.failures.values()))
        warn(said.failures)
        return dict(said.answers)

    def _read_own_nodes(self) -> Set[str] | None:
        """Return the nodes of the database that is asked for; None if it does not say, of which a line tells."""
        if not self.list_nodes() or (self.settings.database_url is None and not self._has_data()):
            return frozenset()
        try:
            with self.open_stored() as stored:
                return self._wait_for_own_nodes(stored)
        except AdminError as error:
            words = f"whether the nodes with a socket in {self.settings.data_dir} have this database is not known"
            click.echo(f"Warning: {words}: {error.message}", err=True)
            return None

    def _wait_for_own_nodes(self, stored: Stored) -> frozenset[str]:
        """Return the nodes that the database has a row of; that of a server that has just started is waited for."""
        deadline_s = time.monotonic() + ROW_TIMEOUT_S
        while True:
            own = list_own_nodes(stored)
            is_settled = all(node.node_id in own or node.age_s > YOUNG_S for node in self.list_nodes())
            if is_settled or time.monotonic() > deadline_s:
                return own
            time.sleep(DEATH_LOOK_S)

    def try_nodes(
        self, path: str, query: list[tuple[str, str]] | None = None, *, among: Set[str] | None = None
    ) -> Answers:
        """Ask nodes of this machine something; returns the answers, and what is known of those that give none.

        Args:
            path: What.
            query: More of it.
            among: Only these: servers of several databases may share a data directory. None for all.
        """
        answers: dict[str, Any] = {}
        failures: dict[str, AdminError] = {}
        gone: set[str] = set()
        for node in self.list_nodes():
            if among is not None and node.node_id not in among:
                continue
            try:
                answers[node.node_id] = node.get(path, query, timeout_s=STATUS_TIMEOUT_S)
            except NodeGone:
                gone.add(node.node_id)
            except AdminError as error:
                failures[node.node_id] = error
        return Answers(answers, failures, frozenset(gone))

    def find_node(self, stored: Stored, session: StoredSession) -> NodeClient | None:
        """Return the node to act through on a session: its owner, or any if it has none that lives.

        If that was killed a moment ago, it is waited until it is dead for all.

        Returns:
            None if no node of this machine runs.

        Raises:
            AdminError: If its owner runs, but does not answer, or not where this command does.
        """
        own = self._wait_for_own_nodes(stored) | ({session.owner} if session.owner is not None else frozenset())
        said = self.try_nodes("/status", among=own)
        if session.owner is not None and session.owner in said.failures:
            raise said.failures[session.owner]
        if said.failures and not said.answers:
            raise next(iter(said.failures.values()))
        warn(said.failures)
        nodes = [node for node in self.list_nodes() if node.node_id in said.answers]
        if session.is_owner_alive and session.owner is not None:
            for node in nodes:
                if node.node_id == session.owner:
                    return node
            if session.owner not in said.gone:
                raise AdminError(
                    ExitCode.NO_NODE,
                    f"node {session.owner} has {session.session_key} and has no socket in {self.settings.data_dir}: "
                    "run the command on its machine, with its --data-dir",
                )
            if not wait_for_ends(stored, {session.owner}):
                words = f"node {session.owner} has {session.session_key} and was killed a moment ago: try again in ten"
                raise AdminError(ExitCode.REFUSED, f"{words} seconds")
        takers = [node for node in nodes if not said.answers[node.node_id]["is_stopping"]]
        return takers[0] if takers else nodes[0] if nodes else None


def list_own_nodes(stored: Stored) -> frozenset[str]:
    """Return the nodes that the database has a row of."""
    return frozenset(node.node_id for node in stored.inspection.list_nodes())


@contextmanager
def opened(dsn: str) -> Iterator[Database]:
    """Give a database without a connection yet, and close it in the end.

    Raises:
        AdminError: If the block cannot use it.
    """
    database = open_database(dsn, application_name="callboard-admin")
    try:
        with database_told(dsn):
            yield database
    finally:
        database.close_all()


@contextmanager
def database_told(dsn: str) -> Iterator[None]:
    """Turn what a database refuses, and that it cannot be reached, into the command's error, which names it."""
    try:
        yield
    except DatabaseError as error:
        raise AdminError(ExitCode.NO_DATABASE, f"the database refuses: {describe_error(error)}") from error
    except DatabaseUnavailable as error:
        place = describe_dsn(dsn)
        why = str(error).removeprefix(f"cannot reach {place}: ")
        advice = "see whether it runs and --database-url (DATABASE_URL) is right"
        raise AdminError(ExitCode.NO_DATABASE, f"cannot use {place}: {why}; {advice}") from error


def wait_for_ends(stored: Stored, gone: Set[str]) -> bool:
    """Wait until nodes that were killed are taken to be dead by all; returns whether they are, `DEATH_TIMEOUT_S` later.

    A node lingers for two seconds (`storage.node_store`), and so do all after PostgreSQL has started, as it may have
    for this command.
    """
    deadline_s = time.monotonic() + DEATH_TIMEOUT_S
    while any(node.is_alive and node.node_id in gone for node in stored.inspection.list_nodes()):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(DEATH_LOOK_S)
    return True


def warn(failures: Mapping[str, AdminError]) -> None:
    """Say which nodes do not answer, while others do, or what is stored can be shown all the same."""
    for failure in failures.values():
        click.echo(f"Warning: {failure.message}", err=True)


def require_schema(database: Database) -> None:
    """Raise AdminError unless the schema is this code's; needs a connection."""
    try:
        missing = pending_migrations(database)
    except SchemaError as error:
        raise AdminError(ExitCode.NO_DATABASE, str(error)) from error
    if missing:
        raise AdminError(
            ExitCode.NO_DATABASE,
            f"the database's schema is older than this Callboard: it lacks {', '.join(missing)}; "
            "run `callboard admin migrate`, or start a server of this version",
        )


def make_audit(
    action: str, *, session_key: str | None = None, event_seq: int | None = None, **details: Any
) -> AuditRecord:
    """Return what is to be noted of an action."""
    return AuditRecord(
        id=uuid.uuid4(),
        action=action,
        operator=name_operator(),
        session_key=session_key,
        event_seq=event_seq,
        details={name: value for name, value in details.items() if value is not None},
    )


def name_operator() -> str:
    """Return who runs this command: whoever has become root by sudo is named as such."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone.

    Raises:
        AdminError: If the answer is no, or there is none.
        KeyboardInterrupt: If it is Ctrl-C.
    """
    if yes:
        return
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        click.echo(err=True)  # the question's line has not ended
        raise AdminError(ExitCode.WRONG, "the question was not answered: give --yes if the answer is yes") from None
    if not agreed:
        if not sys.stdin.isatty():
            click.echo(err=True)
        raise AdminError(ExitCode.WRONG, "the question was answered with no")


pass_access = click.make_pass_decorator(Access)
