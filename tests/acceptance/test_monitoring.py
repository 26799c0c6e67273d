"""A real Prometheus, where there is one: it tests the alert rules, scrapes a real server, and draws the dashboard.

`PROMETHEUS_TESTS=required` is for CI.
"""

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.client import connect, fetch
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.test_load_test import QUICK, run_load
from tests.unit.test_ops import OPS, read_alerts, read_panels

pytestmark = pytest.mark.slow(reason="runs Prometheus")

TOKEN = "a-token-for-prometheus"
RULE_TESTS = OPS / "alerts.test.yaml"
VARIABLES = {"$__rate_interval": "30s", "$__range": "60s", "$job": ".+", "$instance": ".*"}
"""What Grafana puts in; its own first one is four scrapes or more, too."""


def find_program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        assert os.environ.get("PROMETHEUS_TESTS") != "required", f"needs {name} in PATH"
        pytest.skip(f"{name} is not installed")
    return found


def run_promtool(*arguments: str, told: str | None = None) -> None:
    done = subprocess.run(
        [find_program("promtool"), *arguments], input=told, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Without a server


def test_promtool_accepts_the_alert_rules() -> None:
    run_promtool("check", "rules", str(OPS / "alerts.yaml"))


def test_each_alert_fires_on_its_series_and_only_then() -> None:
    run_promtool("test", "rules", str(RULE_TESTS))


def test_each_alert_is_tested_firing_and_silent() -> None:
    firing: set[str] = set()
    silent: set[str] = set()
    for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        alert = test["name"].partition(",")[0]
        for asked in test["promql_expr_test"]:
            assert f'ALERTS{{alertname="{alert}", alertstate="firing"}}' in asked["expr"]
            (firing if asked["exp_samples"] else silent).add(alert)
    assert firing == silent == {rule["alert"] for rule in read_alerts()}


# With one


class Prometheus:
    """One that scrapes a server every quarter of a second, with the alert rules.

    Args:
        folder: For its configuration and data.
        server: Asks for `TOKEN` at /metrics.
    """

    def __init__(self, folder: Path, server: ServerProcess) -> None:
        program = find_program("prometheus")
        (folder / "token").write_text(TOKEN)
        job = {
            "job_name": "callboard",
            "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
            "authorization": {"credentials_file": str(folder / "token")},
        }
        paces = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "500ms"}
        configuration = {"global": paces, "rule_files": [str(OPS / "alerts.yaml")], "scrape_configs": [job]}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{unused.getsockname()[1]}"
        options = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
        self._log = folder / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *options, f"--web.listen-address={self._address}"], stdout=log, stderr=log
            )

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(30) == 0, self._log.read_text()

    def is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            self._get("/-/ready")
        except OSError:
            return False
        return True

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression gives, without samples that are not a number."""
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        answer = json.loads(self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        return [sample for sample in answer["data"]["result"] if sample["value"][1] != "NaN"]

    def list_rules(self) -> list[dict[str, Any]]:
        groups = json.loads(self._get("/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _get(self, path: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self._address}{path}", timeout=15) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 503:
                    raise
                raise AssertionError(error.read().decode()) from error


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, agents_file: Path) -> Iterator[ServerProcess]:
    """A server that Prometheus may scrape."""
    find_program("prometheus")
    servers = Servers(tmp_path_factory.mktemp("watched"))
    options = ["--agents", str(agents_file), "--shutdown-grace-s", "0.5", "--turn-retries", "1"]
    yield servers.start(*options, METRICS_TOKEN=TOKEN, TURN_RETRY_PAUSE_S="0.05")
    servers.stop_all()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, watched: ServerProcess) -> Iterator[Prometheus]:
    """One that has seen the server before, while, and after it had something to do."""
    started = Prometheus(tmp_path_factory.mktemp("prometheus"), watched)
    try:
        wait_until(started.is_ready, timeout_s=30)
        wait_until(lambda: started.ask("callboard_build_info"), timeout_s=30)
        with connect(watched, "monitored", agentId="flaky") as client:
            client.say("2", requestId="r1")  # fails twice: one retry, and a dead letter
            while client.receive()["type"] == "token":
                pass
        folder = tmp_path_factory.mktemp("load")
        done = run_load(folder, watched.url, *QUICK, "--sessions", "10", "--messages", "20")
        assert done.returncode == 0, done.stdout + done.stderr
        yield started
    finally:
        started.stop()


def test_each_query_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    queries = [(panel["title"], target["expr"]) for panel in read_panels() for target in panel.get("targets", ())]
    found = {query: prometheus.ask(query[1]) for query in queries}

    assert [query for query, samples in found.items() if not samples] == []


def test_counts_of_the_dashboard_are_those_of_the_server(prometheus: Prometheus) -> None:
    by_title = {panel["title"]: panel["targets"][0]["expr"] for panel in read_panels() if "targets" in panel}

    def has_seen_all() -> bool:
        counted = {sample["metric"]["outcome"]: float(sample["value"][1]) for sample in prometheus.ask(turns)}
        return counted == {"completed": 200, "failed": 1, "cancelled": 0}

    turns = "callboard_turns_total"
    wait_until(has_seen_all)
    assert prometheus.ask(by_title["Database"])[0]["value"][1] == "1"
    # `increase` guesses what was between the first scrape in its range and the range's begin.
    assert 0 < float(prometheus.ask(by_title["Failed turns"])[0]["value"][1]) < 0.02


def test_dashboard_marks_the_start_of_the_server(prometheus: Prometheus, watched: ServerProcess) -> None:
    annotation = json.loads((OPS / "dashboard.json").read_text())["annotations"]["list"][0]

    marked = prometheus.ask(annotation["expr"])

    assert annotation["useValueForTime"] is True
    started_at_s = float(prometheus.ask("process_start_time_seconds")[0]["value"][1])
    assert [float(sample["value"][1]) for sample in marked] == [pytest.approx(started_at_s * 1000)]
    assert 0 < float(prometheus.ask("time() - process_start_time_seconds")[0]["value"][1]) < 600


def test_prometheus_evaluates_each_alert_rule(prometheus: Prometheus) -> None:
    wait_until(lambda: all(rule["health"] != "unknown" for rule in prometheus.list_rules()), timeout_s=30)

    rules = {rule["name"]: rule for rule in prometheus.list_rules()}
    assert set(rules) == {rule["alert"] for rule in read_alerts()}
    assert {name: rule.get("lastError") for name, rule in rules.items() if rule["health"] != "ok"} == {}


def test_alerts_of_a_server_with_one_dead_letter(prometheus: Prometheus) -> None:
    def list_firing() -> list[str]:
        return [rule["name"] for rule in prometheus.list_rules() if rule["state"] == "firing"]

    wait_until(list_firing, timeout_s=30)

    assert list_firing() == ["CallboardDeadLetters"]
    firing = next(rule for rule in prometheus.list_rules() if rule["state"] == "firing")
    assert firing["alerts"][0]["annotations"]["summary"] == "1 messages of the last hour were given up"


def test_promtool_finds_nothing_wrong_with_the_metrics(watched: ServerProcess) -> None:
    status, body = fetch(watched, "/metrics", Authorization=f"Bearer {TOKEN}")

    assert status == 200
    run_promtool("check", "metrics", told=body.decode())
