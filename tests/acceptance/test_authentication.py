"""Who may come in, and how many at once: every close code and status, over real sockets."""

import base64
import contextlib
import http.client
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as open_connection

from tests.acceptance.client import connect, fetch, make_schedule, make_ticks
from tests.acceptance.server_process import CALLBOARD, ServerProcess, Servers, make_environment, wait_until
from tests.acceptance.test_event_stream import follow
from tests.acceptance.tokens import ORIGIN, SECRET, bear, make_token
from tests.acceptance.v1_client import connect_v1


def receive_all(receive: Callable[[], object]) -> NoReturn:
    while True:
        receive()


def receive_close_code(server: ServerProcess, *subprotocols: str, query: str = "threadId=t", **options: Any) -> int:
    """Connect, and return the code that the server closes with."""
    uri = f"ws://127.0.0.1:{server.port}/api/chat/ws?{query}"
    names: Any = list(subprotocols) or None
    with open_connection(uri, subprotocols=names, proxy=None, **options) as connection:
        with pytest.raises(ConnectionClosed) as closed:
            receive_all(lambda: connection.recv(timeout=10))
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code


# Over the WebSocket


def encode(token: str) -> str:
    return "bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def test_token_in_the_header_says_whose_thread_it_is(guarded: ServerProcess, thread: str) -> None:
    with connect(guarded, thread, agentId="metronome", additional_headers=bear(make_token())) as client:
        assert client.ask(make_schedule(3)).end["message"] == make_ticks(3)

    assert guarded.database.count_rows(f"ada:metronome:{thread}")["events"] == 1


def test_token_among_the_subprotocols_is_for_browsers(guarded: ServerProcess, thread: str) -> None:
    names: Any = ["callboard.v1", encode(make_token("bob"))]
    uri = f"ws://127.0.0.1:{guarded.port}/api/chat/ws?threadId={thread}&agentId=metronome"
    with open_connection(uri, subprotocols=names, proxy=None) as connection:
        assert connection.subprotocol == "callboard.v1"
        assert [json.loads(connection.recv())["type"] for _ in range(2)] == ["hello", "ready"]


@pytest.mark.parametrize(
    ("token", "v1_code"),
    [
        (None, 4500),
        ("nonsense", 4500),
        (make_token(secret="f" * 32), 4500),
        (make_token("ada:bob"), 4500),
        (make_token(lifetime_s=-5), 4001),
    ],
    ids=["missing", "nonsense", "another secret", "no user id", "expired"],
)
def test_bad_token_is_refused(guarded: ServerProcess, token: str | None, v1_code: int) -> None:
    headers = {} if token is None else bear(token)
    assert receive_close_code(guarded, "callboard.v1", additional_headers=headers) == v1_code
    assert receive_close_code(guarded, additional_headers=headers) == 1008
    if token is not None:
        assert receive_close_code(guarded, "callboard.v1", encode(token)) == v1_code


def test_another_user_s_name_is_refused(guarded: ServerProcess) -> None:
    headers, query = bear(make_token()), "threadId=t&userId=bob"
    assert receive_close_code(guarded, "callboard.v1", query=query, additional_headers=headers) == 4501
    assert receive_close_code(guarded, query=query, additional_headers=headers) == 1008


def test_one_s_own_name_may_be_said(guarded: ServerProcess, thread: str) -> None:
    with connect_v1(guarded, user_id="ada", additional_headers=bear(make_token())) as client:
        assert client.subscribe(thread)["epoch"] == "0"


def test_connections_of_a_user_are_limited(guarded: ServerProcess, thread: str) -> None:
    user_id = f"many-{thread}"
    headers = bear(make_token(user_id))
    with connect_v1(guarded, user_id=user_id, additional_headers=headers):
        with follow(guarded, thread, **headers):
            assert receive_close_code(guarded, "callboard.v1", additional_headers=headers) == 4504
            assert receive_close_code(guarded, additional_headers=headers) == 1008
            assert fetch(guarded, f"/api/threads/eliza/{thread}/events", **headers)[0] == 429
            assert post(guarded, {"message": "Hello"}, **headers)[0] == 429
            with connect(guarded, thread, additional_headers=bear(make_token())) as other:
                other.ask("Hello")

        def has_room() -> bool:
            with connect(guarded, thread, additional_headers=headers) as client:
                try:
                    client.ask("Hello")
                except ConnectionClosed:
                    return False
                return True

        wait_until(has_room)


def test_expired_token_ends_the_connection_and_loses_nothing(guarded: ServerProcess, thread: str) -> None:
    headers = bear(make_token(lifetime_s=1.5))
    with connect_v1(guarded, user_id="ada", additional_headers=headers) as client:
        epoch = client.subscribe(thread, "metronome")["epoch"]
        client.post("message", thread, "metronome", message=make_schedule(40, 50), requestId="r1")
        with pytest.raises(ConnectionClosed) as closed:
            receive_all(client.receive)
        cursor = client.places[thread].cursor

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "token: has expired")
    assert cursor > 1, "the beginning of the answer was there"
    with connect_v1(guarded, user_id="ada", additional_headers=bear(make_token())) as client:
        ready = client.subscribe(thread, "metronome", after=cursor, epoch=None if epoch == "0" else epoch)
        assert ready["after"] == cursor
        assert client.receive_end("r1")["message"] == make_ticks(40)


def test_expired_token_ends_a_bare_connection(guarded: ServerProcess, thread: str) -> None:
    headers = bear(make_token(lifetime_s=1.0))
    with connect(guarded, thread, additional_headers=headers) as client:
        assert client.receive_close() == (1008, "token: has expired")


# Over HTTP


PATHS = [
    "/api/agents",
    "/api/threads",
    "/api/threads/eliza/t",
    "/api/threads/eliza/t/events",
]


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def request(server: ServerProcess, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


def post(server: ServerProcess, question: dict[str, str], **headers: str) -> tuple[int, Any]:
    reply = request(server, "POST", "/api/chat", json.dumps(question), **headers)
    return reply.status, json.loads(reply.body)


@pytest.mark.parametrize(("method", "path"), [*(("GET", path) for path in PATHS), ("POST", "/api/chat")])
def test_http_wants_a_token(guarded: ServerProcess, method: str, path: str) -> None:
    without = request(guarded, method, path, "{}")
    assert (without.status, without.headers["WWW-Authenticate"]) == (401, "Bearer")
    problem = json.loads(without.body)
    assert problem["code"] == "unauthenticated"
    assert problem["detail"].startswith("token: is required")

    for token in (make_token(lifetime_s=-5), make_token(secret="f" * 32), "nonsense"):
        bad = request(guarded, method, path, "{}", **bear(token))
        assert (bad.status, bad.headers["WWW-Authenticate"]) == (401, 'Bearer error="invalid_token"')
        assert token not in bad.body.decode()


@pytest.mark.parametrize("path", PATHS[1:])
def test_http_is_forbidden_for_another_user(guarded: ServerProcess, path: str) -> None:
    status, problem = fetch(guarded, f"{path}?userId=bob", **bear(make_token()))
    assert (status, problem["code"]) == (403, "forbidden")
    assert problem["detail"].startswith("userId: ")


def test_http_gives_each_user_their_own(guarded: ServerProcess, thread: str) -> None:
    ada, bob = bear(make_token("ada")), bear(make_token("bob"))
    question = {"message": "Hello", "agentId": "echo", "threadId": thread}
    assert post(guarded, question, **ada)[1]["message"] == "Hello"
    assert post(guarded, question | {"userId": "ada"}, **ada)[0] == 200
    assert post(guarded, question | {"userId": "ada"}, **bob)[0] == 403

    assert fetch(guarded, f"/api/threads/echo/{thread}", **ada)[1]["head"] > 0
    assert fetch(guarded, f"/api/threads/echo/{thread}", **bob)[0] == 404
    assert thread in {found["threadId"] for found in fetch(guarded, "/api/threads", **ada)[1]["threads"]}


def test_expired_token_ends_a_stream_that_begins_again(guarded: ServerProcess, thread: str) -> None:
    post(guarded, {"message": "Hello", "agentId": "echo", "threadId": thread}, **bear(make_token()))
    headers = bear(make_token(lifetime_s=1.0))
    with follow(guarded, thread, agent_id="echo", **headers) as stream:
        last = stream.read_until("replay_complete")[-2]
        assert stream.read_event() is None
    assert last.id is not None
    with follow(guarded, thread, agent_id="echo", **bear(make_token()), **{"Last-Event-ID": last.id}) as stream:
        assert [event.frame["type"] for event in stream.read_until("replay_complete")] == ["ready", "replay_complete"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/static/callboard.js"])
def test_health_and_files_are_for_everybody(guarded: ServerProcess, path: str) -> None:
    assert request(guarded, "GET", path, Host="chat.example").status == 200


# Pages of other origins


def test_page_of_an_allowed_origin_may_do_all(guarded: ServerProcess, thread: str) -> None:
    asked = request(
        guarded, "OPTIONS", "/api/chat", Origin=ORIGIN, Access_Control_Request_Headers="authorization,content-type"
    )
    assert asked.status == 204
    assert asked.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    for path, status in (("/api/agents", 200), ("/static/callboard.js", 200), ("/api/threads/eliza/none", 404)):
        reply = request(guarded, "GET", path, Origin=ORIGIN, **bear(make_token()))
        assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (status, ORIGIN)
        assert "Origin" in reply.headers["Vary"]
    with connect(guarded, thread, agentId="echo", origin=ORIGIN, additional_headers=bear(make_token())) as client:
        client.ask("Hello")


@pytest.mark.parametrize("origin", ["https://evil.example", "http://chat.example", f"{ORIGIN}.evil.example", "null"])
def test_page_of_another_origin_may_do_nothing(guarded: ServerProcess, thread: str, origin: str) -> None:
    assert request(guarded, "OPTIONS", "/api/chat", Origin=origin).status == 405
    for method, path in (("GET", "/api/agents"), ("POST", "/api/chat")):
        reply = request(guarded, method, path, '{"message":"Hello"}', Origin=origin, **bear(make_token()))
        assert (reply.status, json.loads(reply.body)["code"]) == (403, "forbidden")
        assert "Access-Control-Allow-Origin" not in reply.headers
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(guarded, thread, origin=origin, additional_headers=bear(make_token())),
    ):
        pass
    assert refusal.value.response.status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", "http://[::1"])
def test_page_from_elsewhere_cannot_use_a_server_on_loopback(server: ServerProcess, thread: str, origin: str) -> None:
    """A browser would send it: of a POST of plain text it asks nobody."""
    question = {"message": "Hello", "agentId": "echo", "threadId": thread}
    assert post(server, question, Origin=origin, Content_Type="text/plain")[0] == 403
    assert fetch(server, f"/api/threads/echo/{thread}")[0] == 404
    assert post(server, question, Origin=f"http://127.0.0.1:{server.port}")[0] == 200


def test_without_authentication_a_proxy_s_credentials_are_not_looked_at(server: ServerProcess, thread: str) -> None:
    for header in ("Basic YTpi", "Bearer whatever"):
        assert fetch(server, "/api/agents", Authorization=header)[0] == 200
        with connect(server, thread, agentId="echo", additional_headers={"Authorization": header}) as client:
            client.ask("Hello")
    names: Any = ["callboard.v1", "bearer.!"]
    uri = f"ws://127.0.0.1:{server.port}/api/chat/ws"
    with open_connection(uri, subprotocols=names, proxy=None) as connection:
        assert json.loads(connection.recv())["type"] == "hello"


# All connections together


def test_connections_of_all_are_limited(servers: Servers, thread: str) -> None:
    server = servers.start("--max-connections", "1")
    with connect_v1(server):
        assert receive_close_code(server, "callboard.v1") == 1013
        assert receive_close_code(server) == 1013
        reply = request(server, "GET", f"/api/threads/eliza/{thread}/events")
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert post(server, {"message": "Hello"})[1]["code"] == "overloaded"
        assert fetch(server, "/readyz")[0] == 200

    def has_room() -> bool:
        return post(server, {"message": "Hello", "agentId": "echo"})[0] == 200

    wait_until(has_room)
    with connect(server, thread, agentId="echo") as client:
        client.ask("Hello")


def test_connections_are_as_many_as_open_files_allow(servers: Servers, thread: str) -> None:
    server = servers.start(max_files=276)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server, thread, agentId="echo")) for _ in range(20)]
        for _ in range(50):
            assert receive_close_code(server) == 1013
        clients[0].say("Hello")
        assert {client.receive_answer().end["message"] for client in clients} == {"Hello"}
        assert fetch(server, "/readyz")[0] == 200
    assert "At most 20 connections, not 16000" in server.read_log()


def test_without_authentication_no_user_is_limited(server: ServerProcess, thread: str) -> None:
    with contextlib.ExitStack() as stack:
        options = {"agentId": "echo", "userId": thread}
        clients = [stack.enter_context(connect(server, thread, **options)) for _ in range(65)]
        clients[-1].say("Hello")
        assert {client.receive_answer().end["message"] for client in clients} == {"Hello"}


# Keys


def test_public_key_verifies(servers: Servers, tmp_path: Path, thread: str) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    file = tmp_path / "callboard.pem"
    file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    server = servers.start("--auth-jwt-public-key-file", str(file))

    token = make_token(secret=key, algorithm="EdDSA")
    with connect(server, thread, agentId="echo", additional_headers=bear(token)) as client:
        client.ask("Hello")
    assert fetch(server, "/api/agents", **bear(make_token()))[0] == 401


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"AUTH_JWT_SECRET": "too-short"}, "AUTH_JWT_SECRET (--auth-jwt-secret): expected at least 32 bytes"),
        ({"AUTH_JWT_PUBLIC_KEY_FILE": "/nowhere.pem"}, "cannot read /nowhere.pem: No such file or directory"),
        ({"AUTH_JWT_PUBLIC_KEY_FILE": __file__}, "expected a public key in PEM"),
        ({"CALLBOARD_ADDRESS": "0.0.0.0"}, "expected a loopback address"),
    ],
    ids=["short", "no file", "no key", "no key, and no loopback"],
)
def test_key_that_cannot_be_used_is_named(tmp_path: Path, environ: dict[str, str], words: str) -> None:
    command = [CALLBOARD, "serve", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, env=make_environment(**environ), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "too-short" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_any_address_will_do_with_a_key(servers: Servers, thread: str) -> None:
    server = servers.begin("--address", "0.0.0.0", AUTH_JWT_SECRET=SECRET)
    assert server.process.stdout is not None
    line = server.process.stdout.readline()
    assert line.startswith("Callboard listening on http://0.0.0.0:")
    server.port = int(line.rsplit(":", 1)[1])
    with connect(server, thread, agentId="echo", additional_headers=bear(make_token())) as client:
        client.ask("Hello")
    server.stop()


# Logs


def test_no_log_line_holds_a_token_or_the_secret(guarded: ServerProcess, thread: str) -> None:
    tokens = [make_token(), make_token(secret="f" * 32), make_token(lifetime_s=-5)]
    for token in tokens:
        fetch(guarded, "/api/agents", **bear(token))
        receive_close_code(guarded, "callboard.v1", encode(token), query=f"threadId={thread}&userId=bob")

    log = guarded.read_log()
    assert "http_request" in log or "/api/agents" in log
    assert [text for text in (*tokens, *map(encode, tokens), SECRET) if text in log] == []
