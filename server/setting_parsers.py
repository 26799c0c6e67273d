"""Parsers of settings: text in, value out; a ValueError says what is expected. Pure."""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from storage.database import is_connection_uri

MIN_TOKEN_CHARS = 16
BEARER_TOKEN = re.compile(rf"(?=.{{{MIN_TOKEN_CHARS}}})[A-Za-z0-9._~+/-]+=*", re.ASCII)

MAX_DIGITS = 20
"""More than any setting has; Python refuses to read very long numbers in words of its own."""


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers in a range."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or len(text) > MAX_DIGITS or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(text)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of seconds in a range."""

    def parse(text: str) -> float:
        value = _read_number(text)
        if not low <= value <= high:
            raise ValueError(f"expected seconds from {low:g} to {high:g}")
        return value

    return parse


def days(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of days in a range."""

    def parse(text: str) -> float:
        value = _read_number(text)
        if not low <= value <= high:
            raise ValueError(f"expected days from {low:g} to {high:g}")
        return value

    return parse


def _read_number(text: str) -> float:
    """Return the number that a text is, or one that is in no range."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser of words, in any case."""

    def parse(text: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise ValueError(f"expected one of {', '.join(choices)}")

    return parse


def switch(text: str) -> bool:
    """Parse 1 or 0."""
    if text not in {"0", "1"}:
        raise ValueError("expected 1 or 0")
    return text == "1"


def true_or_false(text: str) -> bool:
    """Parse true or false, in any case, as OpenTelemetry's variables have it."""
    if text.lower() not in {"true", "false"}:
        raise ValueError("expected true or false")
    return text.lower() == "true"


def http_url(text: str) -> str:
    """Parse the URL of a service that is asked over HTTP."""
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        is_usable = is_usable and text.isascii() and text.isprintable() and not re.search(r"[\s#]", text)
    except ValueError:  # a port that is no number, an unclosed bracket
        is_usable = False
    if not is_usable:
        raise ValueError("expected a URL such as http://127.0.0.1:4318 or https://collector.example")
    return text


def http_base_url(text: str) -> str:
    """Parse the URL of a service, to which a path is added."""
    if "?" in text or "#" in text:
        raise ValueError("expected a URL without a query (?) or a fragment (#), as a path is added to it")
    return http_url(text)


def ip_address(text: str) -> str:
    """Parse an address to listen on."""
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("expected an IP address of this machine, such as 127.0.0.1 or ::1") from error


def some_text(text: str) -> str:
    """Take a text as it is."""
    return text


def bearer_token(text: str) -> str:
    """Parse a secret that comes as a header: `Authorization: Bearer ...` (RFC 6750)."""
    if not BEARER_TOKEN.fullmatch(text):
        raise ValueError(
            f"expected at least {MIN_TOKEN_CHARS} of the characters A-Z a-z 0-9 - . _ ~ + / and = at the end, "
            "as of `openssl rand -hex 32`"
        )
    return text


def origins(text: str) -> tuple[str, ...]:
    """Parse web pages' origins (RFC 6454), with commas between."""
    return tuple(_read_origin(origin.strip()) for origin in text.split(","))


def _read_origin(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_origin = parts.scheme in {"http", "https"} and text == f"{parts.scheme}://{parts.netloc}"
        is_usable = is_origin and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError("expected origins such as https://chat.example, with commas between, without paths")
    return text.lower()


def database_url(text: str) -> str:
    """Parse a PostgreSQL connection URI."""
    expected = "expected postgresql://user:password@host:port/database, with %-escapes for special characters"
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in {"postgresql", "postgres"} and parts.port != 0 and not parts.fragment
        url = "postgresql" + text[len(parts.scheme) :]
    except ValueError:  # a port that is no number: the password may hold a slash
        is_usable, url = False, ""
    if not is_usable or not is_connection_uri(url):
        raise ValueError(expected) from None
    return url


def path(text: str) -> Path:
    """Parse a path; `~` is the home directory."""
    if not text:
        raise ValueError("expected a path")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("expected a path; there is no such home directory") from error
