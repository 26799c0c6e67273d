"""Arguments and options that several commands have: keys, times, durations, JSON."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, TypedDict, TypeVar

import click

from storage.records import SessionKey

Function = TypeVar("Function", bound=Callable[..., Any])

KEY_PART: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)", re.ASCII)
MAX_S: Final = 3650 * 86400.0

SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class KeyType(click.ParamType):  # type: ignore[type-arg]
    """A session's key."""

    name = "userId:agentId:threadId"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it if it can be one."""
        parts = value.split(":")
        if len(parts) != 3 or not all(KEY_PART.fullmatch(part) for part in parts):
            self.fail(
                f"{value!r} is no key: expected userId:agentId:threadId, each of A-Z, a-z, 0-9, _ and -, "
                "as `callboard admin sessions list` shows them",
                param,
                ctx,
            )
        return str(SessionKey.parse(value))


class DurationType(click.ParamType):  # type: ignore[type-arg]
    """A length of time: `500ms`, `30s`, `15m`, `2h`, `7d`. In seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it in seconds."""
        if isinstance(value, int | float):
            return float(value)
        match = DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no duration: expected one such as 500ms, 30s, 15m, 2h or 7d", param, ctx)
        seconds = float(match[1]) * SECONDS[match[2]]
        if seconds > MAX_S:
            self.fail(f"{value!r} is too long: expected at most 3650d", param, ctx)
        return seconds


class SinceType(click.ParamType):  # type: ignore[type-arg]
    """A time: `2026-11-28T09:00`, with or without a zone (UTC then), or how long ago, as `15m`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return it, aware."""
        if isinstance(value, datetime):
            return value
        if DURATION.fullmatch(value) is not None:
            return datetime.now(UTC) - timedelta(seconds=DURATION_S.convert(value, param, ctx))
        try:
            found = datetime.fromisoformat(value)
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time: expected one such as 2026-11-28T09:00 (UTC) or 2026-11-28T09:00+01:00, "
                "or how long ago, such as 15m, 2h or 7d",
                param,
                ctx,
            )
        if found > datetime.now(UTC):
            self.fail(
                f"{value!r} is yet to come: expected a time that has passed, in UTC if without a zone", param, ctx
            )
        return found


KEY: Final = KeyType()
DURATION_S: Final = DurationType()
SINCE: Final = SinceType()


class LogPart(TypedDict):
    """Which part of one of a session's tables is wanted; `log_options` reads it, `InspectionStore.list_...` takes it.

    Attributes:
        after: What has a higher number.
        since: What is not older; None for any age.
        limit: How many at most.
    """

    after: int
    since: datetime | None
    limit: int


def key_argument(function: Function) -> Function:
    """Add the argument KEY."""
    return click.argument("session_key", metavar="KEY", type=KEY)(function)


def log_options(function: Function) -> Function:
    """Add the argument KEY, and `--after`, `--since` and `--limit`: a `LogPart`."""
    for add in reversed((key_argument, after_option, since_option, limit_option(100))):
        function = add(function)
    return function


def after_option(function: Function) -> Function:
    """Add `--after`."""
    return click.option("--after", default=0, type=click.IntRange(0, 2**63 - 1), help="Those above this number.")(
        function
    )


def since_option(function: Function) -> Function:
    """Add `--since`."""
    return click.option("--since", type=SINCE, help="Not older: a time, or how long ago (15m, 2h, 7d).")(function)


def limit_option(default: int) -> Callable[[Function], Function]:
    """Return a decorator that adds `--limit`."""
    return click.option(
        "--limit", default=default, show_default=True, type=click.IntRange(1, 100_000), help="How many at most."
    )


def member_option(name: str, members: type[Enum], help_: str) -> Callable[[Function], Function]:
    """Return a decorator that adds an option whose value is a member of a str Enum, or None."""
    return click.option(
        name,
        type=click.Choice([member.value for member in members]),
        callback=lambda _context, _option, value: None if value is None else members(value),
        help=help_,
    )


def text_option(authors: str) -> Callable[[Function], Function]:
    """Return a decorator that adds `--text`, without which nothing is shown of what `authors` wrote."""
    return click.option("--text", "with_text", is_flag=True, help=f"Also what {authors} wrote.")


def user_option(function: Function) -> Function:
    """Add `--user`, for those of all users if it is not given."""
    return click.option("--user", help="Of this user.")(function)


def agent_option(function: Function) -> Function:
    """Add `--agent`, for those with all agents if it is not given."""
    return click.option("--agent", help="With this agent.")(function)


def dry_run_option(help_: str) -> Callable[[Function], Function]:
    """Return a decorator that adds `--dry-run`."""
    return click.option("--dry-run", is_flag=True, help=help_)


def yes_option(function: Function) -> Function:
    """Add `--yes`."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(function)


def action_options(function: Function) -> Function:
    """Add `--dry-run` and `--yes`."""
    return dry_run_option("Count, and change nothing.")(yes_option(function))
