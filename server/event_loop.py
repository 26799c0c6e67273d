"""The event loop that the server runs on: uvloop's where it is installed, else Python's own."""

import asyncio
from importlib import import_module
from importlib.util import find_spec


def make_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop; the extra `fast` installs uvloop, which has none for Windows."""
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
    return loop
