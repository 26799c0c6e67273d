import dataclasses
from pathlib import Path
from typing import Any

import pytest

from server.config import ConfigError, Settings, load_settings

SECRET = "0123456789abcdef0123456789abcdef"

# Field, option, variable, a good value and what becomes of it.
SETTINGS: list[tuple[str, str, str, str, Any]] = [
    ("port", "--port", "PORT", "0", 0),
    ("address", "--address", "CALLBOARD_ADDRESS", "::1", "::1"),
    ("data_dir", "--data-dir", "CALLBOARD_DATA_DIR", "/srv/call board", Path("/srv/call board")),
    ("database_url", "--database-url", "DATABASE_URL", "postgres://u:p@h/d", "postgresql://u:p@h/d"),
    ("agents_file", "--agents", "CALLBOARD_AGENTS", "/etc/agents.toml", Path("/etc/agents.toml")),
    ("effect_poll_interval_ms", "--effect-poll-interval-ms", "EFFECT_POLL_INTERVAL_MS", "250", 250),
    (
        "event_queue_process_interval_ms",
        "--event-queue-process-interval-ms",
        "EVENT_QUEUE_PROCESS_INTERVAL_MS",
        "10",
        10,
    ),
    ("turn_timeout_s", "--turn-timeout-s", "TURN_TIMEOUT_S", "2.5", 2.5),
    ("turn_block_s", "--turn-block-s", "TURN_BLOCK_S", "0.5", 0.5),
    ("turn_retries", "--turn-retries", "TURN_RETRIES", "0", 0),
    ("turn_retry_pause_s", "--turn-retry-pause-s", "TURN_RETRY_PAUSE_S", "0.5", 0.5),
    ("session_idle_s", "--session-idle-s", "SESSION_IDLE_S", "0.5", 0.5),
    ("session_max_live", "--session-max-live", "SESSION_MAX_LIVE", "7", 7),
    ("session_queue_limit", "--session-queue-limit", "SESSION_QUEUE_LIMIT", "1", 1),
    ("coalesce_tokens", "--coalesce-tokens", "COALESCE_TOKENS", "0", False),
    ("compact_after_s", "--compact-after-s", "COMPACT_AFTER_S", "60", 60.0),
    ("effect_ttl_s", "--effect-ttl-s", "EFFECT_TTL_S", "0", 0.0),
    ("retention_days", "--retention-days", "RETENTION_DAYS", "0.5", 0.5),
    ("writer_queue_bytes", "--writer-queue-bytes", "WRITER_QUEUE_BYTES", "1024", 1024),
    ("shutdown_grace_s", "--shutdown-grace-s", "SHUTDOWN_GRACE_S", "0", 0.0),
    ("slow_handler_ms", "--slow-handler-ms", "SLOW_HANDLER_MS", "0", 0),
    ("auth_jwt_secret", "--auth-jwt-secret", "AUTH_JWT_SECRET", SECRET, SECRET),
    (
        "auth_jwt_public_key_file",
        "--auth-jwt-public-key-file",
        "AUTH_JWT_PUBLIC_KEY_FILE",
        "/etc/callboard.pem",
        Path("/etc/callboard.pem"),
    ),
    ("auth_jwt_audience", "--auth-jwt-audience", "AUTH_JWT_AUDIENCE", "callboard", "callboard"),
    ("auth_clock_skew_s", "--auth-clock-skew-s", "AUTH_CLOCK_SKEW_S", "0", 0.0),
    (
        "allowed_origins",
        "--allowed-origins",
        "ALLOWED_ORIGINS",
        "https://chat.example, http://127.0.0.1:3000",
        ("https://chat.example", "http://127.0.0.1:3000"),
    ),
    ("max_connections", "--max-connections", "MAX_CONNECTIONS", "1", 1),
    ("max_connections_per_user", "--max-connections-per-user", "MAX_CONNECTIONS_PER_USER", "0", 0),
    ("metrics_token", "--metrics-token", "METRICS_TOKEN", "sixteen-letters.", "sixteen-letters."),
    (
        "otlp_endpoint",
        "--otel-exporter-otlp-endpoint",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "https://user:secret@collector.example:4318/otlp/",
        "https://user:secret@collector.example:4318/otlp/",
    ),
    (
        "otlp_traces_endpoint",
        "--otel-exporter-otlp-traces-endpoint",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "http://[::1]:4318/v1/traces",
        "http://[::1]:4318/v1/traces",
    ),
    ("otel_sdk_disabled", "--otel-sdk-disabled", "OTEL_SDK_DISABLED", "TRUE", True),
    ("log_level", "--log-level", "LOG_LEVEL", "debug", "DEBUG"),
    ("log_format", "--log-format", "LOG_FORMAT", "JSON", "json"),
]
NAMES = [name for name, *_ in SETTINGS]

COMPANIONS: dict[str, dict[str, str | None]] = {"auth_jwt_audience": {"auth_jwt_secret": SECRET}}
"""What a setting needs beside it."""

BAD_VALUES: list[tuple[str, str]] = [
    ("port", "eighty"),
    ("port", "-1"),
    ("port", "65536"),
    ("port", "80.0"),
    ("port", " 80"),
    ("port", "٨٠"),
    ("port", "9" * 5000),
    ("address", "0.0.0.0"),
    ("address", "192.168.1.5"),
    ("address", "::"),
    ("address", "example.org"),
    ("address", "127.0.0.1:80"),
    ("database_url", "mysql://h/d"),
    ("database_url", "/var/lib/db"),
    ("effect_poll_interval_ms", "0"),
    ("effect_poll_interval_ms", "0.5"),
    ("event_queue_process_interval_ms", "9"),
    ("turn_timeout_s", "0"),
    ("turn_timeout_s", "-5"),
    ("turn_timeout_s", "nan"),
    ("turn_timeout_s", "inf"),
    ("turn_timeout_s", "2 minutes"),
    ("turn_block_s", "0"),
    ("turn_retries", "-1"),
    ("turn_retry_pause_s", "0"),
    ("session_idle_s", "0"),
    ("session_max_live", "0"),
    ("session_queue_limit", "0"),
    ("session_queue_limit", "10001"),
    ("coalesce_tokens", "yes"),
    ("coalesce_tokens", "2"),
    ("compact_after_s", "-1"),
    ("compact_after_s", "an hour"),
    ("effect_ttl_s", "inf"),
    ("retention_days", "-1"),
    ("retention_days", "nan"),
    ("retention_days", "7 days"),
    ("shutdown_grace_s", "-1"),
    ("shutdown_grace_s", "3601"),
    ("slow_handler_ms", "-1"),
    ("auth_jwt_secret", "too short"),
    ("auth_jwt_secret", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----"),
    ("auth_clock_skew_s", "3601"),
    ("allowed_origins", "*"),
    ("allowed_origins", "chat.example"),
    ("allowed_origins", "https://chat.example/"),
    ("allowed_origins", "https://ann@chat.example"),
    ("allowed_origins", "https://chat.example,"),
    ("allowed_origins", "https://chat.example:99999"),
    ("max_connections", "0"),
    ("max_connections_per_user", "-1"),
    ("metrics_token", "fifteen-letters"),
    ("metrics_token", "sixteen letters."),
    ("metrics_token", "=" * 16),
    ("otlp_endpoint", "collector:4318"),
    ("otlp_endpoint", "grpc://collector:4317"),
    ("otlp_endpoint", "http://"),
    ("otlp_endpoint", "http://h:99999"),
    ("otlp_endpoint", "http://h/a b"),
    ("otlp_endpoint", "http://h#top"),
    ("otlp_endpoint", "http://h\x00"),
    ("otlp_endpoint", "ftp://user:secret@h"),
    ("otlp_traces_endpoint", "[::1"),
    ("otel_sdk_disabled", "1"),
    ("log_level", "LOUD"),
    ("log_format", "xml"),
]


def names_of(field: str) -> tuple[str, str]:
    return next((option, variable) for name, option, variable, *_ in SETTINGS if name == field)


def test_every_setting_is_tested_here() -> None:
    assert [declared.name for declared in dataclasses.fields(Settings)] == NAMES


def test_defaults_are_as_documented() -> None:
    settings = load_settings({}, {})
    assert settings.data_dir.is_absolute()
    assert dataclasses.replace(settings, data_dir=Path("/d")) == Settings(
        port=8888,
        address="127.0.0.1",
        data_dir=Path("/d"),
        database_url=None,
        agents_file=None,
        effect_poll_interval_ms=500,
        event_queue_process_interval_ms=50,
        turn_timeout_s=120.0,
        turn_block_s=2.0,
        turn_retries=3,
        turn_retry_pause_s=1.0,
        session_idle_s=60.0,
        session_max_live=100_000,
        session_queue_limit=16,
        coalesce_tokens=True,
        compact_after_s=3600.0,
        effect_ttl_s=86_400.0,
        retention_days=0.0,
        shutdown_grace_s=10.0,
        auth_jwt_secret=None,
        auth_jwt_public_key_file=None,
        auth_jwt_audience=None,
        auth_clock_skew_s=30.0,
        allowed_origins=(),
        max_connections=16_000,
        max_connections_per_user=64,
        slow_handler_ms=50,
        metrics_token=None,
        log_level="INFO",
        log_format="text",
    )


@pytest.mark.parametrize(("name", "option", "variable", "text", "value"), SETTINGS, ids=NAMES)
def test_setting_comes_from_its_option(name: str, option: str, variable: str, text: str, value: Any) -> None:
    assert getattr(load_settings({name: text, **COMPANIONS.get(name, {})}, {}), name) == value


@pytest.mark.parametrize(("name", "option", "variable", "text", "value"), SETTINGS, ids=NAMES)
def test_setting_comes_from_its_variable(name: str, option: str, variable: str, text: str, value: Any) -> None:
    assert getattr(load_settings({name: None, **COMPANIONS.get(name, {})}, {variable: text}), name) == value


@pytest.mark.parametrize(("name", "option", "variable", "text", "value"), SETTINGS, ids=NAMES)
def test_option_wins_over_its_variable(name: str, option: str, variable: str, text: str, value: Any) -> None:
    assert getattr(load_settings({name: text, **COMPANIONS.get(name, {})}, {variable: "not looked at"}), name) == value


@pytest.mark.parametrize(("name", "option", "variable", "text", "value"), SETTINGS, ids=NAMES)
def test_empty_variable_counts_as_unset(name: str, option: str, variable: str, text: str, value: Any) -> None:
    assert load_settings({}, {variable: ""}) == load_settings({}, {})


@pytest.mark.parametrize(("name", "option", "variable", "text", "value"), SETTINGS, ids=NAMES)
def test_setting_is_declared_under_its_names(name: str, option: str, variable: str, text: str, value: Any) -> None:
    (declared,) = [declared for declared in dataclasses.fields(Settings) if declared.name == name]
    assert (declared.metadata["option"], declared.metadata["variable"]) == (option, variable)
    assert declared.metadata["doc"].endswith(".")


@pytest.mark.parametrize(("name", "text"), BAD_VALUES, ids=[f"{name}={text[:20]}" for name, text in BAD_VALUES])
def test_bad_value_names_option_variable_and_value(name: str, text: str) -> None:
    option, variable = names_of(name)
    for source, options, environ in ((option, {name: text}, {}), (variable, {}, {variable: text})):
        with pytest.raises(ConfigError) as refusal:
            load_settings(options, environ)
        words = str(refusal.value)
        assert words.startswith(source), "the place that the value came from stands first"
        assert option in words
        assert variable in words
        assert "expected" in words
        assert (repr(text) in words) != (
            name in {"database_url", "auth_jwt_secret", "metrics_token", "otlp_endpoint", "otlp_traces_endpoint"}
        )


def test_localhost_is_an_address_of_this_machine() -> None:
    assert load_settings({"address": "localhost"}, {}).address == "127.0.0.1"


def test_with_authentication_any_address_will_do() -> None:
    assert load_settings({"address": "0.0.0.0", "auth_jwt_secret": SECRET}, {}).address == "0.0.0.0"
    assert load_settings({"address": "::", "auth_jwt_public_key_file": "/k.pem"}, {}).address == "::"


def test_two_keys_are_one_too_many() -> None:
    with pytest.raises(
        ConfigError, match=r"--auth-jwt-secret \(AUTH_JWT_SECRET\) and AUTH_JWT_PUBLIC_KEY_FILE \("
    ) as no:
        load_settings({"auth_jwt_secret": SECRET}, {"AUTH_JWT_PUBLIC_KEY_FILE": "/k.pem"})
    assert SECRET not in str(no.value)


def test_audience_without_a_key_would_check_nothing() -> None:
    with pytest.raises(ConfigError, match=r"^AUTH_JWT_AUDIENCE .*AUTH_JWT_SECRET"):
        load_settings({}, {"AUTH_JWT_AUDIENCE": "callboard"})


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(load_settings({"auth_jwt_secret": SECRET, "metrics_token": SECRET}, {}))


def test_paths_may_begin_at_home() -> None:
    settings = load_settings({"data_dir": "~/data"}, {})
    assert settings.data_dir.is_absolute()
    assert settings.data_dir.name == "data"
    assert "~" not in str(settings.data_dir)


def test_home_of_nobody_is_a_bad_value() -> None:
    with pytest.raises(ConfigError, match=r"--data-dir \(CALLBOARD_DATA_DIR\)"):
        load_settings({"data_dir": "~no-such-user/data"}, {})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_settings({}, {}).port = 1  # type: ignore[misc]


# The password

PASSWORD = "s3cret-w0rd"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"mysql://ann:{PASSWORD}@host/db", id="another scheme"),
        pytest.param(f"ann:{PASSWORD}@host/db", id="no scheme"),
        pytest.param(f"postgresql://ann:{PASSWORD}@[host/db", id="broken address"),
        pytest.param(f"postgresql://ann:{PASSWORD}\u2100@host/db", id="character that hides a slash"),
        pytest.param(f"postgresql://ann:{PASSWORD}@[::g]/db", id="no IPv6 address"),
    ],
)
def test_bad_database_url_does_not_show_its_password(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_settings({}, {"DATABASE_URL": text})
    assert "DATABASE_URL" in str(refusal.value)
    assert PASSWORD not in str(refusal.value)


def test_settings_in_text_do_not_show_the_password() -> None:
    settings = load_settings({}, {"DATABASE_URL": f"postgresql://ann:{PASSWORD}@host/db"})
    assert PASSWORD not in repr(settings)
    assert PASSWORD not in str(settings)


@pytest.mark.parametrize("text", [" postgres://ann@host/db", "\tpostgresql://ann@host/db"])
def test_blank_before_a_database_url_spoils_nothing(text: str) -> None:
    try:
        url = load_settings({"database_url": text}, {}).database_url
    except ConfigError:
        return
    assert url == "postgresql://ann@host/db"


def test_options_of_a_database_url_are_kept() -> None:
    text = "postgresql://ann:p%40ss@/db?host=%2Frun%2Fpg&port=5433&sslmode=require"
    assert load_settings({"database_url": text}, {}).database_url == text
