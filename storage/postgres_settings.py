"""The settings of the embedded PostgreSQL, as lines of its configuration files. Pure."""

from collections.abc import Iterable
from pathlib import Path

HBA_LINES = ["local all callboard,postgres peer map=callboard"]
"""pg_hba.conf: over the Unix socket only, and only for the accounts of the ident map."""


def render_settings(included: Path, socket_folder: Path, *, port: int, hba: Path, ident: Path) -> list[str]:
    """Return the lines of postgresql.conf.

    Args:
        included: The cluster's own postgresql.conf, which comes first: ours win.
        socket_folder: Where the Unix socket is made.
        port: Names the socket; there is no TCP.
        hba: Where pg_hba.conf is.
        ident: Where pg_ident.conf is.
    """
    settings = {
        "listen_addresses": "",
        "port": str(port),
        # A list of double-quoted names inside the single-quoted setting.
        "unix_socket_directories": '"' + str(socket_folder).replace('"', '""') + '"',
        "unix_socket_permissions": "0700",
        "hba_file": str(hba),
        "ident_file": str(ident),
        "cluster_name": "callboard",
        "max_connections": "100",
        "max_wal_size": "256MB",  # the default of 1 GB is much for a newcomer's disk
        "fsync": "on",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_checkpoints": "off",
        "log_line_prefix": "%m [%p] %q%u@%d ",
    }
    return [
        "# Written by Callboard at every start. For settings of your own use ALTER SYSTEM.",
        f"include {quote_setting(str(included))}",
        *(f"{name} = {quote_setting(value)}" for name, value in settings.items()),
    ]


def render_ident(names: Iterable[str]) -> list[str]:
    """Return the lines of pg_ident.conf: these accounts of the machine may be either role."""
    return [f'callboard "{name}" {role}' for name in sorted(names) for role in ("callboard", "postgres")]


def quote_setting(value: str) -> str:
    """Return a value as postgresql.conf takes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
