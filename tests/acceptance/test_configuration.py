"""A server that cannot start says why: option, variable and value, in one line and without secrets."""

import subprocess
from pathlib import Path

import pytest

from tests.acceptance.server_process import CALLBOARD, ServerProcess, make_environment
from tests.examples import slow_after


def run_serve(tmp_path: Path, *options: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CALLBOARD, "serve", *options],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=tmp_path,
        env=make_environment(**{"CALLBOARD_DATA_DIR": str(tmp_path / "data"), **environ}),
    )


PROCESS = "starts a process for what unit tests have, too"


@pytest.mark.parametrize(
    ("options", "environ", "words"),
    slow_after(
        3,
        [
            ([], {"PORT": "abc"}, ("PORT", "--port", "'abc'")),
            (["--port", "70000"], {}, ("--port", "PORT", "'70000'")),
            (["--port", "-1"], {"PORT": "8888"}, ("--port", "PORT", "'-1'")),
            (["--address", "0.0.0.0"], {}, ("--address", "ADDRESS", "'0.0.0.0'", "loopback")),
            ([], {"TURN_TIMEOUT_S": "-1"}, ("TURN_TIMEOUT_S", "--turn-timeout-s", "'-1'")),
            ([], {"TURN_TIMEOUT_S": "nan"}, ("TURN_TIMEOUT_S", "'nan'")),
            ([], {"EFFECT_POLL_INTERVAL_MS": "0"}, ("EFFECT_POLL_INTERVAL_MS", "'0'")),
            ([], {"EVENT_QUEUE_PROCESS_INTERVAL_MS": "1.5"}, ("EVENT_QUEUE_PROCESS_INTERVAL_MS", "'1.5'")),
            ([], {"LOG_FORMAT": "xml"}, ("LOG_FORMAT", "--log-format", "'xml'", "json")),
            ([], {"LOG_LEVEL": "LOUD"}, ("LOG_LEVEL", "--log-level", "'LOUD'")),
            ([], {"COALESCE_TOKENS": "maybe"}, ("COALESCE_TOKENS", "'maybe'")),
            ([], {"DATABASE_URL": "mysql://u:hunter2@h/d"}, ("DATABASE_URL", "--database-url", "postgresql://")),
            (
                [],
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317/hunter2"},
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "--otel-exporter-otlp-endpoint", "http://127.0.0.1:4318"),
            ),
            ([], {"OTEL_SDK_DISABLED": "yes"}, ("OTEL_SDK_DISABLED", "'yes'", "true or false")),
        ],
        reason=PROCESS,
    ),
    ids=str,
)
def test_unusable_setting_is_named_with_its_value(
    tmp_path: Path, options: list[str], environ: dict[str, str], words: tuple[str, ...]
) -> None:
    result = run_serve(tmp_path, *options, **environ)

    assert (result.returncode, result.stdout) == (2, "")
    assert [word for word in words if word not in result.stderr] == []
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr
    assert not (tmp_path / "data").exists()  # settings are checked before anything is done


def test_port_in_use_is_named(tmp_path: Path, server: ServerProcess) -> None:
    result = run_serve(tmp_path, "--port", str(server.port), CALLBOARD_DATA_DIR=str(server.data.path))

    assert (result.returncode, result.stdout) == (2, "")
    assert [word for word in ("--port", "PORT", str(server.port), "in use") if word not in result.stderr] == []
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    slow_after(
        2,
        [
            ('[agents.a]\nkind = "echo"\n\n[agents.b\n', ("line 4",)),
            ('default = "a"\n[agents.a]\nkind = "parrot"\n', ("line 3", "agents.a.kind", "'parrot'", "echo")),
            ('[agents.a]\nkind = "echo"\nloud = true\n', ("line 3", "agents.a.loud")),
            (
                '[agents.a]\nkind = "python"\nfactory = "no_such_module:Agent"\n',
                ("line 3", "factory", "no_such_module"),
            ),
            ('default = "b"\n[agents.a]\nkind = "echo"\n', ("line 1", "default", "'b'")),
            ("", ("agents",)),
        ],
        reason=PROCESS,
    ),
    ids=["syntax", "kind", "option", "factory", "default", "empty"],
)
def test_bad_agents_file_is_named_with_line_and_field(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "agents.toml"
    file.write_text(text)
    result = run_serve(tmp_path, "--agents", str(file))

    assert result.returncode == 2
    assert [word for word in (str(file), *words) if word not in result.stderr] == []
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "url",
    ["postgresql://ann:hunter2@127.0.0.1:1/board", "postgresql://ann:hunter2@/board?host=/nowhere"],
    ids=["TCP", "socket"],
)
def test_unreachable_database_is_one_line_without_password(tmp_path: Path, url: str) -> None:
    result = run_serve(tmp_path, "--port", "0", "--database-url", url)

    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "hunter2" not in result.stderr
    assert "DATABASE_URL" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("url", ["postgresql://ann:hunter2/x@127.0.0.1/board", "postgresql://ann:hunter2#x@h/board"])
def test_password_with_unescaped_delimiter_is_not_shown(tmp_path: Path, url: str) -> None:
    result = run_serve(tmp_path, "--port", "0", DATABASE_URL=url)

    assert result.returncode == 2
    assert "hunter2" not in result.stderr
    assert "Traceback" not in result.stderr
