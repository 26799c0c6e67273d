"""Dead letters that run again: whatever ids their clients have used, and once, however many operators there are."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from scripts.admin.failures import AdminError, ExitCode
from scripts.admin.node_client import NodeClient
from server.admin_server import list_sockets
from storage.records import AuditRecord
from tests.acceptance.admin_command import ask_admin, run_admin
from tests.acceptance.client import connect
from tests.acceptance.server_process import ServerProcess, wait_until

QUESTION = "Are you there?"


@pytest.mark.parametrize("own", [QUESTION, "Something else"], ids=["the_same_text", "another_text"])
def test_clients_own_retry_id_is_no_obstacle(server: ServerProcess, thread: str, own: str) -> None:
    key = f"local:mended:{thread}"
    with connect(server, thread, agentId="mended") as client:
        assert client.ask(QUESTION, requestId="r1").frames[-1]["code"] == "agent_error"
        assert client.ask(own, requestId="retry-1").frames[-1]["message"] == f"At last: {own}"
        client.cancel("retry-1-2")  # of a request to come

        wait_until(lambda: server.database.count_rows(key)["events"] == 3)
        done = ask_admin(server, "dead", "retry", key, "1")

        assert (done["event_seq"], done["request_id"]) == (4, "retry-1-3")
        answer = client.receive_answer()
        assert answer.frames[-1] == answer.frames[-1] | {"message": f"At last: {QUESTION}", "requestId": "retry-1-3"}
        again = run_admin(server.data.path, "dead", "retry", key, "1")
        assert (again.returncode, "has been seen to" in again.stderr) == (3, True)
    wait_until(lambda: not server.database.find_flawed_sessions(key))


def test_operators_at_once_run_a_dead_letter_again_once(server: ServerProcess, thread: str) -> None:
    key = f"local:mended:{thread}"
    with connect(server, thread, agentId="mended") as client:
        client.ask(QUESTION)
        client.ask("My own", requestId="retry-1")
        (path,) = list_sockets(server.data.path)

        def retry(number: int) -> dict[str, Any]:
            audit = AuditRecord(id=uuid4(), action="dead retry", operator=f"ann{number}@here", session_key=key)
            answer: dict[str, Any] = NodeClient(path).act("/dead/retry", audit, event_seq=1)
            return answer

        with ThreadPoolExecutor(8) as operators:
            answers = list(operators.map(retry, range(8)))

        assert sorted(answer["is_duplicate"] for answer in answers) == [False, *[True] * 7]
        assert {answer["event_seq"] for answer in answers} == {3}
        assert client.receive_answer().frames[-1]["requestId"] == "retry-1-2"
    wait_until(lambda: not server.database.find_flawed_sessions(key))
    assert len(ask_admin(server, "audit", "--key", key)["actions"]) == 1


def test_node_refuses_what_is_no_dead_letter_any_more(server: ServerProcess, thread: str) -> None:
    key = f"local:mended:{thread}"
    with connect(server, thread, agentId="mended") as client:
        client.ask(QUESTION)
    ask_admin(server, "dead", "discard", key, "1", "--yes")
    (path,) = list_sockets(server.data.path)
    audit = AuditRecord(id=uuid4(), action="dead retry", operator="ann@here", session_key=key)
    with pytest.raises(AdminError, match=re.escape(f"event 1 of {key} is no dead letter")) as refused:
        NodeClient(path).act("/dead/retry", audit, event_seq=1)
    assert refused.value.exit_code == ExitCode.NOT_FOUND
