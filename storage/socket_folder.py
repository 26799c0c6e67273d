"""Where an embedded server's socket is: in the data directory, or elsewhere if that has too long a path for one."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

from storage.postmaster import PORT
from storage.service_account import Account, Report, make_private_folder, make_reachable

SOCKET_PATH_LIMIT_BYTES: Final = 107


def choose_socket_folder(data_dir: Path, account: Account) -> Path:
    """Return the folder, the same one each time."""
    own = data_dir / "run"
    if _is_usable_for_socket(own):
        return own
    name = f"callboard-{account.uid}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") if os.geteuid() != 0 else ""  # root's is hidden
    parents = [Path(runtime), Path(tempfile.gettempdir()).resolve(), Path("/tmp").resolve()]  # noqa: S108
    folders = [parent / name for parent in parents if parent.is_absolute() and parent.is_dir()]
    return next((folder for folder in folders if _is_usable_for_socket(folder)), own)


def prepare_socket_folder(data_dir: Path, account: Account, report: Report) -> Path:
    """Make the folder, for `account` alone, and return it."""
    folder = choose_socket_folder(data_dir, account)
    make_reachable(folder.parent, account, report)
    make_private_folder(folder, account)
    return folder


def remove_distant_socket_folder(data_dir: Path, account: Account) -> None:
    """Remove the folder if it is outside of the data directory."""
    folder = choose_socket_folder(data_dir, account)
    if folder.parent != data_dir:
        with contextlib.suppress(OSError):  # not ours or not empty: then it stays
            folder.rmdir()


def _is_usable_for_socket(folder: Path) -> bool:
    path = os.fsencode(folder / f".s.PGSQL.{PORT}")
    return len(path) <= SOCKET_PATH_LIMIT_BYTES and b"," not in path  # libpq takes a comma for the next host
