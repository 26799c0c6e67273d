"""The session that spans are posted with, against collectors that misbehave."""

import tracemalloc
from collections.abc import Iterator

import pytest
import requests

from server.otel_session import ANSWER_BYTES, BoundedSession
from tests.acceptance.collector import Collector, run_collector

SOCKET_BYTES = 16 * 1024 * 1024
"""What may be on its way between the two, in the buffers of the sockets."""


@pytest.fixture
def session() -> Iterator[BoundedSession]:
    with BoundedSession() as made:
        yield made


def post(session: BoundedSession, collector: Collector) -> requests.Response:
    return session.post(f"{collector.url}/v1/traces", data=b"", timeout=10)


@pytest.mark.parametrize("mode", ["endless", "bomb", "long"])
def test_answer_without_end_is_left_after_its_beginning(session: BoundedSession, mode: str) -> None:
    with run_collector(mode) as collector:
        tracemalloc.start()
        try:
            response = post(session, collector)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (response.status_code, response.content) == (200, b"")
        assert collector.hung_up.wait(10)
        assert collector.sent_bytes < SOCKET_BYTES
    assert peak_bytes < 40 * ANSWER_BYTES  # the collector's own pieces included


def test_answer_that_comes_in_drops_is_left(session: BoundedSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.otel_session.ANSWER_S", 0.1)
    with run_collector("drops") as collector:
        assert post(session, collector).status_code == 200
        assert collector.hung_up.wait(10)
        assert 0 < collector.sent_bytes < 1000


@pytest.mark.parametrize(("mode", "status"), [("ok", 200), ("chunked", 200), ("refuse", 503)])
def test_connection_is_used_again(session: BoundedSession, mode: str, status: int) -> None:
    with run_collector(mode) as collector:
        for _ in range(3):
            assert post(session, collector).status_code == status
        assert len(collector.connections) == 3
        assert len(set(collector.connections)) == 1


def test_no_answer_is_asked_for_compressed(session: BoundedSession) -> None:
    session.headers["Accept-Encoding"] = "gzip"
    with run_collector() as collector:
        session.post(collector.url, data=b"", headers={"accept-encoding": "br"})
        assert [headers["Accept-Encoding"] for headers in collector.headers] == ["identity"]


def test_redirect_is_an_error_and_not_followed(session: BoundedSession) -> None:
    with run_collector("moved") as collector:
        with pytest.raises(requests.TooManyRedirects):
            post(session, collector)
        assert collector.paths == ["/v1/traces"]
