"""Credentials, as a caller gives them: a token, or what makes one."""

import inspect
from collections.abc import Awaitable, Callable

from callboard.errors import CallboardUnreachable

TokenSource = str | Callable[[], str | Awaitable[str]]
"""A token, or what is called for a fresh one whenever one is needed; it may be a coroutine function."""


async def find_token(source: TokenSource | None) -> str | None:
    """Return the token to use now; None if there is none to be used.

    Raises:
        CallboardUnreachable: If there should be one and is none for now; a later attempt asks again.
    """
    if source is None or isinstance(source, str):
        return source
    try:
        made = source()
        return await made if inspect.isawaitable(made) else made
    except Exception as error:
        raise CallboardUnreachable(f"token: could not be had: {str(error) or type(error).__name__}") from error
