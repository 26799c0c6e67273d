"""Options of `callboard load-test` that cannot be used are refused by name, before anything runs."""

import pytest
from click.testing import CliRunner

from scripts.load_test import load_test
from tests.unit.test_load_conversation import make_plan

URL = "ws://127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["URL"]),
        (["127.0.0.1:8888"], ["URL", "ws://"]),
        (["ftp://127.0.0.1"], ["URL", "ws://"]),
        (["ws://"], ["URL", "host"]),
        (["ws://u:p@h"], ["URL", "credentials"]),
        (["ws://h:0"], ["URL", "port"]),
        ([URL, "--messages", "x"], ["--messages"]),
        ([URL, "--in-flight", "17"], ["--in-flight"]),
        ([URL, "--tokens", "0"], ["--tokens"]),
        ([URL, "--interval-ms", "60001"], ["--interval-ms"]),
        ([URL, "--first-token-ms", "-1"], ["--first-token-ms"]),
        ([URL, "--think-ms", "nan"], ["--think-ms"]),
        ([URL, "--ramp-s", "-1"], ["--ramp-s"]),
        ([URL, "--patience-s", "inf"], ["--patience-s"]),
        ([URL, "--chaos-every-s", "0"], ["--chaos-every-s"]),
        ([URL, "--seed", "-1"], ["--seed"]),
        ([URL, "--agent", "a b"], ["--agent"]),
        ([URL, "--user-prefix", ""], ["--user-prefix"]),
        ([URL, "--agent", "eliza", "--tokens", "5"], ["--tokens", "--agent"]),
        ([URL, "--timeout-s", "1", "--interval-ms", "1000"], ["--timeout-s", "--interval-ms"]),
    ],
    ids=str,
)
def test_bad_option_is_refused_by_name(options: list[str], words: list[str]) -> None:
    result = CliRunner().invoke(load_test, options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert [word for word in words if word not in result.stderr] == []


def test_help_tells_how_chaos_closes_connections() -> None:
    text = " ".join(CliRunner().invoke(load_test, ["--help"]).stdout.split())

    assert "closes them by the WebSocket closing handshake" in text
    assert "Exit codes: 0 no violations, 1 violations" in text


def test_each_session_has_user_thread_and_requests_of_its_own() -> None:
    plan = make_plan(run_id="ab12", user_prefix="u", url="http://127.0.0.1:8888")

    assert plan.make_url(3) == "ws://127.0.0.1:8888/api/chat/ws?userId=u-3&threadId=load-ab12-3&agentId=metronome"
    prefixes = [plan.make_request_prefix(session) for session in (1, 11)]
    assert not prefixes[1].startswith(prefixes[0])


def test_answer_is_known_of_the_metronome_only() -> None:
    answers = [plan.expected for plan in (make_plan(tokens=3), make_plan(agent="eliza"))]

    assert answers == [" tok0 tok1 tok2", None]
