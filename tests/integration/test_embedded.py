"""The embedded PostgreSQL, with real processes: sharing, crashes, hostile folders, root and ordinary users."""

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from storage import embedded, patience, service_account
from storage.data_directory import default_data_dir
from storage.embedded import EmbeddedPostgres
from storage.errors import EmbeddedPostgresError
from storage.service_account import add_search_permission

REPOSITORY = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root runs PostgreSQL as another account")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc or POSIX ACLs")

USER_PROCESS = """
import sys
from pathlib import Path
from storage.embedded import EmbeddedPostgres
from storage.errors import EmbeddedPostgresError
try:
    server = EmbeddedPostgres.start(Path(sys.argv[1]), report=lambda line: print("report", line, flush=True))
except EmbeddedPostgresError as error:
    sys.exit(f"refused: {error}")
print("ready", server.dsn, flush=True)
sys.stdin.read()
server.stop()
"""

Start = Callable[[Path], EmbeddedPostgres]
StartProcess = Callable[..., "subprocess.Popen[str]"]


def wait_until(predicate: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


def query(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def as_superuser(dsn: str) -> str:
    return dsn.replace("callboard@/callboard", "postgres@/postgres")


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres/postmaster.pid").read_text().splitlines()[0])


def is_running(data_dir: Path) -> bool:
    """Tell whether a process of PostgreSQL lives, by the lock that all of them inherit."""
    with (data_dir / "postgres.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_ready_dsn(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready "):
            return line.split()[1]
    pytest.fail(f"the process ended: {process.communicate()}")


def read_report(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    assert any(text in line for line in process.stdout)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder beside pytest's own: every run of pytest resets that one's mode, and with it root's grant to pass it."""
    with tempfile.TemporaryDirectory(prefix="callboard-test-") as name:
        yield Path(name).resolve()


@pytest.fixture(scope="module")
def stopped_cluster() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="callboard-test-") as name:
        EmbeddedPostgres.start(Path(name), report=lambda line: None).stop()
        yield Path(name).resolve() / "postgres"


@pytest.fixture
def data_dir(tmp_path: Path, stopped_cluster: Path) -> Path:
    """A data directory with a cluster that has been used and stopped; a copy takes a tenth of the time of initdb."""
    folder = tmp_path / "data"
    folder.mkdir()
    subprocess.run(["/bin/cp", "-a", stopped_cluster, folder], check=True)
    return folder


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def start(tmp_path: Path, messages: list[str]) -> Iterator[Start]:
    started: list[EmbeddedPostgres] = []

    def start_server(data_dir: Path) -> EmbeddedPostgres:
        server = EmbeddedPostgres.start(data_dir, report=messages.append)
        started.append(server)
        return server

    yield start_server
    for server in started:
        server.stop()


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[StartProcess]:
    """Start a process of its own that uses a server; at the end all are killed and their servers stopped."""
    processes: list[subprocess.Popen[str]] = []
    data_dirs: set[Path] = set()

    def start_user_process(data_dir: Path, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", USER_PROCESS, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **{"cwd": REPOSITORY, **options},
        )
        processes.append(process)
        data_dirs.add(data_dir)
        return process

    yield start_user_process
    for process in processes:
        process.kill()
        process.communicate()
    for data_dir in data_dirs:
        if (data_dir / "postgres.lock").exists() and is_running(data_dir):
            EmbeddedPostgres.start(data_dir, report=lambda line: None).stop()


# What a newcomer gets


def test_fresh_start_answers_queries_as_owner(start: Start, tmp_path: Path, messages: list[str]) -> None:
    server = start(tmp_path / "data")
    row = query(
        server.dsn,
        "SELECT current_user::text, current_database()::text, rolsuper, rolcreatedb, pg_get_userbyid(datdba)::text, "
        "datlocprovider, datlocale, pg_encoding_to_char(encoding)::text, current_setting('max_wal_size'), "
        "current_setting('timezone'), current_setting('fsync'), current_setting('server_version_num')::int / 10000 "
        "FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()",
    )[0]
    expected = ("callboard", "callboard", False, True, "callboard", "b", "C.UTF-8", "UTF8", "256MB", "UTC", "on", 18)
    assert row == expected
    assert any(message.startswith("Initialising PostgreSQL in ") for message in messages)
    assert all("\n" not in message for message in messages)


def test_only_peers_on_private_socket_get_in(start: Start, data_dir: Path) -> None:
    superuser = as_superuser(start(data_dir).dsn)
    rules = query(superuser, "SELECT type, user_name::text, auth_method FROM pg_hba_file_rules")
    assert rules == [("local", "{callboard,postgres}", "peer")]
    owner = pwd.getpwuid((data_dir / "postgres").stat().st_uid).pw_name
    admitted = {name for (name,) in query(superuser, "SELECT sys_name FROM pg_ident_file_mappings")}
    assert admitted == {owner, "root"}
    assert query(superuser, "SHOW listen_addresses") == [("",)]
    folder = query(superuser, "SHOW unix_socket_directories")[0][0].strip('"')
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700


@only_linux
def test_postgres_holds_no_internet_socket(start: Start, data_dir: Path) -> None:
    start(data_dir)
    process = Path(f"/proc/{postmaster_pid(data_dir)}")
    held = {str(fd.readlink()) for fd in (process / "fd").iterdir()}
    tables = [table.read_text().splitlines()[1:] for table in (process / "net/tcp", process / "net/tcp6")]
    internet = {f"socket:[{line.split()[9]}]" for table in tables for line in table}
    assert not held & internet


def test_default_data_dir_follows_user_and_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/callboard")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_dir() == Path("/home/someone/.local/share/callboard")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert default_data_dir() == Path("/xdg/callboard")


# Sharing


def test_last_user_to_stop_stops_postgres(start: Start, data_dir: Path) -> None:
    first, second = start(data_dir), start(data_dir)
    pid = postmaster_pid(data_dir)
    assert first.dsn == second.dsn
    first.stop()
    first.stop()
    assert query(second.dsn, "SELECT 1") == [(1,)]
    assert postmaster_pid(data_dir) == pid
    second.stop()
    assert not is_running(data_dir)
    with pytest.raises(psycopg2.OperationalError):
        query(second.dsn, "SELECT 1")


@pytest.mark.slow(reason="makes a new cluster")
def test_two_processes_started_at_once_share(start_process: StartProcess, tmp_path: Path) -> None:
    processes = [start_process(tmp_path / "data") for _ in range(2)]
    assert len({read_ready_dsn(process) for process in processes}) == 1
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert not is_running(tmp_path / "data")


@pytest.mark.slow(reason="makes a new cluster")
def test_two_data_dirs_run_side_by_side(start: Start, data_dir: Path, tmp_path: Path) -> None:
    one, other = start(data_dir), start(tmp_path / "other")
    query(one.dsn, "CREATE TABLE mine (x int)")
    assert query(other.dsn, "SELECT to_regclass('mine')") == [(None,)]
    one.stop()
    assert query(other.dsn, "SELECT 1") == [(1,)]


def test_wait_for_start_lock_is_reported(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_REPORT_S", 0.1)
    messages: list[str] = []
    with (data_dir / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def report(message: str) -> None:
            messages.append(message)
            fcntl.flock(lock, fcntl.LOCK_UN)

        EmbeddedPostgres.start(data_dir, report=report).stop()
    assert messages[0].startswith("Waiting for another process")


# Crashes and interruptions


def test_killed_postgres_recovers_with_its_data(start: Start, data_dir: Path) -> None:
    first = start(data_dir)
    query(first.dsn, "CREATE TABLE kept AS SELECT 42 AS x")
    os.kill(postmaster_pid(data_dir), signal.SIGKILL)
    assert query(start(data_dir).dsn, "SELECT x FROM kept") == [(42,)]


def test_killed_user_leaves_postgres_to_next(start: Start, start_process: StartProcess, data_dir: Path) -> None:
    process = start_process(data_dir)
    dsn = read_ready_dsn(process)
    pid = postmaster_pid(data_dir)
    process.kill()
    process.wait()
    assert query(dsn, "SELECT 1") == [(1,)]
    server = start(data_dir)
    assert postmaster_pid(data_dir) == pid
    server.stop()
    assert not is_running(data_dir)


def test_ctrl_c_does_not_reach_postgres(start_process: StartProcess, data_dir: Path) -> None:
    process = start_process(data_dir)
    dsn = read_ready_dsn(process)
    os.killpg(process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1]
    assert query(dsn, "SELECT 1") == [(1,)]
    if sys.platform == "linux":
        assert os.getsid(postmaster_pid(data_dir)) != process.pid


@pytest.mark.slow(reason="makes a new cluster")
def test_kill_within_initdb_heals(start: Start, start_process: StartProcess, tmp_path: Path) -> None:
    process = start_process(tmp_path / "data")
    wait_until((tmp_path / "data/postgres.new/PG_VERSION").exists)
    process.kill()
    process.wait()
    assert not (tmp_path / "data/postgres").exists()
    assert query(start(tmp_path / "data").dsn, "SELECT 1") == [(1,)]
    assert not (tmp_path / "data/postgres.new").exists()


@pytest.mark.slow(reason="makes a new cluster")
@pytest.mark.parametrize("step", ["Initialising", "Starting"])
def test_interrupted_start_heals(step: str, start: Start, start_process: StartProcess, tmp_path: Path) -> None:
    process = start_process(tmp_path / "data")
    read_report(process, step)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1]
    assert not is_running(tmp_path / "data")
    assert query(start(tmp_path / "data").dsn, "SELECT 1") == [(1,)]


def test_missing_role_and_database_are_made_again(start: Start, data_dir: Path) -> None:
    first = start(data_dir)
    query(as_superuser(first.dsn), "DROP DATABASE callboard")
    query(as_superuser(first.dsn), "DROP ROLE callboard")
    assert query(start(data_dir).dsn, "SELECT 1") == [(1,)]


@only_linux
def test_stale_pid_of_another_program_is_ignored(start: Start, data_dir: Path) -> None:
    start(data_dir).stop()
    pid_file = data_dir / "postgres/postmaster.pid"
    owner = (data_dir / "postgres").stat().st_uid
    user: dict[str, Any] = {"user": owner, "extra_groups": []} if IS_ROOT else {}
    with subprocess.Popen(["/bin/sleep", "60"], cwd="/", **user) as bystander:
        lines = [str(bystander.pid), str(data_dir / "postgres"), "0", "5432", "/nowhere", "", "0 0", "ready"]
        pid_file.write_text("\n".join(lines) + "\n")
        assert query(start(data_dir).dsn, "SELECT 1") == [(1,)]
        assert bystander.poll() is None
        bystander.kill()


def test_frozen_postgres_is_waited_for_and_reported(
    start: Start, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_CONNECT_TIMEOUT_S", 2)
    start(data_dir)
    pid = postmaster_pid(data_dir)
    messages: list[str] = []

    def report(message: str) -> None:
        messages.append(message)
        os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    EmbeddedPostgres.start(data_dir, report=report).stop()
    assert "does not accept connections yet; waited" in messages[0]


def test_postgres_that_dies_at_start_shows_its_log(start: Start, data_dir: Path) -> None:
    start(data_dir).stop()
    with (data_dir / "postgres/postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting") as caught:
        start(data_dir)
    assert "\n" not in str(caught.value)


# Folders


@pytest.mark.slow(reason="makes a new cluster")
@pytest.mark.parametrize("name", ["with blank and 'quote' and \"quote\"", "$HOME `x` \\ ; ünï ☎", "comma, and so on"])
def test_odd_path_works(name: str, start: Start, tmp_path: Path) -> None:
    assert query(start(tmp_path / name).dsn, "SELECT 1") == [(1,)]


@pytest.mark.slow(reason="makes a new cluster")
def test_long_path_moves_socket_to_private_folder(start: Start, tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    server = start(data_dir)
    folder = Path(query(as_superuser(server.dsn), "SHOW unix_socket_directories")[0][0].strip('"'))
    assert not folder.is_relative_to(data_dir)
    assert folder.name.startswith("callboard-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    server.stop()
    assert not folder.exists()
    folder.symlink_to(tmp_path)
    with pytest.raises(EmbeddedPostgresError, match="remove it"):
        start(data_dir)
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="0755"):
        start(data_dir)
    folder.rmdir()


def test_other_major_version_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data/postgres").mkdir(parents=True)
    (tmp_path / "data/postgres/PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 16.*pg_dump"):
        start(tmp_path / "data")


def test_folder_that_is_no_cluster_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data/postgres").mkdir(parents=True)
    (tmp_path / "data/postgres/thesis.txt").write_text("mine")
    with pytest.raises(EmbeddedPostgresError, match=r"not a PostgreSQL cluster.*--data-dir"):
        start(tmp_path / "data")
    assert (tmp_path / "data/postgres/thesis.txt").read_text() == "mine"


def test_data_dir_that_is_a_file_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for data_dir in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(EmbeddedPostgresError, match="CALLBOARD_DATA_DIR"):
            start(data_dir)


@pytest.mark.skipif(IS_ROOT, reason="root may write anywhere")
def test_unwritable_data_dir_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    for data_dir in (tmp_path / "data", tmp_path / "data/below"):
        with pytest.raises(EmbeddedPostgresError, match="CALLBOARD_DATA_DIR"):
            start(data_dir)


# Accounts


@only_root
def test_under_root_postgres_runs_as_another(start: Start, data_dir: Path) -> None:
    start(data_dir)
    uids = Path(f"/proc/{postmaster_pid(data_dir)}/status").read_text().split("Uid:")[1].split()[:4]
    assert uids == [str(pwd.getpwnam("callboard").pw_uid)] * 4
    assert (data_dir / "start.lock").stat().st_uid == 0


@only_root
@only_linux
def test_unreachable_parent_opens_for_account_alone(start: Start, tmp_path: Path, messages: list[str]) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "data").mkdir(mode=0o700)
    assert query(start(hidden / "data").dsn, "SELECT 1") == [(1,)]
    assert any(str(hidden) in message for message in messages)
    nobody = pwd.getpwnam("nobody")
    looked = subprocess.run(["/bin/ls", hidden / "data"], user=nobody.pw_uid, extra_groups=[], capture_output=True)
    assert looked.returncode != 0
    assert hidden.stat().st_mode & 0o7 == 0


@only_root
@only_linux
def test_postgres_stops_behind_a_folder_closed_meanwhile(start: Start, tmp_path: Path, messages: list[str]) -> None:
    hidden = tmp_path / "hidden"
    (hidden / "data").mkdir(parents=True)
    server = start(hidden / "data")
    hidden.chmod(0o700)  # which takes the account's grant away, too

    server.stop()

    assert not is_running(hidden / "data")
    assert not any("waited" in message for message in messages)


@only_root
@pytest.mark.slow(reason="copies PostgreSQL, and makes a new cluster")
def test_unreachable_programs_are_copied(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = service_account._find_install().parent
    for folder in (package / "pginstall18", package.with_name(f"{package.name}.libs")):
        if folder.exists():
            target = tmp_path / "hidden" / folder.relative_to(package.parent)
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns("include", "*.a"))
    (tmp_path / "hidden").chmod(0o700)
    monkeypatch.setattr(service_account, "_find_install", lambda: tmp_path / "hidden" / package.name / "pginstall18")
    monkeypatch.setattr(service_account, "_SHARED_FOLDER", tmp_path / "shared")
    start(tmp_path / "data")
    program = Path(f"/proc/{postmaster_pid(tmp_path / 'data')}/exe").readlink()
    assert program.is_relative_to(tmp_path / "shared")
    assert program.stat().st_uid == 0
    assert [folder.name[0] for folder in (tmp_path / "shared").iterdir()] == ["p"], "no unfinished copy is left"


@only_root
@only_linux
def test_file_system_without_acls_names_the_folder(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(EmbeddedPostgresError, match=rf"may not pass the folder {tmp_path} .*/var/lib"):
        start(tmp_path / "data")


def test_missing_useradd_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(service_account, "_SERVICE_ACCOUNT", "no-such-account")
    monkeypatch.setattr(shutil, "which", lambda *args, **options: None)
    with pytest.raises(EmbeddedPostgresError, match=r"no useradd.*create a system account named no-such-account"):
        service_account.choose_account(tmp_path / "postgres", lambda line: None)


@pytest.fixture
def nobodys_folder() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder of the account `nobody` and the options that start a process as it; skips where Python is hidden."""
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        shutil.copytree(REPOSITORY / "storage", folder / "code/storage", ignore=shutil.ignore_patterns("__pycache__"))
        for path in folder.rglob("*"):
            path.chmod(0o755)
        folder.chmod(0o755)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        options: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        environment = {"HOME": str(folder), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        options |= {"cwd": folder / "code", "env": environment}
        try:
            subprocess.run([sys.executable, "-B", "-c", "import storage.embedded"], check=True, **options)
        except (PermissionError, subprocess.CalledProcessError):
            pytest.skip("the account nobody cannot run this Python")
        yield folder, options


@only_root
def test_ordinary_user_runs_its_own_postgres(
    nobodys_folder: tuple[Path, dict[str, Any]], start: Start, start_process: StartProcess
) -> None:
    folder, options = nobodys_folder
    process = start_process(folder / "data", **options)
    dsn = read_ready_dsn(process)
    assert Path(f"/proc/{postmaster_pid(folder / 'data')}").stat().st_uid == options["user"]
    assert query(dsn, "SELECT 1") == [(1,)], "root is in the map"
    root_server = start(folder / "data")
    process.communicate()
    assert query(root_server.dsn, "SELECT 1") == [(1,)]
    root_server.stop()
    start(folder / "data").stop()
    process = start_process(folder / "data", **options)
    assert read_ready_dsn(process) == dsn, "what root made there is the owner's"
    assert process.communicate()[1] == ""


@only_root
def test_data_dir_of_another_user_is_refused(
    nobodys_folder: tuple[Path, dict[str, Any]], start: Start, start_process: StartProcess
) -> None:
    folder, options = nobodys_folder
    mine = folder / "roots"
    mine.mkdir(mode=0o755)
    os.chown(mine, 0, 0)
    start(mine)
    process = start_process(mine, **options)
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert errors.startswith("refused: ")
    assert "belongs to root" in errors
    assert len(errors.splitlines()) == 1


# Access lists

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF


def test_search_grant_adds_one_user_and_mask() -> None:
    plain = {(USER_OBJ, NO_ID): 7, (GROUP_OBJ, NO_ID): 4, (OTHER, NO_ID): 0}
    assert add_search_permission(plain, 5) == {**plain, (USER, 5): 1, (MASK, NO_ID): 5}


def test_search_grant_wakes_no_masked_entry() -> None:
    masked = {
        (USER_OBJ, NO_ID): 7,
        (USER, 6): 7,
        (GROUP_OBJ, NO_ID): 5,
        (GROUP, 8): 1,
        (MASK, NO_ID): 4,
        (OTHER, NO_ID): 0,
    }
    assert add_search_permission(masked, 5) == {
        (USER_OBJ, NO_ID): 7,
        (USER, 5): 1,
        (USER, 6): 4,
        (GROUP_OBJ, NO_ID): 4,
        (GROUP, 8): 0,
        (MASK, NO_ID): 5,
        (OTHER, NO_ID): 0,
    }
