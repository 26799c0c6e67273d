import asyncio
import builtins
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from actors.agents.agents_file import KINDS, AgentsFileError, Surroundings, load_agents, parse_agents
from actors.agents.echo import EchoAgent
from actors.agents.eliza import ElizaAgent
from actors.agents.metronome import MetronomeAgent
from actors.agents.openai import OpenAIAgent
from actors.agents.protocol import Agent, Token, Turn
from actors.agents.registry import AgentRegistry

NO_ENVIRON: Mapping[str, str] = {}


def parse(text: str, environ: Mapping[str, str] = NO_ENVIRON) -> AgentRegistry:
    return parse_agents(text, "agents.toml", Surroundings(environ=environ, folder=None))


def refuse(text: str, environ: Mapping[str, str] = NO_ENVIRON) -> str:
    with pytest.raises(AgentsFileError) as refusal:
        parse(text, environ)
    return str(refusal.value)


def close(registry: AgentRegistry) -> None:
    asyncio.run(registry.aclose())


def test_without_a_file_there_are_the_built_in_agents() -> None:
    registry = load_agents(None, NO_ENVIRON)
    assert registry.ids == ("eliza", "echo", "metronome")
    assert registry.default_agent_id == "eliza"
    assert isinstance(registry.get("eliza"), ElizaAgent)
    assert isinstance(registry.get("echo"), EchoAgent)
    assert isinstance(registry.get("metronome"), MetronomeAgent)
    assert registry.get("nobody") is None


def test_file_names_agents_and_their_options() -> None:
    registry = parse(
        """
        default = "helper"
        [agents.eliza]
        kind = "eliza"
        word_delay_ms = 0
        [agents.helper]
        kind = "openai"
        base_url = "http://127.0.0.1:11434/v1"
        model = "llama3.2"
        temperature = 1
        """
    )
    assert registry.ids == ("eliza", "helper")
    assert registry.default_agent_id == "helper"
    assert isinstance(registry.get("helper"), OpenAIAgent)
    close(registry)


def test_single_agent_needs_no_default() -> None:
    assert parse('[agents.a]\nkind = "echo"').default_agent_id == "a"


def test_agents_cannot_be_added_afterwards() -> None:
    registry = parse('[agents.a]\nkind = "echo"')
    with pytest.raises(TypeError):
        registry.agents["b"] = EchoAgent()  # type: ignore[index]


@pytest.mark.parametrize("agent_id", ["a", "A-b_9", "x" * 128])
def test_agent_id_may_be_what_a_session_key_takes(agent_id: str) -> None:
    assert parse(f'[agents.{agent_id}]\nkind = "echo"').ids == (agent_id,)


@pytest.mark.parametrize("agent_id", ["", "a b", "a:b", "é", "a\\n", "x" * 129])
def test_any_other_agent_id_is_refused(agent_id: str) -> None:
    text = f'default = "{agent_id}"\n[agents."{agent_id}"]\nkind = "echo"'
    assert refuse(text).startswith("agents.toml, line 2: agents.'")


HELPER = '[agents.helper]\nkind = "openai"\nbase_url = "http://127.0.0.1:1/v1"\nmodel = "m"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: agents: there is no agent"),
        ("agents = 3", "line 1: agents: expected a table, got 3"),
        ("[agents]", "line 1: agents: there is no agent"),
        ("agents.x = 3", "line 1: agents.x: expected a table such as [agents.x]"),
        ("\nagnets = 3", "line 2: agnets: unknown option; there are: default, agents"),
        ("\n[agents.a]\n", "line 2: agents.a.kind: is missing; expected one of eliza, echo, metronome, openai, python"),
        ('[agents.a]\nkind = "elisa"', "line 2: agents.a.kind: expected one of eliza, echo, metronome, openai, python"),
        ("[agents.a]\nkind = [1]", "line 2: agents.a.kind: expected one of eliza"),
        ('[agents.a]\nkind = "echo"\nwords = 1', "line 3: agents.a.words: unknown option; there are: none"),
        ('[agents.a]\nkind = "openai"', "line 1: agents.a.model: is missing; expected a text that is not empty"),
        ('default = "b"\n[agents.a]\nkind = "echo"', "line 1: default: expected one of a, got 'b'"),
        ('default = 1\n[agents.a]\nkind = "echo"', "line 1: default: expected a text, got 1"),
        ('[agents.a]\nkind = "echo"\n[agents.b]\nkind = "echo"', "line 1: default: is missing; expected one of a, b"),
        ('[agents.a]\nkind = "echo"\n[agents.a]\nkind = "echo"', "line 3: Cannot declare ('agents', 'a') twice"),
        ("[agents.a\n", "line 1: Expected ']' at the end of a table declaration"),
        (HELPER + "temperature = 'hot'", "line 5: agents.helper.temperature: expected a number from 0 to 2, got 'hot'"),
        (HELPER + "temperature = 2.1", "line 5: agents.helper.temperature: expected a number from 0 to 2, got 2.1"),
        (HELPER + "temperature = nan", "line 5: agents.helper.temperature: expected a number from 0 to 2, got nan"),
        (HELPER + "temperature = true", "line 5: agents.helper.temperature: expected a number from 0 to 2, got True"),
        (HELPER + "timeout_s = 0", "line 5: agents.helper.timeout_s: expected a number above 0 to 3600, got 0"),
        (HELPER + "history_turns = 1.0", "line 5: agents.helper.history_turns: expected a whole number from 0 to 1000"),
        (HELPER + "system_prompt = 2024-01-01", "line 5: agents.helper.system_prompt: expected a text, got"),
        (
            '[agents.a]\nkind = "eliza"\nword_delay_ms = -1',
            "line 3: agents.a.word_delay_ms: expected a whole number from 0",
        ),
    ],
)
def test_error_names_file_line_and_field(text: str, message: str) -> None:
    assert refuse(text).startswith(f"agents.toml, {message}")


def test_long_value_is_shown_in_short() -> None:
    assert len(refuse(HELPER + f"temperature = '{'x' * 5000}'")) < 200


def test_key_in_the_file_itself_is_refused_but_not_shown() -> None:
    message = refuse(HELPER + "api_key = 'sk-secret'")
    assert "agents.helper.api_key: unknown option" in message
    assert "sk-secret" not in message


@pytest.mark.parametrize(
    "base_url",
    [
        "llama",
        "ftp://host/v1",
        "http://",
        "http:///v1",
        "http://host:port/v1",
        "http://[::1/v1",
        "http://a b/",
        "http://é/",
    ],
)
def test_base_url_must_be_a_url(base_url: str) -> None:
    text = f'[agents.a]\nkind = "openai"\nmodel = "m"\nbase_url = "{base_url}"'
    assert refuse(text).startswith("agents.toml, line 4: agents.a.base_url: expected a URL such as")


def test_base_url_must_not_hold_a_password() -> None:
    message = refuse('[agents.a]\nkind = "openai"\nmodel = "m"\nbase_url = "http://ann:sk-secret@host/v1"')
    assert message.startswith("agents.toml, line 4: agents.a.base_url: must hold no user or password")
    assert "sk-secret" not in message


AT_OPENAI = '[agents.a]\nkind = "openai"\nmodel = "m"\n'


def test_openai_itself_needs_a_key() -> None:
    message = "agents.toml, line 1: agents.a.api_key_env: the environment variable OPENAI_API_KEY is not set"
    assert refuse(AT_OPENAI) == message
    assert refuse(AT_OPENAI, {"OPENAI_API_KEY": " "}) == message
    close(parse(AT_OPENAI, {"OPENAI_API_KEY": "sk-1"}))


def test_key_may_stand_in_another_variable() -> None:
    text = AT_OPENAI + 'api_key_env = "MY_KEY"'
    assert "line 4: agents.a.api_key_env: the environment variable MY_KEY is not set" in refuse(
        text, {"OPENAI_API_KEY": "sk-1"}
    )
    close(parse(text, {"MY_KEY": "sk-1"}))


@pytest.mark.parametrize("key", ["sk-\u200bsecret", "sk-secret\nX-Header: 1"])
def test_malformed_key_is_refused_but_not_shown(key: str) -> None:
    message = refuse(AT_OPENAI, {"OPENAI_API_KEY": key})
    assert message.endswith("agents.a.api_key_env: the environment variable OPENAI_API_KEY holds no API key")


def test_other_endpoints_need_no_key() -> None:
    close(parse(HELPER))


def test_missing_sdk_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def import_all_but_openai(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name == "openai":
            raise ModuleNotFoundError("No module named 'openai'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_all_but_openai)
    message = refuse(HELPER)
    words = "needs the openai SDK: pip install -e '.[openai]' in Callboard's folder"
    assert message == f"agents.toml, line 2: agents.helper.kind: {words}"


def test_every_kind_is_checked_before_the_first_agent_is_built() -> None:
    text = (
        'default = "a"\n[agents.a]\nkind = "python"\nfactory = "no_such_module:Agent"\n'
        '[agents.b]\nkind = "echo"\nwords = 1\n'
    )
    assert "agents.b.words" in refuse(text)


def test_every_option_has_a_description_in_words() -> None:
    for kind in KINDS.values():
        for name in kind.options_type.__struct_fields__:
            with pytest.raises(AgentsFileError) as refusal:
                parse(f'[agents.a]\nkind = "{next(k for k in KINDS if KINDS[k] is kind)}"\n{name} = [1]\nmodel = "m"')
            assert "another type" not in str(refusal.value)


# Reading the file, and an agent of one's own beside it.

MY_AGENT = """
from actors.agents.protocol import Token

class Agent:
    def __init__(self, greeting="Hello"):
        self.greeting = greeting

    async def stream_chat(self, turn):
        yield Token(text=self.greeting)

class Silent:
    pass

class Hasty:
    async def stream_chat(self, turn):
        return Token(text="x")

def make_nothing():
    return None

def make_class():
    return Agent

async def make_later():
    return Agent()

def fail():
    raise RuntimeError("no database")

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in [name for name in sys.modules if name.startswith("my_agent")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "my_agent.py").write_text(MY_AGENT)
    return tmp_path


def load(folder: Path, content: str | bytes) -> AgentRegistry:
    path = folder / "agents.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        return load_agents(path, NO_ENVIRON)
    finally:
        sys.modules.pop("my_agent", None)


def load_error(folder: Path, content: str | bytes) -> str:
    with pytest.raises(AgentsFileError) as refusal:
        load(folder, content)
    return str(refusal.value).replace(str(folder), "")


async def first_token(agent: Agent | None) -> str:
    assert agent is not None
    turn = Turn(
        user_id="ann",
        agent_id="own",
        thread_id="main",
        text="hi",
        request_id=None,
        attempt=1,
        checkpoint=None,
        deadline_s=asyncio.get_running_loop().time() + 60,
        cancelled=asyncio.Event(),
    )
    tokens = [item async for item in agent.stream_chat(turn)]
    assert isinstance(tokens[0], Token)
    return tokens[0].text


def test_own_agent_is_imported_from_the_files_folder(folder: Path) -> None:
    registry = load(folder, '[agents.own]\nkind = "python"\nfactory = "my_agent:Agent"')
    assert asyncio.run(first_token(registry.get("own"))) == "Hello"


def test_own_agent_gets_its_options_as_keywords(folder: Path) -> None:
    registry = load(
        folder, '[agents.own]\nkind = "python"\nfactory = "my_agent:Agent"\noptions = {greeting = "Servus"}'
    )
    assert asyncio.run(first_token(registry.get("own"))) == "Servus"


@pytest.mark.parametrize(
    ("factory", "problem"),
    [
        ("my_agent", "expected 'module:callable', got 'my_agent'"),
        (":Agent", "expected 'module:callable', got ':Agent'"),
        (".my_agent:Agent", "expected 'module:callable', got '.my_agent:Agent'"),
        ("my_agentt:Agent", "cannot import my_agentt: ModuleNotFoundError: No module named 'my_agentt'"),
        ("my_agent:Nobody", "module my_agent (/my_agent.py) has no Nobody"),
        ("my_agent:number", "my_agent:number is a int, which cannot be called"),
        ("my_agent:Silent", "my_agent:Silent returned a Silent, which has no method stream_chat"),
        ("my_agent:Hasty", "my_agent:Hasty returned a Hasty, whose stream_chat is no asynchronous generator"),
        ("my_agent:make_nothing", "my_agent:make_nothing returned None, which has no method stream_chat"),
        (
            "my_agent:make_class",
            "my_agent:make_class returned a type, which is a class; expected an agent made from it",
        ),
        ("my_agent:make_later", "my_agent:make_later is an async function; a factory returns the agent at once"),
        ("my_agent:fail", "my_agent:fail failed: RuntimeError: no database"),
    ],
)
def test_factory_that_gives_no_agent_is_refused(folder: Path, factory: str, problem: str) -> None:
    message = load_error(folder, f'[agents.own]\nkind = "python"\nfactory = "{factory}"')
    assert message.startswith(f"/agents.toml, line 3: agents.own.factory: {problem}")


def test_options_that_the_factory_does_not_take_are_refused(folder: Path) -> None:
    message = load_error(folder, '[agents.own]\nkind = "python"\nfactory = "my_agent:Agent"\noptions = {loud = 1}')
    assert "agents.own.factory: my_agent:Agent failed: TypeError:" in message
    assert "'loud'" in message


def test_module_that_does_not_compile_is_refused(folder: Path) -> None:
    (folder / "my_agent.py").write_text("def broken(:\n")
    message = load_error(folder, '[agents.own]\nkind = "python"\nfactory = "my_agent:Agent"')
    assert "agents.own.factory: cannot import my_agent: SyntaxError:" in message


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(AgentsFileError) as refusal:
        load_agents(path, NO_ENVIRON)
    assert (
        str(refusal.value)
        == f"{path}: cannot be read: No such file or directory; it was named with --agents (CALLBOARD_AGENTS)"
    )


def test_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AgentsFileError, match="cannot be read: Is a directory"):
        load_agents(tmp_path, NO_ENVIRON)


def test_file_that_is_not_utf8_is_refused_with_its_line(folder: Path) -> None:
    assert load_error(folder, b'# one\n# \xff\n[agents.a]\nkind = "echo"') == "/agents.toml, line 2: is not UTF-8"


def test_byte_order_mark_is_no_error(folder: Path) -> None:
    assert load(folder, b'\xef\xbb\xbf[agents.a]\r\nkind = "echo"\r\n').ids == ("a",)


class Lamp:
    """An agent that can be closed, and may fail to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.is_closed = False
        self._failure = failure

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token]:
        yield Token(text="light")

    async def aclose(self) -> None:
        if self._failure is not None:
            raise self._failure
        self.is_closed = True


def test_agent_that_fails_to_close_keeps_no_other_open(
    caplog: pytest.LogCaptureFixture, error_logs: list[logging.LogRecord]
) -> None:
    lamp = Lamp()
    agents: Mapping[str, Agent] = {"broken": Lamp(OSError("stuck")), "plain": EchoAgent(), "lamp": lamp}
    close(AgentRegistry(agents=agents, default_agent_id="plain"))
    assert lamp.is_closed
    said = [record.getMessage() for record in caplog.records]
    assert [words.splitlines()[0] for words in said] == ["Agent broken failed to close: OSError at"]
    assert "stuck" not in caplog.text
    caplog.clear()
