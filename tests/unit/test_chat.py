import errno
import re

import pytest
from click.testing import CliRunner
from tornado.httpclient import HTTPClientError

from scripts import chat, chat_connection


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("ws://127.0.0.1:8888", "ws://127.0.0.1:8888/api/chat/ws?threadId=T"),
        ("http://localhost/", "ws://localhost/api/chat/ws?threadId=T"),
        ("https://example.org/board", "wss://example.org/board/api/chat/ws?threadId=T"),
        ("wss://[::1]:1/api/chat/ws", "wss://[::1]:1/api/chat/ws?threadId=T"),
        ("ws://h/?userId=me&threadId=other#top", "ws://h/api/chat/ws?userId=me&threadId=T"),
    ],
)
def test_address_gets_scheme_path_and_thread(given: str, url: str) -> None:
    assert chat_connection.make_address(given, thread="T", agent=None).url == url


def test_address_names_the_agent_if_there_is_one() -> None:
    address = chat_connection.make_address("http://h:1", thread="T", agent="eliza")

    assert address.url == "ws://h:1/api/chat/ws?threadId=T&agentId=eliza"
    assert address.server == "ws://h:1"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8888",
        "ftp://h",
        "ws://",
        "ws://h:99999",
        "ws://h:x",
        "ws://h:0",
        "ws://a b",
        "ws://u:p@h",
        "ws://[",
    ],
)
def test_address_refuses_what_is_no_server(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        chat_connection.make_address(url, thread="T", agent=None)


@pytest.mark.parametrize(
    "arguments",
    [["--url", "ws://h:x"], ["--thread", ""], ["--thread", "a/b"], ["--agent", "é"], ["--agent", "x" * 129]],
)
def test_unusable_option_is_named_in_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(chat.chat, arguments)

    assert result.exit_code == 2
    assert f"'{arguments[0]}'" in result.output


def test_fresh_thread_id_is_a_key_part() -> None:
    thread = chat_connection.make_thread_id()

    assert re.fullmatch(r"[a-z]+-[a-z]+-\d{5}", thread)
    assert chat_connection.KEY_PART.fullmatch(thread)


@pytest.mark.parametrize(("attempt", "longest_s"), [(0, 0.25), (1, 0.5), (4, 4.0), (5, 5.0), (10_000, 5.0)])
def test_delay_doubles_up_to_five_seconds_with_jitter(attempt: int, longest_s: float) -> None:
    delays = [chat_connection.pick_delay_s(attempt) for _ in range(50)]

    assert all(longest_s / 2 <= delay <= longest_s for delay in delays)
    assert len(set(delays)) > 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "connection refused"),
        (HTTPClientError(404), "it answered HTTP 404"),
        (HTTPClientError(599), "no answer in time"),
        (ValueError(), "ValueError"),
    ],
)
def test_failure_is_described_in_a_few_words(error: Exception, text: str) -> None:
    assert chat_connection.describe_failure(error) == text
