"""The agent kind "python": an agent of one's own, from a module that is installed or lies beside the agents file.

In the agents file::

    [agents.helper]
    kind = "python"
    factory = "my_agent:Agent"
    options = {greeting = "Hello"}

Callboard then imports ``my_agent`` and calls ``Agent(greeting="Hello")``.
"""

import importlib
import inspect
import operator
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from actors.agents.options import OptionsError
from actors.agents.protocol import Agent


class PythonOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of an agent of one's own.

    Attributes:
        factory: ``module:callable``; the callable returns the agent, a class is the usual one.
        options: What the callable is called with, as keyword arguments.
    """

    factory: Annotated[str, Meta(min_length=1)]
    options: dict[str, Any] = {}


def build_python_agent(options: PythonOptions, folder: Path | None = None) -> Agent:
    """Import the factory and call it.

    Args:
        options: Which, and with what.
        folder: The agents file's own, made importable; None for no more than what is installed.

    Raises:
        OptionsError: If the module cannot be imported, the factory fails, or what it returns is no agent.
    """
    if folder is not None:
        _make_importable(folder)
    factory = _import_factory(options.factory)
    try:
        agent = factory(**options.options)
    except Exception as error:
        raise OptionsError("factory", f"{options.factory} failed: {_describe_error(error)}") from error
    if flaw := _find_flaw(agent):
        raise OptionsError("factory", f"{options.factory} returned {_describe_object(agent)}, {flaw}")
    return agent  # type: ignore[no-any-return]


def _make_importable(folder: Path) -> None:
    # Last, so that a file there cannot take the place of an installed module that others import.
    if (entry := str(folder.resolve())) not in sys.path:
        sys.path.append(entry)
    importlib.invalidate_caches()


def _import_factory(name: str) -> Any:
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute) or module_name.startswith("."):
        raise OptionsError("factory", f"expected 'module:callable', got {name!r}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise OptionsError("factory", f"cannot import {module_name}: {_describe_error(error)}") from error
    try:
        factory = operator.attrgetter(attribute)(module)
    except AttributeError as error:
        where = getattr(module, "__file__", None) or "built in"
        raise OptionsError("factory", f"module {module_name} ({where}) has no {attribute}") from error
    if not callable(factory):
        raise OptionsError("factory", f"{name} is {_describe_object(factory)}, which cannot be called")
    if inspect.iscoroutinefunction(factory):
        raise OptionsError("factory", f"{name} is an async function; a factory returns the agent at once")
    return factory


def _find_flaw(agent: object) -> str | None:
    """Say why ``agent`` is no agent; None if it is one, as far as one can see without a turn."""
    stream_chat = getattr(agent, "stream_chat", None)
    if inspect.isclass(agent):
        return "which is a class; expected an agent made from it"
    if not callable(stream_chat):
        return "which has no method stream_chat"
    if inspect.iscoroutinefunction(stream_chat) or inspect.isgeneratorfunction(stream_chat):
        return "whose stream_chat is no asynchronous generator (async def with yield)"
    return None


def _describe_object(thing: object) -> str:
    return "None" if thing is None else f"a {type(thing).__name__}"


def _describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
