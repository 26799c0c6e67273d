"""``callboard token``: tokens for a server that wants some, for trials and load tests. Products make their own."""

import re
import time
from collections.abc import Callable

import click
import jwt

from server.auth import check_secret

USER_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
DEFAULT_LIFETIME_S = 3600


class TokenMint:
    """Makes tokens (HS256).

    Args:
        secret: The server's.
        audience: What the server wants as `aud`; None for none.
        lifetime_s: How long they are good for.
    """

    def __init__(self, secret: str, audience: str | None = None, lifetime_s: float = DEFAULT_LIFETIME_S) -> None:
        self._secret = secret
        self._audience = audience
        self._lifetime_s = lifetime_s

    def make(self, user_id: str) -> str:
        """Return a token of a user's."""
        claims: dict[str, object] = {"sub": user_id, "exp": round(time.time() + self._lifetime_s)}
        if self._audience is not None:
            claims["aud"] = self._audience
        return jwt.encode(claims, self._secret, algorithm="HS256")


def check_secret_option(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Refuse what can be no secret; what is shown does not have it."""
    try:
        return None if text is None else check_secret(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def check_user(_context: click.Context, _parameter: click.Parameter, user_id: str) -> str:
    """Refuse what can be no user's id."""
    if not USER_ID.fullmatch(user_id):
        raise click.BadParameter("use 1 to 128 of the characters A-Z a-z 0-9 _ -")
    return user_id


def secret_option(*, required: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option for a server's secret."""
    return click.option(
        "--auth-jwt-secret",
        envvar="AUTH_JWT_SECRET",
        show_envvar=True,
        required=required,
        callback=check_secret_option,
        help="The server's secret; better given as a variable, as options can be seen.",
    )


def audience_option() -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option for a server's audience."""
    return click.option(
        "--auth-jwt-audience",
        envvar="AUTH_JWT_AUDIENCE",
        show_envvar=True,
        help="The server's audience, if it has one.",
    )


@click.command(short_help="Print a token for a user, as for a trial.")
@click.argument("user", callback=check_user)
@secret_option(required=True)
@audience_option()
@click.option(
    "--lifetime-s",
    type=click.IntRange(1, 31_536_000),
    default=DEFAULT_LIFETIME_S,
    show_default=True,
    help="How long it is good for.",
)
def token(user: str, auth_jwt_secret: str, auth_jwt_audience: str | None, lifetime_s: int) -> None:
    """Print a token for USER, signed with the server's secret.

    A product makes its own, with any library for JSON Web Tokens: `sub` is the user's id, `exp` is required.
    """
    click.echo(TokenMint(auth_jwt_secret, auth_jwt_audience, lifetime_s).make(user))
