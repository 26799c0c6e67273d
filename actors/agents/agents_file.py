"""The agents file: which agents there are, of which kinds, with which options.

::

    default = "eliza"

    [agents.eliza]
    kind = "eliza"

    [agents.helper]
    kind = "openai"
    base_url = "http://127.0.0.1:11434/v1"
    model = "llama3.2"

An agent's name, its id, is part of its sessions' keys. A kind's options are declared beside the kind: ElizaOptions,
OpenAIOptions and so on. Every error names the file, the line and the field.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from actors.agents.echo import EchoAgent, EchoOptions
from actors.agents.eliza import ElizaAgent, ElizaOptions
from actors.agents.metronome import MetronomeAgent, MetronomeOptions
from actors.agents.openai import OpenAIAgent, OpenAIOptions
from actors.agents.options import OptionsError, check_options
from actors.agents.protocol import Agent
from actors.agents.python import PythonOptions, build_python_agent
from actors.agents.registry import AgentRegistry
from actors.agents.toml_lines import find_error_line, find_line

AGENT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

# What there is without an agents file: a conversation, and two agents for trying out and measuring.
BUILT_IN_AGENTS = """\
default = "eliza"
[agents.eliza]
kind = "eliza"
[agents.echo]
kind = "echo"
[agents.metronome]
kind = "metronome"
"""


class AgentsFileError(Exception):
    """Raised when the agents file cannot be used; its text is for the operator, and holds no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a kind may need besides its options.

    Attributes:
        environ: The environment variables.
        folder: The agents file's folder; None without an agents file.
    """

    environ: Mapping[str, str]
    folder: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentKind:
    """A kind of agent.

    Attributes:
        options_type: Declares its options.
        build: Makes an agent from checked options; raises OptionsError.
    """

    options_type: type[msgspec.Struct]
    build: Callable[[Any, Surroundings], Agent]


KINDS: Mapping[str, AgentKind] = MappingProxyType(
    {
        "eliza": AgentKind(options_type=ElizaOptions, build=lambda options, _: ElizaAgent(options)),
        "echo": AgentKind(options_type=EchoOptions, build=lambda _options, _: EchoAgent()),
        "metronome": AgentKind(options_type=MetronomeOptions, build=lambda _options, _: MetronomeAgent()),
        "openai": AgentKind(
            options_type=OpenAIOptions, build=lambda options, around: OpenAIAgent(options, around.environ)
        ),
        "python": AgentKind(
            options_type=PythonOptions, build=lambda options, around: build_python_agent(options, around.folder)
        ),
    }
)


class AgentsFileOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The top level of an agents file.

    Attributes:
        default: The id of the agent that answers where none is named; needed from two agents on.
        agents: Each agent's table, by id.
    """

    default: str | None = None
    agents: dict[str, Any] = {}


def load_agents(path: Path | None, environ: Mapping[str, str]) -> AgentRegistry:
    """Read the agents file and build every agent in it.

    Args:
        path: The file; None for the built-in agents: eliza (the default), echo and metronome.
        environ: The environment variables, which may hold keys.

    Raises:
        AgentsFileError: If the file cannot be read, or anything in it is wrong.
    """
    if path is None:
        return parse_agents(BUILT_IN_AGENTS, "built-in agents", Surroundings(environ=environ, folder=None))
    return parse_agents(_read_text(path), str(path), Surroundings(environ=environ, folder=path.parent))


def parse_agents(text: str, name: str, surroundings: Surroundings) -> AgentRegistry:
    """Build every agent that an agents file's text names.

    Args:
        text: TOML.
        name: What errors call the file.
        surroundings: What the agents may need besides.

    Raises:
        AgentsFileError: If anything in it is wrong; everything is checked before the first agent is built.
    """
    document = _parse_toml(text, name)
    try:
        file = check_options(document, AgentsFileOptions)
        default_agent_id = _choose_default(file)
        checked = {agent_id: _check_agent(agent_id, table) for agent_id, table in file.agents.items()}
        agents = {
            agent_id: _build_agent(agent_id, kind, options, surroundings)
            for agent_id, (kind, options) in checked.items()
        }
    except _FieldError as error:
        raise _locate(error.path, error.problem, text, name) from error
    except OptionsError as error:
        raise _locate((error.field,), error.problem, text, name) from error
    return AgentRegistry(agents=MappingProxyType(agents), default_agent_id=default_agent_id)


class _FieldError(Exception):
    """Raised when a field is wrong; ``path`` leads to it from the document's top."""

    def __init__(self, path: tuple[str, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        words = f"{path}: cannot be read: {error.strerror}; it was named with --agents (CALLBOARD_AGENTS)"
        raise AgentsFileError(words) from error
    try:
        return content.decode("utf-8-sig")  # some editors begin UTF-8 with a mark, which TOML does not know
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AgentsFileError(f"{path}, line {line}: is not UTF-8") from error


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and integers of 5,000 digits
        line, problem = find_error_line(text, error)
        raise AgentsFileError(f"{name}, line {line}: {problem}") from error


def _choose_default(file: AgentsFileOptions) -> str:
    if not file.agents:
        raise _FieldError(("agents",), "there is no agent; expected a table such as [agents.eliza]")
    if file.default is None and len(file.agents) > 1:
        raise _FieldError(("default",), f"is missing; expected one of {', '.join(file.agents)}")
    default = next(iter(file.agents)) if file.default is None else file.default
    if default not in file.agents:
        raise _FieldError(("default",), f"expected one of {', '.join(file.agents)}, got {default!r}")
    return default


def _check_agent(agent_id: str, table: object) -> tuple[AgentKind, msgspec.Struct]:
    path = ("agents", agent_id)
    if not AGENT_ID.fullmatch(agent_id):
        raise _FieldError(path, "an agent's name is 1 to 128 letters, digits, '_' or '-'")
    if not isinstance(table, dict):
        raise _FieldError(path, f"expected a table such as [agents.{agent_id}]")
    if "kind" not in table:
        raise _FieldError((*path, "kind"), f"is missing; expected one of {', '.join(KINDS)}")
    kind = KINDS.get(table["kind"]) if isinstance(table["kind"], str) else None
    if kind is None:
        raise _FieldError((*path, "kind"), f"expected one of {', '.join(KINDS)}, got {table['kind']!r}")
    options = {name: value for name, value in table.items() if name != "kind"}
    try:
        return kind, check_options(options, kind.options_type)
    except OptionsError as error:
        raise _FieldError((*path, error.field), error.problem) from error


def _build_agent(agent_id: str, kind: AgentKind, options: msgspec.Struct, surroundings: Surroundings) -> Agent:
    try:
        return kind.build(options, surroundings)
    except OptionsError as error:
        raise _FieldError(("agents", agent_id, error.field), error.problem) from error


def _locate(path: tuple[str, ...], problem: str, text: str, name: str) -> AgentsFileError:
    field = ".".join(key if AGENT_ID.fullmatch(key) else repr(key) for key in path)
    return AgentsFileError(f"{name}, line {find_line(text, path)}: {field}: {problem}")
