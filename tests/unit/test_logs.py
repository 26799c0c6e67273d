"""Lines of the log for machines, and the calls that make them."""

import ast
import json
import logging
from pathlib import Path
from types import ModuleType

import pytest

import actors
import server
import storage
from server.logs import JsonFormatter

LEVELS = {"debug", "info", "warning", "error", "exception", "log"}


def format_line(**extra: object) -> dict[str, object]:
    record = logging.makeLogRecord(
        {"name": "actors.session", "levelname": "INFO", "msg": "Turn %s", "args": (3,)} | extra
    )
    line: dict[str, object] = json.loads(JsonFormatter().format(record))
    return line


def test_line_has_what_its_call_added() -> None:
    line = format_line(action="turn_completed", session_key="ada:echo:t", event_seq=3, latency_ms=0.5)

    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "actors.session",
        "message": "Turn 3",
        "action": "turn_completed",
        "session_key": "ada:echo:t",
        "event_seq": 3,
        "latency_ms": 0.5,
    }


def test_line_has_no_objects_and_nothing_unknown() -> None:
    line = format_line(action="closed", request_id=None, websocket=object(), headers={"Authorization": "secret"})

    assert line.keys() == {"time", "level", "logger", "message", "action"}


@pytest.mark.parametrize("package", [actors, server, storage], ids=lambda package: str(package.__name__))
def test_every_line_names_its_action(package: ModuleType) -> None:
    calls = {
        f"{file.name}:{call.lineno}": ast.unparse(call)
        for file in Path(str(package.__file__)).parent.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and is_of_the_log(call.func)
    }

    assert calls
    assert [place for place, text in calls.items() if "extra=" not in text] == []


def is_of_the_log(function: ast.expr) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and function.attr in LEVELS
        and isinstance(function.value, ast.Name)
        and function.value.id == "log"
    )
