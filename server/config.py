"""The configuration: one frozen object, read and checked once, from options and the environment.

Each setting has an option and a variable; the option wins. An error names both and the value, so that whoever started
the server knows what to change. Nothing else reads the environment, but for where a user's files belong
(`XDG_DATA_HOME` in storage.data_directory, `XDG_RUNTIME_DIR` in storage.socket_folder).
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from server.auth import check_secret
from server.setting_parsers import (
    bearer_token,
    database_url,
    days,
    http_base_url,
    http_url,
    ip_address,
    one_of,
    origins,
    path,
    seconds,
    some_text,
    switch,
    true_or_false,
    whole_number,
)
from storage.data_directory import default_data_dir


class ConfigError(Exception):
    """Raised when a setting has a value that it cannot have; the text names option, variable and value."""


def setting(
    option: str,
    variable: str,
    parse: Callable[[str], Any],
    doc: str,
    *,
    default: Any = None,
    factory: Callable[[], Any] | None = None,
    is_secret: bool = False,
) -> Any:
    """Declare a field of Settings.

    Args:
        option: Its option.
        variable: Its environment variable.
        parse: Makes its value of text; ValueError says what is expected.
        doc: Its use, for `--help`.
        default: Its value if neither is given.
        factory: Makes that value, instead.
        is_secret: True keeps its value out of errors and `repr`.
    """
    metadata = {"option": option, "variable": variable, "parse": parse, "doc": doc, "is_secret": is_secret}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata, repr=not is_secret)
    return field(default=default, metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator can set. `callboard serve --help` and the README list them."""

    port: int = setting(
        "--port", "PORT", whole_number(0, 65535), "Port to listen on; 0 takes a free one.", default=8888
    )
    address: str = setting(
        "--address",
        "CALLBOARD_ADDRESS",
        ip_address,
        "Address to listen on; without authentication a loopback address.",
        default="127.0.0.1",
    )
    data_dir: Path = setting(
        "--data-dir",
        "CALLBOARD_DATA_DIR",
        path,
        "Where the embedded PostgreSQL keeps its data.",
        factory=default_data_dir,
    )
    database_url: str | None = setting(
        "--database-url",
        "DATABASE_URL",
        database_url,
        "A PostgreSQL 14 or newer to use instead of the embedded one.",
        is_secret=True,
    )
    agents_file: Path | None = setting(
        "--agents", "CALLBOARD_AGENTS", path, "TOML file that names the agents; without one: eliza, echo, metronome."
    )
    effect_poll_interval_ms: int = setting(
        "--effect-poll-interval-ms",
        "EFFECT_POLL_INTERVAL_MS",
        whole_number(10, 3_600_000),
        "How often to look for effects that nobody pushed.",
        default=500,
    )
    event_queue_process_interval_ms: int = setting(
        "--event-queue-process-interval-ms",
        "EVENT_QUEUE_PROCESS_INTERVAL_MS",
        whole_number(10, 3_600_000),
        "How often to look for accepted events that no actor holds; seldomer while there are none.",
        default=50,
    )
    turn_timeout_s: float = setting(
        "--turn-timeout-s", "TURN_TIMEOUT_S", seconds(0.01, 86_400), "How long an agent may take.", default=120.0
    )
    turn_block_s: float = setting(
        "--turn-block-s",
        "TURN_BLOCK_S",
        seconds(0.1, 86_400),
        "How long an agent may keep everybody else waiting, by computing or waiting without `await`.",
        default=2.0,
    )
    turn_retries: int = setting(
        "--turn-retries",
        "TURN_RETRIES",
        whole_number(0, 100),
        "How often an agent that fails is asked again, before its message is answered with an error.",
        default=3,
    )
    turn_retry_pause_s: float = setting(
        "--turn-retry-pause-s",
        "TURN_RETRY_PAUSE_S",
        seconds(0.01, 60),
        "About how long before the first time; it doubles from one to the next, up to a minute.",
        default=1.0,
    )
    session_idle_s: float = setting(
        "--session-idle-s",
        "SESSION_IDLE_S",
        seconds(0.01, 86_400),
        "How long an idle session stays in memory.",
        default=60.0,
    )
    session_max_live: int = setting(
        "--session-max-live",
        "SESSION_MAX_LIVE",
        whole_number(1, 10_000_000),
        "How many sessions may be in memory; past it the longest idle leave early.",
        default=100_000,
    )
    session_queue_limit: int = setting(
        "--session-queue-limit",
        "SESSION_QUEUE_LIMIT",
        whole_number(1, 10_000),
        "How many messages of a thread may wait behind the running one.",
        default=16,
    )
    coalesce_tokens: bool = setting(
        "--coalesce-tokens",
        "COALESCE_TOKENS",
        switch,
        "1 merges tokens that wait for a write into one frame, 0 never does.",
        default=True,
    )
    compact_after_s: float = setting(
        "--compact-after-s",
        "COMPACT_AFTER_S",
        seconds(0, 31_536_000),
        "When the tokens of a delivered answer are deleted, its message staying; 0 never.",
        default=3600.0,
    )
    effect_ttl_s: float = setting(
        "--effect-ttl-s",
        "EFFECT_TTL_S",
        seconds(0, 31_536_000),
        "When an answer that nobody has fetched is given up; 0 never.",
        default=86_400.0,
    )
    retention_days: float = setting(
        "--retention-days",
        "RETENTION_DAYS",
        days(0, 36_500),
        "When messages and answers are deleted; 0 never.",
        default=0.0,
    )
    writer_queue_bytes: int = setting(
        "--writer-queue-bytes",
        "WRITER_QUEUE_BYTES",
        whole_number(1024, 2**40),
        "How much may wait for the database, or be unanswered, before new messages are refused.",
        default=16 * 1024 * 1024,
    )
    shutdown_grace_s: float = setting(
        "--shutdown-grace-s",
        "SHUTDOWN_GRACE_S",
        seconds(0, 3600),
        "How long running turns may go on when the server is told to stop.",
        default=10.0,
    )
    slow_handler_ms: int = setting(
        "--slow-handler-ms",
        "SLOW_HANDLER_MS",
        whole_number(0, 3_600_000),
        "An actor that holds the event loop for longer is logged; 0 logs none.",
        default=50,
    )
    auth_jwt_secret: str | None = setting(
        "--auth-jwt-secret",
        "AUTH_JWT_SECRET",
        check_secret,
        "Clients need a JSON Web Token signed with it (HS256); better given as a variable, as options can be seen.",
        is_secret=True,
    )
    auth_jwt_public_key_file: Path | None = setting(
        "--auth-jwt-public-key-file",
        "AUTH_JWT_PUBLIC_KEY_FILE",
        path,
        "Instead: a public key in PEM that tokens verify with (RS256, PS256, ES256, ES384, EdDSA).",
    )
    auth_jwt_audience: str | None = setting(
        "--auth-jwt-audience",
        "AUTH_JWT_AUDIENCE",
        some_text,
        "What a token's aud must be; without it, tokens must have none.",
    )
    auth_clock_skew_s: float = setting(
        "--auth-clock-skew-s",
        "AUTH_CLOCK_SKEW_S",
        seconds(0, 3600),
        "How far the clock of whoever makes the tokens may be off.",
        default=30.0,
    )
    allowed_origins: tuple[str, ...] = setting(
        "--allowed-origins",
        "ALLOWED_ORIGINS",
        origins,
        "Whose web pages may connect, besides this server's own: https://chat.example,...",
        default=(),
    )
    max_connections: int = setting(
        "--max-connections",
        "MAX_CONNECTIONS",
        whole_number(1, 1_000_000),
        "How many connections and event streams there may be.",
        default=16_000,
    )
    max_connections_per_user: int = setting(
        "--max-connections-per-user",
        "MAX_CONNECTIONS_PER_USER",
        whole_number(0, 1_000_000),
        "How many of them one user may have, with authentication; 0 for any number.",
        default=64,
    )
    metrics_token: str | None = setting(
        "--metrics-token",
        "METRICS_TOKEN",
        bearer_token,
        "What GET /metrics asks for as Bearer; with authentication there is no /metrics without it.",
        is_secret=True,
    )
    otlp_endpoint: str | None = setting(
        "--otel-exporter-otlp-endpoint",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        http_base_url,
        "Where traces go: an OpenTelemetry collector, over HTTP; v1/traces is added to it. Needs the extra `tracing`.",
        is_secret=True,
    )
    otlp_traces_endpoint: str | None = setting(
        "--otel-exporter-otlp-traces-endpoint",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        http_url,
        "Instead: the URL that traces are posted to, as it is.",
        is_secret=True,
    )
    otel_sdk_disabled: bool = setting(
        "--otel-sdk-disabled",
        "OTEL_SDK_DISABLED",
        true_or_false,
        "true: no traces, whatever else is set.",
        default=False,
    )
    log_level: str = setting(
        "--log-level",
        "LOG_LEVEL",
        one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        "The least that is logged.",
        default="INFO",
    )
    log_format: str = setting(
        "--log-format", "LOG_FORMAT", one_of("text", "json"), "Log lines for people or for machines.", default="text"
    )

    def find_traces_endpoint(self) -> str | None:
        """Return the URL that traces are posted to; None if there are to be none."""
        if self.otel_sdk_disabled:
            return None
        if self.otlp_traces_endpoint is not None:
            return self.otlp_traces_endpoint
        return None if self.otlp_endpoint is None else f"{self.otlp_endpoint.rstrip('/')}/v1/traces"


def load_settings(options: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Read and check all settings.

    Args:
        options: Values given on the command line by field name; None where none was given.
        environ: The environment; an empty variable counts as unset.

    Raises:
        ConfigError: for the first setting that cannot be used.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for declared in fields(Settings):
        option, variable = declared.metadata["option"], declared.metadata["variable"]
        text, source = options.get(declared.name), f"{option} ({variable})"
        if text is None:
            text = environ.get(variable) or None
            source = f"{variable} ({option})" if text is not None else source
        sources[declared.name] = source
        if text is None:
            continue
        try:
            values[declared.name] = declared.metadata["parse"](text)
        except ValueError as error:
            shown = "the value given" if declared.metadata["is_secret"] else repr(text)
            raise ConfigError(f"{source}: {error}, got {shown}") from error
    settings = Settings(**values)
    check_together(settings, sources)
    return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingInForce:
    """A setting as it is.

    Attributes:
        value: Its text; of a secret only whether there is one.
        source: `option`, `variable` or `default`.
    """

    name: str
    option: str
    variable: str
    value: str
    source: str


def describe_settings(
    settings: Settings, options: Mapping[str, str | None], environ: Mapping[str, str]
) -> list[SettingInForce]:
    """Return all settings and where each came from, secrets masked.

    Args:
        settings: What is in force.
        options: What `load_settings` made it of.
        environ: The same.
    """
    return [_describe(declared, getattr(settings, declared.name), options, environ) for declared in fields(Settings)]


def _describe(
    declared: Field[Any], value: object, options: Mapping[str, str | None], environ: Mapping[str, str]
) -> SettingInForce:
    option, variable = declared.metadata["option"], declared.metadata["variable"]
    source = "default"
    if options.get(declared.name) is not None:
        source = "option"
    elif environ.get(variable):
        source = "variable"
    shown = "" if value is None else ",".join(value) if isinstance(value, tuple) else str(value)
    if declared.metadata["is_secret"] and value is not None:
        shown = "(set)"
    return SettingInForce(name=declared.name, option=option, variable=variable, value=shown, source=source)


def check_together(settings: Settings, sources: Mapping[str, str]) -> None:
    """Refuse settings that do not go together.

    Args:
        settings: What is set.
        sources: Option and variable of each, where its value came from first.

    Raises:
        ConfigError: for the first of them.
    """
    has_secret, has_key = settings.auth_jwt_secret is not None, settings.auth_jwt_public_key_file is not None
    secret, key = sources["auth_jwt_secret"], sources["auth_jwt_public_key_file"]
    if has_secret and has_key:
        raise ConfigError(f"{secret} and {key}: expected one of the two, got both")
    if has_secret or has_key:
        return
    if settings.auth_jwt_audience is not None:
        raise ConfigError(f"{sources['auth_jwt_audience']}: needs {secret} or {key}")
    if not ipaddress.ip_address(settings.address).is_loopback:
        raise ConfigError(
            f"{sources['address']}: expected a loopback address: without authentication anyone who reaches the server "
            f"could read everything; set {secret} or {key}, or put a proxy that authenticates in front of 127.0.0.1, "
            f"got {settings.address!r}"
        )
