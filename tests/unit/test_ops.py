"""What operators install: the systemd unit, the image, the compose file, the dashboard and the alert rules.

No systemd and no container engine runs here: the files are linted by the tools that there are, and what matters most
is checked on the files themselves. `acceptance/test_monitoring.py` has what a real Prometheus makes of them.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from server import main, node, readiness
from server.config import Settings
from server.metrics_help import HELP
from storage import embedded

ROOT = Path(__file__).parents[2]
OPS = ROOT / "scripts" / "ops"
VARIABLES = {declared.metadata["variable"] for declared in fields(Settings)}

METRICS: Final = frozenset(
    {
        "callboard_accept_to_commit_seconds",
        "callboard_attempts_retried_total",
        "callboard_build_info",
        "callboard_commit_seconds",
        "callboard_commit_to_socket_seconds",
        "callboard_connections",
        "callboard_connections_lagging",
        "callboard_database_reconnects_total",
        "callboard_database_up",
        "callboard_dead_letters_total",
        "callboard_first_token_seconds",
        "callboard_handler_seconds",
        "callboard_intake_bytes",
        "callboard_loop_lag_seconds",
        "callboard_mail_queue_messages",
        "callboard_messages_accepted_total",
        "callboard_messages_refused_total",
        "callboard_sessions_busy",
        "callboard_sessions_live",
        "callboard_sessions_passivated_total",
        "callboard_sessions_started_total",
        "callboard_socket_to_ack_seconds",
        "callboard_tokens_total",
        "callboard_turns_total",
        "callboard_write_batch_rows",
        "callboard_writer_queue_bytes",
        "callboard_writer_queue_requests",
        "callboard_writes_fenced_total",
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
    }
)
"""What the server offers at /metrics; a histogram goes by its name without `_bucket`, `_sum` and `_count`."""

FROM_PROMETHEUS: Final = frozenset({"up"})
"""What Prometheus itself says about each server that it scrapes."""

ADMIN_COMMANDS: Final = ("status", "sessions list --stuck", "dead list", "outbox stats", "doctor")

MAX_EXPOSURE: Final = 1.5
"""Of 10, as `systemd-analyze security` counts; the unit has 1.1 with systemd 252. What is left: it uses the network."""


def read_unit() -> dict[str, list[str]]:
    """Return the unit's settings; one that is given several times has several values."""
    values: dict[str, list[str]] = {}
    for line in (OPS / "callboard.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values.setdefault(name, []).append(value)
    return values


def read_yaml(name: str) -> Any:
    return yaml.safe_load((OPS / name).read_text())


def read_services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = read_yaml("compose.yaml")["services"]
    return services


def read_dockerfile() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, each with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", (OPS / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    split = [line.partition(" ") for line in text.splitlines() if line]
    return [(instruction, arguments) for instruction, _, arguments in split]


def read_image() -> dict[str, str]:
    """Return the last of each instruction of the Dockerfile's last stage: what the image has."""
    instructions = read_dockerfile()
    last_stage = max(index for index, (instruction, _) in enumerate(instructions) if instruction == "FROM")
    return dict(instructions[last_stage:])


def read_alerts() -> list[dict[str, Any]]:
    return [rule for group in read_yaml("alerts.yaml")["groups"] for rule in group["rules"]]


def read_panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads((OPS / "dashboard.json").read_text())["panels"]
    return panels


def read_expressions() -> Iterator[str]:
    """Yield all that the alert rules and the dashboard ask Prometheus."""
    for rule in read_alerts():
        yield rule["expr"]
    for panel in read_panels():
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in json.loads((OPS / "dashboard.json").read_text())["annotations"]["list"]:
        yield annotation["expr"]


def find_metrics(expression: str) -> set[str]:
    """Return the metrics that an expression reads, histograms by their own name."""
    bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|"[^"]*"', " ", expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w:])[a-zA-Z_:][\w:]*(?![\w:])(?!\s*\()", bare)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names} - {"and", "or", "unless"}


def find_tool(name: str) -> str:
    """Return the path of a linter, in the environment of the tests or the system's; skip where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said


@pytest.fixture
def unit_to_analyze(tmp_path: Path) -> Path:
    """The unit with a program that exists: systemd-analyze wants it installed."""
    text = (OPS / "callboard.service").read_text()
    assert "ExecStart=/opt/callboard/bin/callboard serve" in text
    copy = tmp_path / "callboard.service"
    copy.write_text(text.replace("/opt/callboard/bin/callboard", "/bin/true"))
    return copy


class TestUnit:
    def test_systemd_finds_nothing_wrong_with_the_unit(self, unit_to_analyze: Path) -> None:
        command = [find_tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", str(unit_to_analyze)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # It names what it does not understand, and still ends with 0; other units of the machine do not matter.
        complaints = [line for line in done.stderr.splitlines() if "callboard" in line]
        assert (done.returncode, complaints) == (0, [])

    def test_exposure_of_the_unit_is_low(self, unit_to_analyze: Path) -> None:
        threshold = f"--threshold={MAX_EXPOSURE * 10:.0f}"
        run(find_tool("systemd-analyze"), "security", "--offline=true", "--no-pager", threshold, str(unit_to_analyze))

    def test_unit_runs_as_an_account_without_any_capability(self) -> None:
        unit = read_unit()
        assert unit["User"] == ["callboard"]
        assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
        assert unit["NoNewPrivileges"] == ["yes"]
        assert unit["ProtectSystem"] == ["strict"]

    def test_unit_keeps_its_data_where_it_may_write(self) -> None:
        unit = read_unit()
        assert unit["ExecStart"][0].endswith(f"serve --data-dir /var/lib/{unit['StateDirectory'][0]}")

    def test_only_the_server_is_told_to_stop(self) -> None:
        # PostgreSQL's backends would end with SIGTERM, before the server's last writes.
        assert read_unit()["KillMode"] == ["mixed"]
        assert read_unit()["KillSignal"] == ["SIGTERM"]

    def test_unit_waits_for_grace_writes_and_postgres(self) -> None:
        needed_s = shutdown_s() + embedded._STOP_TIMEOUT_S
        assert int(read_unit()["TimeoutStopSec"][0]) > needed_s

    def test_unit_allows_the_files_of_all_connections(self) -> None:
        assert int(read_unit()["LimitNOFILE"][0]) > Settings().max_connections + 256

    def test_refused_settings_are_not_tried_again(self) -> None:
        # click's exit status for an option that cannot be used, which ConfigError becomes.
        assert read_unit()["RestartPreventExitStatus"] == ["2"]


def shutdown_s() -> float:
    """Return how long the server takes to stop at most, without an embedded PostgreSQL."""
    sockets_and_actors_s = 1.0 + readiness.PROBE_TIMEOUT_S
    closing_s = node.SWEEPER_CLOSE_S + node.WRITER_CLOSE_S + main.CANCEL_TIMEOUT_S
    return Settings().shutdown_grace_s + sockets_and_actors_s + closing_s


class TestImage:
    def test_linter_finds_nothing_wrong_with_the_dockerfile(self) -> None:
        run(find_tool("hadolint"), "--failure-threshold=style", str(OPS / "Dockerfile"))

    def test_image_is_built_in_stages_on_a_pinned_base(self) -> None:
        instructions = read_dockerfile()
        assert [arguments for name, arguments in instructions if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
        base = next(arguments for name, arguments in instructions if name == "ARG")
        assert re.fullmatch(r"BASE=python:3\.\d+-slim-[a-z]+", base)

    def test_image_does_not_run_as_root(self) -> None:
        user, _, group = read_image()["USER"].partition(":")
        assert (user, group) == ("10001", "10001")

    def test_image_asks_healthz_with_python(self) -> None:
        _, _, command = read_image()["HEALTHCHECK"].partition("CMD ")
        program, *options, script = json.loads(command)
        assert (program, options) == ("python", ["-I", "-S", "-c"])
        compile(script, "HEALTHCHECK", "exec")
        assert "'/healthz'" in script

    def test_image_runs_the_server_without_a_shell(self) -> None:
        image = read_image()
        assert json.loads(image["ENTRYPOINT"]) == ["callboard", "serve"]
        assert image["STOPSIGNAL"] == "SIGTERM"

    def test_image_keeps_no_cache_of_pip(self) -> None:
        installs = [arguments for name, arguments in read_dockerfile() if name == "RUN" and "pip install" in arguments]
        assert installs
        assert all("--no-cache-dir" in arguments for arguments in installs)

    def test_build_sees_only_what_is_named(self) -> None:
        lines = (OPS / "Dockerfile.dockerignore").read_text().splitlines()
        patterns = [line for line in lines if line and not line.startswith("#")]
        assert patterns[0] == "*"
        copied = [arguments for name, arguments in read_dockerfile() if name == "COPY" and "--from" not in arguments]
        sources = {source for arguments in copied for source in arguments.split()[:-1]}
        assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == sources
        assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("name", ["callboard", "postgres"])
class TestEachService:
    def test_service_drops_all_capabilities(self, name: str) -> None:
        service = read_services()[name]
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged", False)

    def test_service_cannot_write_into_its_image(self, name: str) -> None:
        assert read_services()[name]["read_only"] is True

    def test_service_publishes_on_loopback_only(self, name: str) -> None:
        assert all(port.startswith("127.0.0.1:") for port in read_services()[name].get("ports", ()))

    def test_service_has_time_to_stop(self, name: str) -> None:
        grace = read_services()[name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > shutdown_s()


class TestCompose:
    def test_there_are_no_services_but_these(self) -> None:
        assert set(read_services()) == {"callboard", "postgres"}

    @pytest.mark.parametrize("secret", ["AUTH_JWT_SECRET", "POSTGRES_PASSWORD"])
    def test_compose_demands_each_secret_and_has_none(self, secret: str) -> None:
        used = re.findall(rf"\$\{{?{secret}\b.{{2}}", (OPS / "compose.yaml").read_text())
        assert used
        assert set(used) == {f"${{{secret}:?"}  # with :? compose ends with the text behind it, if it is unset or empty
        values = [str(service["environment"]) for service in read_services().values()]
        assert any(secret in value and "openssl rand -hex 32" in value for value in values)

    def test_server_waits_for_a_healthy_database(self) -> None:
        services = read_services()
        assert services["callboard"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
        assert services["postgres"]["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]

    def test_database_is_reached_by_the_server_only(self) -> None:
        compose = read_yaml("compose.yaml")
        assert compose["services"]["postgres"]["networks"] == ["back"]
        assert compose["networks"]["back"] == {"internal": True}
        assert "ports" not in compose["services"]["postgres"]

    def test_data_outlive_the_database_container(self) -> None:
        compose = read_yaml("compose.yaml")
        # The folder that the image of PostgreSQL 18 declares; older ones have /var/lib/postgresql/data.
        assert compose["services"]["postgres"]["image"] == "postgres:18"
        assert compose["services"]["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
        assert "postgres" in compose["volumes"]

    def test_compose_builds_the_dockerfile_here_from_the_root(self) -> None:
        build = read_services()["callboard"]["build"]
        assert (OPS / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).samefile(OPS / "Dockerfile")


class TestVariables:
    def test_compose_sets_only_variables_that_there_are(self) -> None:
        assert set(read_services()["callboard"]["environment"]) <= VARIABLES

    def test_image_sets_only_variables_that_there_are(self) -> None:
        names = {pair.partition("=")[0] for pair in read_image()["ENV"].split()}
        assert names - {"PATH", "PYTHONDONTWRITEBYTECODE"} <= VARIABLES

    def test_unit_sets_no_variable_that_there_is_not(self) -> None:
        names = {assignment.partition("=")[0] for assignment in read_unit().get("Environment", ())}
        assert names <= VARIABLES

    @pytest.mark.parametrize("name", ["alerts.yaml", "dashboard.json", "callboard.service", "Dockerfile"])
    def test_texts_name_only_variables_that_there_are(self, name: str) -> None:
        named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", (OPS / name).read_text()))
        assert named - {"AF_INET", "AF_UNIX"} <= VARIABLES


class TestMetrics:
    def test_alerts_and_dashboard_read_only_metrics_that_there_are(self) -> None:
        read = {name for expression in read_expressions() for name in find_metrics(expression)}
        assert read - METRICS - FROM_PROMETHEUS == set()

    def test_metrics_of_the_list_are_those_of_the_server(self) -> None:
        assert {name for name in METRICS if name.startswith("callboard_")} == set(HELP)

    def test_dashboard_shows_every_metric_of_the_server(self) -> None:
        targets = [target for panel in read_panels() for target in panel.get("targets", ())]
        shown = {name for target in targets for name in find_metrics(target["expr"])}
        assert {name for name in METRICS if name.startswith("callboard_")} - shown == set()

    def test_prometheus_could_parse_every_expression(self) -> None:
        parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
        for expression in read_expressions():
            parser.parse(re.sub(r"\$__(rate_interval|interval|range)", "5m", expression))

    def test_histograms_are_read_by_their_buckets(self) -> None:
        for expression in read_expressions():
            for quantile in re.findall(r"histogram_quantile\(.*", expression):
                assert re.search(r"\ble\b.*_bucket", quantile), expression

    @pytest.mark.parametrize(
        ("expression", "metrics"),
        [
            ('sum by (job, le) (rate(a_seconds_bucket{code="x_total"}[5m])) > 0.1', {"a_seconds"}),
            ("a > 0 unless on (job) sum(b_total) / 1024 and up == 0", {"a", "b_total", "up"}),
        ],
    )
    def test_metrics_are_found_in_an_expression(self, expression: str, metrics: set[str]) -> None:
        assert find_metrics(expression) == metrics


class TestDashboard:
    def test_rows_are_in_their_order(self) -> None:
        rows = [panel["title"] for panel in read_panels() if panel["type"] == "row"]
        assert rows == ["Traffic", "Latency", "Storage", "Delivery", "Health"]

    def test_each_panel_says_what_it_shows(self) -> None:
        panels = [panel for panel in read_panels() if panel["type"] != "row"]
        assert [panel["title"] for panel in panels if not panel["description"] or not panel["targets"]] == []

    def test_panels_have_a_place_of_their_own(self) -> None:
        taken: dict[tuple[int, int], str] = {}
        for panel in read_panels():
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        assert len({panel["id"] for panel in read_panels()}) == len(read_panels())

    def test_each_query_goes_by_the_variables(self) -> None:
        dashboard = json.loads((OPS / "dashboard.json").read_text())
        assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "job", "instance"]
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                assert target["datasource"]["uid"] == "${datasource}"
                selectors = re.findall(r"\{([^}]*)\}", target["expr"])
                assert selectors
                assert all('job=~"$job", instance=~"$instance"' in selector for selector in selectors)


@pytest.mark.parametrize("rule", read_alerts(), ids=lambda rule: str(rule["alert"]))
class TestEachAlert:
    def test_alert_says_what_is_wrong_and_what_to_do(self, rule: dict[str, Any]) -> None:
        assert set(rule["annotations"]) == {"summary", "description", "action"}
        assert all(rule["annotations"].values())
        assert rule["labels"]["severity"] in {"page", "ticket"}

    def test_alert_names_only_admin_commands_that_there_are(self, rule: dict[str, Any]) -> None:
        for command in re.findall(r"callboard admin ([^.,:;]*)", rule["annotations"]["action"]):
            assert command.startswith(ADMIN_COMMANDS), command


class TestAlerts:
    def test_alerts_have_names_of_their_own(self) -> None:
        names = [rule["alert"] for rule in read_alerts()]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"Callboard[A-Z]\w+", name) for name in names)

    def test_each_alert_has_its_reason_above_it(self) -> None:
        lines = (OPS / "alerts.yaml").read_text().splitlines()
        above = {line.strip(): before.strip() for before, line in pairwise(lines)}
        assert [line for line, before in above.items() if line.startswith("- alert:") and before[:2] != "# "] == []

    def test_alerts_that_are_named_in_actions_exist(self) -> None:
        text = (OPS / "alerts.yaml").read_text()
        assert set(re.findall(r"\bCallboard[A-Z]\w+", text)) == {rule["alert"] for rule in read_alerts()}


@pytest.mark.parametrize("path", sorted(OPS.iterdir()), ids=lambda path: path.name)
def test_no_file_names_a_secret_or_a_foreign_path(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{32}|eyJ[\w-]{10}", text)
    assert set(re.findall(r"(?<![\w./$:}-])/(?:home|root|work|tmp)/\S*", text)) == set()
