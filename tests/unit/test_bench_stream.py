"""What `callboard bench stream` asks for and how it checks and counts, without a server."""

import asyncio
import inspect
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picows import WSMsgType

from actors.agents.metronome import MetronomeAgent
from actors.agents.protocol import Token, Turn
from scripts.bench.cpu_time import PARENT, USED, USED_BY_ENDED_CHILDREN, split_fields
from scripts.bench.stream_catalogue import LOADS, make_stream_catalogue
from scripts.bench.stream_client import AnswerBroken, StreamClient
from scripts.bench.stream_load import StreamLoad
from scripts.bench.stream_outcome import StreamOutcome
from scripts.bench.stream_probe import make_sample
from scripts.bench.stream_servers import make_serve_arguments
from scripts.bench.target import at_least, at_most

CATALOGUE = make_stream_catalogue()
LOAD = StreamLoad(sessions=1, turns=1, tokens=3)
RIGHT = " tok0 tok1 tok2"

# As DESIGN has them: benchmark, what, subject, unit -> target.
TARGETS = {
    ("first-token", "first token, p50", "merged - direct", "ms"): at_most(3),
    ("paced-100", "first token, p50", "merged / direct", "times"): at_most(1.05),
    ("paced-100", "first token, p99", "merged / direct", "times"): at_most(1.10),
    ("unpaced-100", "streamed", "merged / direct", "times"): at_least(2),
    ("unpaced-100", "streamed", "strict / direct", "times"): at_least(0.5),
}


class Wire:
    """Stands for a connection: keeps what a client sends, and shows it frames."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._asked = asyncio.Event()
        self.client = StreamClient()
        self.client.on_ws_connected(self)  # type: ignore[arg-type]

    def send(self, _kind: WSMsgType, payload: bytes) -> None:
        self.sent.append(payload)
        self._asked.set()

    def show(self, **frame: Any) -> None:
        self.client.on_ws_frame(self, Payload(frame))  # type: ignore[arg-type]

    def show_answer(self, *values: str, message: str) -> None:
        for value in values:
            self.show(type="token", value=value)
        self.show(type="message", message=message)

    async def begin(self, turns: int = 1) -> "asyncio.Task[None]":
        """Have the client converse; returns when it has asked for the first time."""
        question, answer = LOAD.make_question(), LOAD.make_answer()
        asking = asyncio.create_task(self.client.converse(question, answer, turns=turns, delay_s=0))
        await asyncio.wait_for(self._asked.wait(), timeout=2)
        return asking


class Payload:
    """Stands for a frame."""

    msg_type = WSMsgType.TEXT

    def __init__(self, frame: dict[str, Any]) -> None:
        self._text = msgspec.json.encode(frame)

    def get_payload_as_memoryview(self) -> memoryview:
        return memoryview(self._text)


async def answer(values: Sequence[str], *, message: str) -> StreamClient:
    """Have a client ask once, and show it an answer; returns when it is content."""
    wire = Wire()
    asking = await wire.begin()
    wire.show_answer(*values, message=message)
    await asking
    return wire.client


async def say(load: StreamLoad) -> list[str]:
    """Return what the real metronome answers to a load's question."""
    question = msgspec.json.decode(load.make_question())
    turn = Turn(
        user_id="u",
        agent_id="metronome",
        thread_id="t",
        text=question["message"],
        request_id=None,
        attempt=1,
        checkpoint=None,
        deadline_s=0,
        cancelled=asyncio.Event(),
    )
    return [item.text async for item in MetronomeAgent().stream_chat(turn) if isinstance(item, Token)]


def test_targets_are_those_of_the_design() -> None:
    targets = {
        (benchmark.name, row.name, row.subject, row.unit): row.target
        for benchmark in CATALOGUE
        for row in benchmark.rows
        if row.target is not None
    }

    assert targets == TARGETS


def test_every_number_of_sessions_is_measured_at_both_paces() -> None:
    asked = {(load.sessions, load.interval_ms, load.first_token_ms) for load in LOADS.values()}

    assert asked == {(sessions, *pace) for sessions in (1, 100, 1000) for pace in ((0, 0), (20, 200))}


def test_all_three_streamers_take_part_in_every_benchmark() -> None:
    for benchmark in CATALOGUE:
        names = [variant.name for variant in benchmark.variants]
        assert names == ["direct", "merged", "strict"]
        assert {name for row in benchmark.rows for name in (row.variant, row.over, row.minus)} <= {*names, None}


@pytest.mark.parametrize("quick", [False, True])
def test_variants_can_be_called_in_another_process(quick: bool) -> None:
    for benchmark in CATALOGUE:
        for variant in benchmark.variants:
            arguments = variant.choose_arguments(quick=quick)
            inspect.signature(variant.probe).bind(**arguments)
            assert pickle.loads(pickle.dumps((variant.probe, arguments))) == (variant.probe, arguments)


def test_quick_load_is_paced_like_the_full_one() -> None:
    for benchmark in CATALOGUE:
        for variant in benchmark.variants:
            full, quick = (variant.choose_arguments(quick=quick)["load"] for quick in (False, True))
            assert (quick.interval_ms, quick.first_token_ms) == (full.interval_ms, full.first_token_ms)
            assert quick.all_tokens <= 100


def test_only_strict_turns_merging_off() -> None:
    merged, strict = (make_serve_arguments(Path("/data"), merge=merge) for merge in (True, False))

    assert merged[merged.index("--coalesce-tokens") + 1] == "1"
    assert strict[strict.index("--coalesce-tokens") + 1] == "0"


@given(tokens=st.integers(min_value=1, max_value=50))
def test_expected_answer_is_what_the_metronome_says(tokens: int) -> None:
    load = StreamLoad(sessions=1, turns=1, tokens=tokens)

    said = asyncio.run(say(load))

    assert (len(said), "".join(said)) == (tokens, load.make_answer())


@given(sessions=st.integers(min_value=1, max_value=2000))
def test_starts_are_spread_over_one_turn(sessions: int) -> None:
    load = StreamLoad(sessions=sessions, turns=3, tokens=20, interval_ms=20, first_token_ms=200)
    delays_s = [load.delay_start_s(number) for number in range(sessions)]

    assert load.turn_s == pytest.approx(0.6)
    assert delays_s == sorted(delays_s)
    assert (delays_s[0], max(delays_s) < load.turn_s) == (0, True)
    assert len(set(delays_s)) == sessions


def test_unpaced_sessions_begin_together() -> None:
    load = StreamLoad(sessions=100, turns=1, tokens=20)

    assert {load.delay_start_s(number) for number in range(100)} == {0}


@pytest.mark.parametrize("values", [[" tok0", " tok1", " tok2"], [" tok0 tok1", " tok2"], [" tok0 tok1 tok2"]], ids=len)
def test_answer_is_right_however_its_tokens_are_merged(values: list[str]) -> None:
    client = asyncio.run(answer(values, message=RIGHT))

    assert (client.frames, len(client.first_token_s)) == (len(values), 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([" tok0", " tok2"], RIGHT),
        ([" tok0", " tok1", " tok1", " tok2"], RIGHT),
        ([" tok0", " tok2", " tok1"], RIGHT),
        ([" tok0", " tok2"], " tok0 tok2"),
        ([" tok0", " tok1", " tok2", " tok3"], " tok0 tok1 tok2 tok3"),
        ([], RIGHT),
        ([" tok0", " tok1", " tok2"], ""),
    ],
    ids=["lost", "doubled", "swapped", "lost in both", "too many in both", "no token", "no message"],
)
def test_wrong_answer_ends_the_run(values: list[str], message: str) -> None:
    with pytest.raises(AnswerBroken, match="characters"):
        asyncio.run(answer(values, message=message))


def test_refusal_ends_the_run_with_its_words() -> None:
    async def refuse() -> None:
        wire = Wire()
        asking = await wire.begin()
        wire.show(type="error", code="overloaded", message="too much to do")
        await asking

    with pytest.raises(AnswerBroken, match="error: too much to do"):
        asyncio.run(refuse())


def test_closed_connection_ends_the_run() -> None:
    async def close() -> None:
        wire = Wire()
        asking = await wire.begin()
        wire.client.on_ws_disconnected(wire)  # type: ignore[arg-type]
        await asking

    with pytest.raises(AnswerBroken, match="closed"):
        asyncio.run(close())


def test_each_question_follows_the_answer_before() -> None:
    async def converse() -> StreamClient:
        wire = Wire()
        asking = await wire.begin(turns=3)
        for asked in (1, 2, 3):
            assert wire.sent == [LOAD.make_question()] * asked
            wire.show_answer(" tok0 tok1", " tok2", message=RIGHT)
        await asking
        return wire.client

    client = asyncio.run(converse())

    assert (client.frames, len(client.first_token_s)) == (6, 3)
    client.forget()
    assert (client.frames, client.first_token_s) == (0, [])


def test_sample_is_counted_per_token_and_per_turn() -> None:
    outcome = StreamOutcome(
        first_token_s=tuple(number / 1000 for number in range(100, 0, -1)), tokens=2000, frames=500, took_s=4, cpu_s=1
    )

    sample = make_sample(outcome, server_s=0.1, postgres_s=0.05)

    assert {name: pytest.approx(figure) for name, figure in sample.items()} == {
        "first_p50_ms": 50,
        "first_p99_ms": 99,
        "tokens_per_s": 500,
        "tokens_per_frame": 4,
        "server_us_per_token": 50,
        "postgres_us_per_token": 25,
        "generator_percent": 25,
    }


def test_fields_of_a_process_are_found_behind_any_name() -> None:
    fields = " ".join(map(str, range(3, 53)))  # proc_pid_stat(5) counts from 1: id, name, state, parent, ...

    found = split_fields(f"42 (a) name (of) sorts) {fields}\n")

    assert (found[PARENT], found[USED], found[USED_BY_ENDED_CHILDREN]) == ("4", ["14", "15"], ["16", "17"])
