import pytest

from callboard.address import Address


@pytest.mark.parametrize(
    ("given", "socket", "http"),
    [
        ("ws://127.0.0.1:8888", "ws://127.0.0.1:8888/api/chat/ws", "http://127.0.0.1:8888"),
        ("http://localhost/", "ws://localhost/api/chat/ws", "http://localhost"),
        ("https://example.org/board", "wss://example.org/board/api/chat/ws", "https://example.org/board"),
        ("wss://[::1]:1/api/chat/ws", "wss://[::1]:1/api/chat/ws", "https://[::1]:1"),
        ("ws://h/?userId=me&threadId=other#top", "ws://h/api/chat/ws?userId=me", "http://h"),
    ],
)
def test_address_has_both_endpoints(given: str, socket: str, http: str) -> None:
    address = Address.parse(given)

    assert (address.socket, address.http) == (socket, http)


def test_given_user_counts_before_the_urls_own() -> None:
    address = Address.parse("ws://h?userId=me", "you")

    assert address.socket == "ws://h/api/chat/ws?userId=you"
    assert address.locate("threads", "a", "t", before=None, limit=5) == "http://h/api/threads/a/t?limit=5&userId=you"


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
        Address.parse(url)
