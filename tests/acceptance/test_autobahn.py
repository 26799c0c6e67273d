"""Autobahn's fuzzing client against the endpoint's WebSocket protocol, in echo form.

Its `wstest` is a program of Python 2.7 (`pip install autobahntestsuite`). Where it is neither in PATH nor named in
`WSTEST`, this is skipped; `test_websocket_conformance` holds the endpoint itself to what a chat can meet of it.
"""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from tornado.web import Application
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from server import close_codes
from server.websocket_protocol import TolerantProtocol
from tests.served_application import serve_application

SECTIONS = [f"{section}.*" for section in range(1, 11)]
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Section 9 sends 16 MiB."""

TIMEOUT_S = 600


class EchoSocket(WebSocketHandler):
    """What the fuzzing client wants: whatever is good comes back."""

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        protocol = super().get_websocket_protocol()
        assert isinstance(protocol, WebSocketProtocol13)
        return TolerantProtocol(self, False, protocol.params)

    def on_text(self, data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.close(close_codes.NOT_UTF8)
        else:
            self.write_message(text)

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


def make_echo() -> Application:
    return Application([("/", EchoSocket)], websocket_max_message_size=MAX_MESSAGE_BYTES)


def find_wstest() -> list[str]:
    named = os.environ.get("WSTEST")
    if named:
        return shlex.split(named)
    found = shutil.which("wstest")
    if found is None:
        pytest.skip("needs Autobahn's wstest, a program of Python 2.7, in PATH or named in WSTEST")
    return [found]


@pytest.mark.slow(reason="hundreds of cases, some of 16 MiB")
def test_fuzzing_client_finds_no_failure(tmp_path: Path) -> None:
    command = find_wstest()
    with serve_application(make_echo) as port:
        spec = {
            "outdir": str(tmp_path / "report"),
            "servers": [{"agent": "callboard", "url": f"ws://127.0.0.1:{port}/"}],
            "cases": SECTIONS,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        run = subprocess.run(
            [*command, "--mode", "fuzzingclient", "--spec", str(tmp_path / "spec.json")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    results = json.loads((tmp_path / "report" / "index.json").read_text())["callboard"]
    assert len(results) > 250
    good = {"OK", "INFORMATIONAL", "NON-STRICT"}
    failures = {
        case: (result["behavior"], result["behaviorClose"])
        for case, result in results.items()
        if result["behavior"] not in good or result["behaviorClose"] not in good
    }
    assert failures == {}
