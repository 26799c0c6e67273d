"""Who may come in, and how many at once."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final

from tornado.web import RequestHandler

from server.auth import (
    AccessDenied,
    Credentials,
    JwtAuthenticator,
    read_authorization,
    read_public_key,
    read_subprotocols,
)
from server.config import ConfigError, Settings

MAX_TIMER_S: Final = 86_400.0
"""A timer of an event loop is set no further ahead; one that rings early is set again."""


class Visit:
    """A connection, or a request that takes its time: counted from `Gate.admit` to `end`.

    Attributes:
        user_id: Whose it is.
    """

    def __init__(self, gate: "Gate", user_id: str) -> None:
        self.user_id = user_id
        self._gate = gate
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    def expire_at(self, expires_at_s: float | None, on_expired: Callable[[], None]) -> None:
        """Call `on_expired` when the credentials end, unless the visit has ended before; never for None."""
        if expires_at_s is None or self._is_over:
            return
        rest_s = expires_at_s - time.time()
        if rest_s <= 0:
            on_expired()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(rest_s, MAX_TIMER_S), self.expire_at, expires_at_s, on_expired)

    def end(self) -> None:
        """Leave; again does nothing."""
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._gate.release(self.user_id)


class Gate:
    """Lets clients in.

    Args:
        authenticator: Tells who they are; None if everybody is who they say.
        origins: Whose web pages may come, besides those that this server's own address is the origin of.
        max_visits: Connections of all users together.
        max_visits_per_user: Of each one; None for as many.

    Attributes:
        max_visits: As given.
    """

    def __init__(
        self,
        authenticator: JwtAuthenticator | None,
        *,
        origins: Collection[str] = (),
        max_visits: int,
        max_visits_per_user: int | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._origins = frozenset(origins)
        self.max_visits = max_visits
        self._max_visits_per_user = max_visits_per_user
        self._visits: Counter[str] = Counter()
        self._count = 0

    @property
    def is_open(self) -> bool:
        """True if everybody is who they say they are."""
        return self._authenticator is None

    def authenticate(self, authorization: str | None, offered: Sequence[str] = ()) -> Credentials:
        """Return who somebody is; what everybody may be is not asked for, and so not looked at.

        Args:
            authorization: The header of that name.
            offered: Subprotocols, one of which may be a token.

        Raises:
            AccessDenied: `unauthenticated`.
        """
        if self._authenticator is None:
            return Credentials()
        token = read_authorization(authorization)
        return self._authenticator.authenticate(token if token is not None else read_subprotocols(offered))

    @property
    def has_origins(self) -> bool:
        """True if pages of other origins may come at all."""
        return bool(self._origins)

    def allows_origin(self, origin: str) -> bool:
        """Tell whether pages of another origin may come."""
        return origin in self._origins

    def admit(self, user_id: str) -> Visit:
        """Let somebody in.

        Raises:
            AccessDenied: `overloaded` or `rate_limited`, if there are too many.
        """
        if self._count >= self.max_visits:
            raise AccessDenied(
                "overloaded", f"the server has {self.max_visits} connections, and takes no more; try again"
            )
        if self._max_visits_per_user is not None and self._visits[user_id] >= self._max_visits_per_user:
            words = f"{user_id} has {self._max_visits_per_user} connections, and may have no more; close one"
            raise AccessDenied("rate_limited", words)
        self._count += 1
        self._visits[user_id] += 1
        return Visit(self, user_id)

    def release(self, user_id: str) -> None:
        """Somebody has left; see `Visit.end`."""
        self._count -= 1
        self._visits[user_id] -= 1
        if not self._visits[user_id]:
            del self._visits[user_id]


def make_gate(settings: Settings, *, max_visits: int) -> Gate:
    """Return the gate that the settings describe.

    Args:
        settings: The configuration.
        max_visits: `settings.max_connections`, or as many of them as there can be.

    Raises:
        ConfigError: If the key cannot be used.
    """
    authenticator = make_authenticator(settings)
    per_user = None if authenticator is None else settings.max_connections_per_user
    return Gate(
        authenticator,
        origins=settings.allowed_origins,
        max_visits=max_visits,
        max_visits_per_user=per_user or None,
    )


def make_authenticator(settings: Settings) -> JwtAuthenticator | None:
    """Return what tells who clients are; None if nothing does.

    Raises:
        ConfigError: If the key cannot be used.
    """
    audience, skew_s = settings.auth_jwt_audience, settings.auth_clock_skew_s
    if settings.auth_jwt_secret is not None:
        return JwtAuthenticator(settings.auth_jwt_secret, ["HS256"], audience=audience, skew_s=skew_s)
    file = settings.auth_jwt_public_key_file
    if file is None:
        return None
    name = "--auth-jwt-public-key-file (AUTH_JWT_PUBLIC_KEY_FILE)"
    try:
        key, algorithms = read_public_key(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{name}: {error}, got {file}") from error
    return JwtAuthenticator(key, algorithms, audience=audience, skew_s=skew_s)


def find_gate(handler: RequestHandler) -> Gate:
    """Return the gate of the application that a handler is part of."""
    gate = handler.settings["gate"]
    assert isinstance(gate, Gate)
    return gate
