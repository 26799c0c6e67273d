"""The event loop that the server runs on: uvloop's where it is installed, else Python's own."""

import asyncio
import logging
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

log = logging.getLogger(__name__)


def make_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop; the extra `fast` installs uvloop, which has none for Windows."""
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
    return loop


def call_from_thread(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Call a function on the loop; nothing happens if the loop has ended meanwhile."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        log.debug("The loop has ended before an answer came", extra={"action": "answer_late"})
