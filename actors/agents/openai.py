"""The agent kind "openai": any model behind an OpenAI-compatible endpoint, through the openai SDK.

The SDK is an extra (``pip install -e '.[openai]'``) and is imported only where such an agent is configured.
"""

import logging
import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from actors.agents.memory import recall
from actors.agents.options import OptionsError
from actors.agents.pacing import Pacer
from actors.agents.protocol import AgentError, Final, Token, TokenUsage, Turn

log = logging.getLogger(__name__)

_OPENAI_HOST = "api.openai.com"
_OPENAI_KEY_ENV = "OPENAI_API_KEY"
_NO_KEY = "none"  # the SDK insists on a key; servers without keys ignore it

# What a token may not hold (protocol.Token), but JSON from a server may.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

Text = Annotated[str, Meta(min_length=1)]


class OpenAIOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of an OpenAI-compatible agent.

    Attributes:
        model: The model's name at the endpoint.
        base_url: The endpoint, such as "http://127.0.0.1:11434/v1".
        api_key_env: The environment variable that holds the key; it must be set. None is OPENAI_API_KEY at
            api.openai.com, and no key elsewhere: a key is sent to no other host unless the file names it.
        system_prompt: Goes before the conversation; None for none.
        temperature: None leaves it to the endpoint.
        max_tokens: The longest answer, in the model's tokens; None leaves it to the endpoint.
        history_turns: How many finished turns the model is shown again; 0 for a model without memory.
        history_bytes: The size, in UTF-8, past which older turns are left out although history_turns allows them.
        timeout_s: How long the endpoint may keep silent: to connect, to begin, and between two pieces of an answer.
            The turn's own deadline holds besides.
    """

    model: Text
    base_url: Text = f"https://{_OPENAI_HOST}/v1"
    api_key_env: Text | None = None
    system_prompt: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    history_turns: Annotated[int, Meta(ge=0, le=1000)] = 20
    history_bytes: Annotated[int, Meta(ge=0, le=4_194_304)] = 131_072
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a conversation, in the endpoint's own form."""

    role: Literal["user", "assistant"]
    content: str


class OpenAIMemory(msgspec.Struct, frozen=True, kw_only=True):
    """An OpenAI agent's checkpoint.

    Attributes:
        messages: The newest turns, two messages each, oldest first; without the system prompt.
    """

    messages: tuple[ChatMessage, ...] = ()


class OpenAIAgent:
    """Streams a model's answers.

    The SDK's own retries are off: Callboard makes up to three attempts at a turn, and says so to the client.
    """

    def __init__(self, options: OpenAIOptions, environ: Mapping[str, str]) -> None:
        """Check the options that a type cannot, and set up the client; nothing is sent yet.

        Raises:
            OptionsError: If the SDK is not installed, the URL is none, or the key is missing or malformed.
        """
        is_openai = f".{_check_base_url(options.base_url)}".endswith(f".{_OPENAI_HOST}")
        variable = options.api_key_env or (_OPENAI_KEY_ENV if is_openai else None)
        api_key = _find_api_key(variable, environ) if variable is not None else _NO_KEY
        self._options = options
        # OpenAI's newer models refuse "max_tokens"; other servers know no other name.
        self._max_tokens_name = "max_completion_tokens" if is_openai else "max_tokens"
        self._asks_for_usage = True
        self._sdk = _import_sdk()
        self._client = self._sdk.AsyncOpenAI(
            api_key=api_key, base_url=options.base_url, timeout=options.timeout_s, max_retries=0
        )
        # The SDK imports this part when it is first named: now, not in the middle of a turn.
        self._completions = self._client.chat.completions

    async def aclose(self) -> None:
        """Close the connections that are kept for the next turn."""
        await self._client.close()

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        """Answer one turn. Ended from outside, it closes the HTTP stream, which ends the work at the endpoint.

        Raises:
            AgentError: If the endpoint refuses, fails, keeps silent, or breaks off before the answer's end.
        """
        history = recall(turn.checkpoint, OpenAIMemory).messages
        question = ChatMessage("user", turn.text)
        answer = _Answer()
        pacer = Pacer()
        try:
            async with await self._request_answer([*history, question], turn) as stream:
                async for chunk in stream:
                    # One read may hold hundreds of chunks, and the SDK takes 0.1 ms for each without giving way.
                    await pacer.wait_until(0)
                    if text := answer.take(chunk):
                        yield Token(text=text)
        except Exception as error:  # a foreign server can break the SDK in ways that the SDK does not name
            if not answer.is_finished:  # after its end only the usage can be lost
                raise self._explain_failure(error, turn, began=bool(answer.texts)) from error
        answer.check_finished()
        messages = self._keep_newest([*history, question, ChatMessage("assistant", "".join(answer.texts))])
        yield Final(checkpoint={"messages": msgspec.to_builtins(messages)}, usage=answer.usage)

    async def _request_answer(self, messages: list[ChatMessage], turn: Turn) -> Any:
        """Send the conversation; returns the SDK's stream of chunks, to be closed by the caller."""
        request = self._compose_request(messages)
        if turn.traceparent is not None:
            request["extra_headers"] = _make_trace_headers(turn.traceparent, turn.tracestate)
        if not self._asks_for_usage:
            return await self._completions.create(**request)
        try:
            return await self._completions.create(**request, stream_options={"include_usage": True})
        except (self._sdk.BadRequestError, self._sdk.UnprocessableEntityError):
            # Some servers refuse the option, each with words of its own. If the rest is wrong, this raises again.
            stream = await self._completions.create(**request)
            self._asks_for_usage = False
            return stream

    def _compose_request(self, messages: list[ChatMessage]) -> dict[str, Any]:
        options = self._options
        system = [{"role": "system", "content": options.system_prompt}] if options.system_prompt else []
        request = {
            "model": options.model,
            "messages": [*system, *msgspec.to_builtins(messages)],
            "stream": True,
            "temperature": options.temperature,
            self._max_tokens_name: options.max_tokens,
        }
        return {name: value for name, value in request.items() if value is not None}

    def _keep_newest(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        """Keep the newest whole turns that fit history_turns and history_bytes."""
        start = len(messages)
        size_bytes = 0
        for _ in range(min(self._options.history_turns, len(messages) // 2)):
            size_bytes += sum(len(message.content.encode()) for message in messages[start - 2 : start])
            if size_bytes > self._options.history_bytes:
                break
            start -= 2
        return messages[start:]

    def _explain_failure(self, error: Exception, turn: Turn, *, began: bool) -> AgentError:
        """Put a failure into words for the user; what only an operator may know goes to the log.

        Neither holds the server's own words: they may quote the key or the conversation.
        """
        status = getattr(error, "status_code", None)
        code = _read_code(error)
        log.warning(
            "Agent %s: the model's server failed: %s, status %s, code %s",
            turn.agent_id,
            type(error).__name__,
            status,
            code,
            extra={"action": "agent_failed", "agent_id": turn.agent_id, "status": status, "code": code},
        )
        if isinstance(error, self._sdk.APIStatusError):
            return _explain_status(error.status_code, code, self._options.model)
        if isinstance(error, self._sdk.APITimeoutError):
            return AgentError("The model's server took too long to answer.")
        if isinstance(error, self._sdk.APIConnectionError) and not began:
            return AgentError("The model's server cannot be reached.")
        if isinstance(error, self._sdk.APIError) and not isinstance(error, self._sdk.APIConnectionError):
            return AgentError("The model's server reported an error in its answer.")
        if isinstance(error, ValueError | RecursionError):  # neither JSON nor UTF-8, or JSON that is too deep
            return AgentError("The model's server sent an answer that cannot be read.")
        return AgentError(_BROKEN_OFF)  # older SDKs let their HTTP library's own errors through


_BROKEN_OFF = "The model's server broke off before the end of its answer."


class _Answer:
    """An answer as it arrives.

    Attributes:
        texts: Its pieces, as they were shown.
        usage: What the endpoint counted; None as long as it has not said.
        is_finished: Whether the endpoint has named a reason for its end. Without one it was cut off, even if the
            connection ended properly: HTTP without a length cannot tell the two apart.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.usage: TokenUsage | None = None
        self.is_finished = False
        self._finish_reason = ""

    def take(self, chunk: Any) -> str:
        """Take the SDK's next chunk, whose shape nobody has checked; returns the text in it, often empty."""
        if (usage := getattr(chunk, "usage", None)) is not None:
            self.usage = _read_usage(usage)
        for choice in (getattr(chunk, "choices", None) or [])[:1]:
            if reason := getattr(choice, "finish_reason", None):
                self.is_finished = True
                self._finish_reason = str(reason)
            content = getattr(getattr(choice, "delta", None), "content", None)
            if content and isinstance(content, str):
                self.texts.append(_UNSTORABLE.sub("\ufffd", content))
                return self.texts[-1]
        return ""

    def check_finished(self) -> None:
        """Check that this is an answer, and all of it.

        Raises:
            AgentError: If it was cut off, or is none.
        """
        if not self.is_finished:
            raise AgentError(_BROKEN_OFF)
        if not self.texts and self._finish_reason == "content_filter":
            raise AgentError("The model's server withheld the answer: its content filter objected.", retryable=False)
        if not self.texts:
            raise AgentError("The model's answer is empty.")


def _make_trace_headers(traceparent: str, tracestate: str | None) -> dict[str, str]:
    """Return W3C Trace Context for the endpoint, which so goes on with the request's trace."""
    return {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate is not None else {})


def _read_usage(usage: Any) -> TokenUsage | None:
    prompt, completion = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    if not isinstance(prompt, int) or not isinstance(completion, int) or prompt < 0 or completion < 0:
        return None
    return TokenUsage(prompt_tokens=prompt, completion_tokens=completion)


def _read_code(error: Exception) -> str | None:
    """Read the server's name for an error; what does not look like a name is left out of the log."""
    code = getattr(error, "code", None)
    return code if isinstance(code, str) and re.fullmatch(r"[a-z0-9_.]{1,64}", code) else None


def _explain_status(status: int, code: str | None, model: str) -> AgentError:
    match status:
        case 401 | 403:
            return AgentError(f"The model's server refused the API key ({status}).", retryable=False)
        case 404:
            return AgentError(
                f"The model's server does not know the model {model!r} or the base URL (404).", retryable=False
            )
        case 429 if code == "insufficient_quota":
            return AgentError("The model's server refused: the quota is used up (429).", retryable=False)
        case 429:
            return AgentError("The model's server has too much to do at the moment (429).")
        case 408 | 409:
            return AgentError(f"The model's server could not answer in time ({status}).")
        case _ if status >= 500:
            return AgentError(f"The model's server failed ({status}).")
        case _:
            return AgentError(f"The model's server refused the request ({status}).", retryable=False)


def _import_sdk() -> Any:
    try:
        import openai
    except ImportError as error:
        raise OptionsError("kind", "needs the openai SDK: pip install -e '.[openai]' in Callboard's folder") from error
    return openai


def _check_base_url(base_url: str) -> str:
    """Check the endpoint's URL; returns its host."""
    try:
        parts = urlsplit(base_url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_usable = is_usable and base_url.isascii() and base_url.isprintable() and " " not in base_url
    except ValueError:  # a port that is no number, an unclosed bracket
        is_usable = False
    if not is_usable:
        raise OptionsError("base_url", "expected a URL such as 'http://127.0.0.1:11434/v1'")
    if parts.username is not None or parts.password is not None:
        raise OptionsError("base_url", "must hold no user or password; name the key's variable in api_key_env")
    return parts.hostname or ""


def _find_api_key(variable: str, environ: Mapping[str, str]) -> str:
    api_key = environ.get(variable, "").strip()
    if not api_key:
        raise OptionsError("api_key_env", f"the environment variable {variable} is not set")
    if not (api_key.isascii() and api_key.isprintable()):
        raise OptionsError("api_key_env", f"the environment variable {variable} holds no API key")
    return api_key
