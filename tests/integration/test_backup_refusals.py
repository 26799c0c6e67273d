"""Backups and restores that are refused."""

import shutil
import subprocess
from pathlib import Path

import pytest

from storage import backup, database, service_account
from storage.backup import read_backup_info, restore_backup, write_backup
from storage.database import MIGRATION_LOCK, known_migrations, migrate
from storage.errors import BackupError, DatabaseUnavailable
from tests.integration.backup_stage import file as file
from tests.integration.backup_stage import list_tables, read_all
from tests.integration.backup_stage import target as target
from tests.postgres import UNREACHABLE_DSN, Conversation, Query


def test_cut_off_file_restores_nothing(
    dsn: str, empty_dsn: str, file: Path, query: Query, target: Query, conversation: Conversation
) -> None:
    query("CREATE TABLE zballast AS SELECT gen_random_uuid() AS a FROM generate_series(1, 20000)")
    conversation.exchange("a")
    size = write_backup(dsn, file).size_bytes
    whole = file.read_bytes()
    for left in (size - 1, size - 200, size // 2, 5000, 100, 10):
        file.write_bytes(whole[:left])
        with pytest.raises(BackupError) as caught:
            restore_backup(empty_dsn, file)
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)
        assert list_tables(target) == []


@pytest.mark.parametrize(
    "content", [b"", b"PGDMP", b"not a dump\n" * 1000, b"-- PostgreSQL database dump\n" * 50, b"\0" * 9999]
)
def test_file_that_is_no_backup_is_refused(empty_dsn: str, file: Path, target: Query, content: bytes) -> None:
    file.write_bytes(content)
    words = r"callboard\.backup cannot be read as a backup \(.+\): name a file"
    with pytest.raises(BackupError, match=words):
        read_backup_info(file)
    with pytest.raises(BackupError, match=words):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == []


def test_missing_places_are_one_clear_error(dsn: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="there is no file"):
        read_backup_info(file)
    with pytest.raises(BackupError, match="is no file"):
        read_backup_info(tmp_path)
    with pytest.raises(BackupError, match=r"cannot write .*No such file or directory"):
        write_backup(dsn, tmp_path / "missing" / "file")
    with pytest.raises(BackupError, match="is a folder"):
        write_backup(dsn, tmp_path)


def test_backup_of_another_database_is_refused(empty_dsn: str, file: Path, tmp_path: Path, target: Query) -> None:
    with pytest.raises(BackupError, match="no tables of Callboard"):
        write_backup(empty_dsn, file)
    assert list(tmp_path.iterdir()) == []
    target("CREATE TABLE recipes (name text)")
    arguments = ["--format=custom", f"--file={file}", f"--dbname={empty_dsn}"]
    subprocess.run([service_account.find_program("pg_dump"), *arguments], check=True)
    with pytest.raises(BackupError, match="backup of something else"):
        read_backup_info(file)


def test_full_database_is_refused_and_kept(dsn: str, file: Path, conversation: Conversation, query: Query) -> None:
    write_backup(dsn, file)
    conversation.exchange("later")
    before = read_all(query)
    with pytest.raises(BackupError, match=r"has tables of Callboard \(events, .*empty database only: .*--data-dir"):
        restore_backup(dsn, file)
    assert read_all(query) == before


def test_table_in_the_way_restores_nothing(dsn: str, empty_dsn: str, file: Path, query: Query, target: Query) -> None:
    query("CREATE TABLE recipes (name text)")
    write_backup(dsn, file)
    target("CREATE TABLE recipes (name text)")
    with pytest.raises(BackupError, match=r'nothing was changed \(psql: relation "recipes" already exists\)'):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == ["recipes"]


def test_database_that_is_being_migrated_is_refused(dsn: str, empty_dsn: str, file: Path, target: Query) -> None:
    write_backup(dsn, file)
    target("SELECT pg_advisory_lock(%s)", MIGRATION_LOCK)
    with pytest.raises(BackupError, match="being migrated"):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == []


def test_newer_migration_is_refused(dsn: str, empty_dsn: str, file: Path, query: Query, target: Query) -> None:
    query("INSERT INTO schema_migrations (name, applied) VALUES ('9999_from_the_future', now())")
    assert write_backup(dsn, file).migrations[-1] == "9999_from_the_future"
    with pytest.raises(BackupError, match=r"9999_from_the_future.*install the newer version"):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == []


def test_backup_of_an_older_callboard_is_migrated_after_it(
    empty_dsn: str, file: Path, tmp_path: Path, target: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "migrations"
    older.mkdir()
    for name in known_migrations()[:3]:
        shutil.copy(database.MIGRATIONS_DIR / f"{name}.py", older)
    with monkeypatch.context() as patched:
        patched.setattr(database, "MIGRATIONS_DIR", older)
        migrate(empty_dsn)
        info = write_backup(empty_dsn, file)
    target("DROP SCHEMA public CASCADE")
    target("CREATE SCHEMA public")
    assert restore_backup(empty_dsn, file) == info
    assert len(info.migrations) == 3
    assert migrate(empty_dsn) == known_migrations()[3:]


def test_database_out_of_reach_is_told_without_its_password(file: Path) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        write_backup(UNREACHABLE_DSN.replace("callboard@", "callboard:secret@"), file)
    assert "secret" not in str(caught.value)


def test_versions_that_do_not_fit_are_refused(
    dsn: str, empty_dsn: str, file: Path, target: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backup(dsn, file)
    monkeypatch.setattr(backup, "_get_major", lambda _: 99)
    with pytest.raises(BackupError, match=r"is a PostgreSQL 99, and this Callboard's pg_dump is of 18"):
        write_backup(dsn, file, overwrite=True)
    monkeypatch.setattr(backup, "_get_major", lambda _: 13)
    with pytest.raises(BackupError, match="is a PostgreSQL 13: restore it into a PostgreSQL 1"):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == []
