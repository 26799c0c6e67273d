"""The data directory of an embedded server: where it is, whether it can be used, and our own files in it.

`storage.embedded` says which files there are.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from storage.errors import EmbeddedPostgresError
from storage.service_account import describe_user

CHOOSE_ANOTHER: Final = "choose another data directory with --data-dir or CALLBOARD_DATA_DIR"


def default_data_dir() -> Path:
    """Return where data goes when nobody says otherwise.

    Returns:
        `/var/lib/callboard` for root, else `$XDG_DATA_HOME/callboard` or `~/.local/share/callboard`.

    Raises:
        EmbeddedPostgresError: When the home directory is unknown.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/callboard")
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if data_home.is_absolute():  # the XDG specification has relative ones ignored
        return data_home / "callboard"
    try:
        return Path.home() / ".local/share/callboard"
    except RuntimeError as error:
        raise EmbeddedPostgresError(f"your home directory is unknown; {CHOOSE_ANOTHER}") from error


class DataDirectory:
    """One that is there, and that this process may use.

    Attributes:
        path: Without links.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def prepare(cls, data_dir: Path) -> "DataDirectory":
        """Make the directory if it is not there, and return it.

        Raises:
            EmbeddedPostgresError: When it cannot be used; the text says why.
        """
        data_dir = data_dir.absolute()
        if "\n" in str(data_dir):
            raise EmbeddedPostgresError(
                f"the data directory {str(data_dir)!r} has a line break in its name; {CHOOSE_ANOTHER}"
            )
        if data_dir.exists() and not data_dir.is_dir():
            raise EmbeddedPostgresError(f"the data directory {data_dir} is not a directory; {CHOOSE_ANOTHER}")
        # Under root another account has to pass it; what is in it has modes of its own.
        data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        data_dir = data_dir.resolve()
        cluster = data_dir / "postgres"
        for folder in (data_dir, cluster) if cluster.exists() else (data_dir,):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise EmbeddedPostgresError(
                    f"the data directory's folder {folder} belongs to {describe_user(folder.stat().st_uid)}, and "
                    f"{describe_user(os.geteuid())} may not write in it: run Callboard as its owner or {CHOOSE_ANOTHER}"
                )
        return cls(data_dir)

    def write_file(self, name: str, lines: list[str]) -> None:
        """Write lines into a file that everybody may read, and that is there at all only when it is whole."""
        unfinished = self.path / f"{name}.new"
        unfinished.unlink(missing_ok=True)
        with os.fdopen(self.open_file(unfinished.name, os.O_WRONLY), "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # PostgreSQL's account reads it
            file.write(b"".join(os.fsencode(line) + b"\n" for line in lines))
        unfinished.replace(self.path / name)

    def open_file(self, name: str, flags: int) -> int:
        """Open a file in the data directory, created if missing for the directory's owner.

        Root may work in a user's directory here, so it follows no link and changes the owner only of what it made.
        """
        path = self.path / name
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(path, flags)
        if os.geteuid() == 0:
            owner = self.path.stat()
            os.fchown(file, owner.st_uid, owner.st_gid)
        return file

    def sync(self) -> None:
        """Have the names in it outlive a power cut."""
        opened = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextlib.contextmanager
def os_errors_translated(data_dir: Path) -> Iterator[None]:
    """Turn the operating system's refusals into EmbeddedPostgresError."""
    try:
        yield
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        raise EmbeddedPostgresError(
            f"cannot use the data directory {data_dir} ({error.strerror}{where}); {CHOOSE_ANOTHER}"
        ) from error
