import http.client

import pytest

from tests.acceptance.server_process import ServerProcess


def ask(server: ServerProcess, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, dict(response.headers)


def test_client_module_is_served_and_revalidated(server: ServerProcess) -> None:
    status, headers = ask(server, "/static/callboard.js")
    assert status == 200
    assert headers["Content-Type"].startswith(("text/javascript", "application/javascript"))
    assert headers["Cache-Control"] == "no-cache"
    assert ask(server, "/static/callboard.js", **{"If-None-Match": headers["Etag"]})[0] == 304


@pytest.mark.parametrize("path", ["nothing.js", "", "../app.py", "%2e%2e/app.py", "..%2fapp.py", "/etc/passwd"])
def test_nothing_outside_the_folder_is_served(server: ServerProcess, path: str) -> None:
    status, headers = ask(server, f"/static/{path}")
    assert status == 404
    assert headers["Content-Type"] == "application/problem+json"


def test_static_file_is_for_local_names_alone(server: ServerProcess) -> None:
    assert ask(server, "/static/callboard.js", Host="example.com")[0] == 421
