"""Each command of `callboard admin` with `--json`: where it succeeds, standard output is one document."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click
import pytest

from scripts.admin.command import admin
from tests.acceptance.admin_command import run_admin
from tests.acceptance.client import connect
from tests.acceptance.server_process import ServerProcess


class Stage(NamedTuple):
    """What the commands have to work on.

    Attributes:
        key: A session that was answered.
        dead_key: One whose first three messages were not.
        hanging_key: One that is at its first message.
        folder: For files.
    """

    key: str
    dead_key: str
    hanging_key: str
    folder: Path


ARGUMENTS: Final = {
    "status": "",
    "top": "--interval 50ms",
    "sessions list": "",
    "sessions show": "{key}",
    "sessions stop": "{hanging_key}",
    "sessions wake": "{key}",
    "events": "{key} --text",
    "effects": "{key} --text",
    "turns": "{key}",
    "checkpoints": "{key}",
    "tail": "{key} --from-start --count 1",
    "replay": "{key} --at 2",
    "outbox stats": "",
    "outbox retry": "--key {key}",
    "outbox expire": "--older-than 7d --key {key}",
    "dead list": "",
    "dead show": "{dead_key} 1 --text",
    "dead retry": "{dead_key} 2",
    "dead discard": "{dead_key} 3 --yes",
    "audit": "",
    "verify": "{key}",
    "doctor": "",
    "export": "{key}",
    "purge": "--user local --dry-run",
    "migrate": "",
    "compact": "",
    "backup": "{folder}/backup",
    "restore": "{folder}/backup --yes",
    "agents list": "",
    "agents check": "echo",
    "config": "",
}
"""Those that change something come to do it; `purge` counts, as the server has the sessions."""


def list_commands(group: click.Group, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{path}{name} ")
        else:
            yield path + name


@pytest.fixture
def stage(server: ServerProcess, thread: str, tmp_path: Path) -> Iterator[Stage]:
    with connect(server, thread, agentId="echo") as client:
        client.ask("Hello")
    with connect(server, thread, agentId="mended") as client:
        for _ in range(3):
            client.ask("Are you there?")
    with connect(server, thread, agentId="stubborn") as client:
        client.say("hang")
        client.receive()
        yield Stage(f"local:echo:{thread}", f"local:mended:{thread}", f"local:stubborn:{thread}", tmp_path)


def test_success_of_each_command_is_one_document(server: ServerProcess, stage: Stage) -> None:
    assert set(ARGUMENTS) == set(list_commands(admin)), "each command has its turn here"
    for command, arguments in ARGUMENTS.items():
        data_dir = stage.folder / "restored" if command == "restore" else server.data.path
        words = [*command.split(), *arguments.format(**stage._asdict()).split()]
        done = run_admin(data_dir, *words, "--json")
        assert (done.returncode, done.stderr) == (0, ""), words
        if command == "export":  # JSON Lines, whatever it is asked for
            assert {json.loads(line)["table"] for line in done.stdout.splitlines()} > {"sessions", "events"}
        else:
            assert isinstance(json.loads(done.stdout), dict), words
    (backup,) = [each for each in stage.folder.iterdir() if each.is_file()]
    assert backup.name == "backup"
