"""The Python client against the real server: cuts, crashes, restarts, other devices."""

import asyncio
import json
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from callboard import (
    AnswerFrame,
    Callboard,
    CallboardClosed,
    CallboardUnreachable,
    Cancelled,
    Error,
    Input,
    Message,
    RequestRefused,
    Restarted,
    Resync,
    Thread,
    Token,
)
from tests.acceptance.client import connect, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.v1_client import connect_v1
from tests.tcp_proxy import run_proxy

TIMEOUT_S = 60
CLOSED_PORT = 1
"""Where nobody listens: tcpmux, which nobody has."""
_numbers = count(1)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, TIMEOUT_S))


def make_url(port: int) -> str:
    return f"ws://127.0.0.1:{port}"


def read_text(frames: Sequence[AnswerFrame]) -> str:
    """What is on a screen that follows the rules: tokens appended, void after a restart."""
    text = ""
    for frame in frames:
        if isinstance(frame, Token):
            text += frame.value
        elif isinstance(frame, Restarted):
            text = ""
    return text


async def eventually(predicate: Callable[[], object]) -> None:
    """`wait_until` on the loop."""
    async with asyncio.timeout(TIMEOUT_S):
        while not predicate():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def collect(board: Callboard, thread: Thread | str, text: str, **options: Any) -> list[AnswerFrame]:
    return [frame async for frame in board.send(thread, text, **options)]


def check_answer(frames: list[AnswerFrame], tokens: int) -> None:
    """Exactly one end, nothing twice, and the streamed text is the whole one."""
    assert [isinstance(frame, Message | Cancelled | Error) for frame in frames] == [False] * (len(frames) - 1) + [True]
    end = frames[-1]
    assert isinstance(end, Message), end
    assert end.message == make_ticks(tokens) == read_text(frames)
    seqs = [frame.seq or 0 for frame in frames]
    assert seqs == sorted(set(seqs))


def test_answer_is_streamed_and_ends(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="metronome") as board:
            check_answer(await collect(board, thread, make_schedule(20)), 20)
            assert (await board.ask(thread, make_schedule(3))).message == make_ticks(3)

    run(scene())


def test_default_agent_is_the_servers(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with Callboard(f"http://127.0.0.1:{server.port}/") as board:
            assert (await board.ask(thread, "Hello")).agentId == "eliza"

    run(scene())


def test_first_connection_that_is_lost_at_once_is_made_again(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        losses = iter([True])
        board = Callboard(
            make_url(server.port),
            agent_id="metronome",
            on_connected=lambda: board.reconnect() if next(losses, False) else None,
        )
        async with board:
            check_answer(await collect(board, thread, make_schedule(3)), 3)

    run(scene())


def test_many_threads_share_one_connection(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="metronome") as board:
            messages = [collect(board, f"{thread}-{number}", make_schedule(10, 2)) for number in range(300)]
            for frames in await asyncio.gather(*messages):  # more than a connection may have subscriptions
                check_answer(frames, 10)

    run(scene())


class CutPoints:
    """A thousand cuts, as hypothesis chooses them: a list of byte counts for each run of twenty."""

    RUNS, CUTS = 20, 50


@given(
    budgets=st.lists(
        st.one_of(st.integers(1, 400), st.integers(400, 4000)), min_size=CutPoints.CUTS, max_size=CutPoints.CUTS
    )
)
@settings(
    max_examples=CutPoints.RUNS,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
def test_client_cut_anywhere_misses_nothing_and_doubles_nothing(server: ServerProcess, budgets: list[int]) -> None:
    thread = Thread(f"cut-{next(_numbers)}", "metronome")
    key = f"local:metronome:{thread.thread_id}"

    async def scene() -> None:
        async with run_proxy(server.port) as proxy:
            url = make_url(proxy.port)
            async with Callboard(url, jitter=lambda: 0.0) as board, Callboard(url, jitter=lambda: 0.0) as other:
                log: list[Any] = []
                following = asyncio.create_task(follow_into(log, other, thread))
                proxy.budgets.extend(budgets)
                proxy.cut_all()
                answers: list[list[AnswerFrame]] = []
                while proxy.cuts < len(budgets):
                    answers.append(await collect(board, thread, make_schedule(60, 1)))
                for frames in answers:
                    check_answer(frames, 60)
                await eventually(lambda: sum(isinstance(frame, Message) for frame in log) == len(answers))
                following.cancel()
                check_log(log, [frames[-1] for frames in answers])

    run(scene())
    ends = "SELECT payload->>'message' FROM effects WHERE session_key = %s AND payload->>'type' = 'message'"
    texts = {text for (text,) in server.database.query(ends, key)}
    assert texts == {make_ticks(60)}
    requests = "SELECT count(*), count(DISTINCT request_id) FROM events WHERE session_key = %s"
    [(events, distinct)] = server.database.query(requests, key)
    assert events == distinct


async def follow_into(log: list[Any], board: Callboard, thread: Thread) -> None:
    async for frame in board.follow(thread, after=0):
        log.append(frame)  # noqa: PERF401 (as it comes)


def check_log(log: list[Any], ends: list[AnswerFrame]) -> None:
    """Another device has seen all of it: no gap, nothing twice, each message and its end once."""
    cursor = 0
    for frame in log:
        assert (frame.from_ or frame.seq) == cursor + 1
        cursor = frame.seq
    assert [frame for frame in log if isinstance(frame, Message)] == ends, "the same frames on both"
    assert sum(isinstance(frame, Input) for frame in log) == len(ends)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow(reason="starts a server twice"))]
)
def test_server_restart_in_mid_answer_is_a_pause(
    servers: Servers, data_dir: Path, thread: str, how: signal.Signals
) -> None:
    async def scene() -> None:
        server = await asyncio.to_thread(servers.start, "--shutdown-grace-s", "0.1", data_dir=data_dir)
        async with run_proxy(server.port) as proxy, Callboard(make_url(proxy.port), agent_id="metronome") as board:
            frames: list[AnswerFrame] = []
            async with aclosing(board.send(thread, make_schedule(100, 15))) as answer:  # type: ignore[type-var]
                async for frame in answer:
                    frames.append(frame)
                    if len(frames) == 20:
                        await asyncio.to_thread(server.kill if how is signal.SIGKILL else server.stop)
                        again = await asyncio.to_thread(servers.start, data_dir=data_dir)
                        proxy.upstream_port = again.port
            check_answer(frames, 100)
            assert any(isinstance(frame, Restarted) for frame in frames)

    run(scene())


@pytest.mark.slow(reason="starts a server twice")
def test_message_sent_while_the_server_is_away_arrives(servers: Servers, data_dir: Path, thread: str) -> None:
    async def scene() -> None:
        server = await asyncio.to_thread(servers.start, data_dir=data_dir)
        async with run_proxy(server.port) as proxy, Callboard(make_url(proxy.port), agent_id="echo") as board:
            await board.ask(thread, "one")
            await asyncio.to_thread(server.kill)
            asking = asyncio.create_task(board.ask(thread, "two"))
            again = await asyncio.to_thread(servers.start, data_dir=data_dir)
            proxy.upstream_port = again.port
            assert (await asking).message == "two"
            rows = again.database.count_rows(f"local:echo:{thread}")
            assert rows["events"] == 2

    run(scene())


def test_same_request_again_gives_its_answer_long_after(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        for _ in range(2):  # as two processes would
            async with Callboard(make_url(server.port), agent_id="echo") as board:
                assert (await board.ask(thread, "once", request_id="r1")).message == "once"
                assert (await board.ask(thread, "other")).message == "other"

    run(scene())
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 3


def test_refusals_name_their_code(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="metronome") as board:
            await board.ask(thread, make_schedule(1), request_id="r1")
            with pytest.raises(RequestRefused, match="conflict"):
                await board.ask(thread, "other words", request_id="r1")
            with pytest.raises(RequestRefused, match="message: must not be empty"):
                await board.ask(thread, "")
            with pytest.raises(RequestRefused, match="unknown_agent"):
                await board.ask(Thread(thread, "nobody"), "Hello")
            slow = asyncio.create_task(collect(board, thread, make_schedule(50, 10), request_id="r2"))
            key = f"local:metronome:{thread}"
            await eventually(lambda: server.database.count_rows(key)["events"] == 2)
            with pytest.raises(RequestRefused, match="busy") as refusal:
                await collect(board, thread, "{}", on_busy="reject")
            assert refusal.value.retryable
            check_answer(await slow, 50)

    run(scene())


def test_any_device_cancels(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        url = make_url(server.port)
        async with Callboard(url, agent_id="metronome") as phone, Callboard(url, agent_id="metronome") as laptop:
            frames: list[AnswerFrame] = []
            async with aclosing(phone.send(thread, make_schedule(1000, 10), request_id="r1")) as answer:  # type: ignore[type-var]
                async for frame in answer:
                    if not frames:
                        await laptop.cancel(thread, "r1")
                    frames.append(frame)
            assert isinstance(frames[-1], Cancelled)

    run(scene())


def test_cancel_while_disconnected_arrives_later(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with (
            run_proxy(server.port) as proxy,
            Callboard(make_url(server.port), agent_id="metronome") as phone,
            Callboard(make_url(proxy.port), agent_id="metronome") as laptop,
        ):
            frames: list[AnswerFrame] = []
            async with aclosing(phone.send(thread, make_schedule(1000, 10), request_id="r1")) as answer:  # type: ignore[type-var]
                async for frame in answer:
                    if not frames:
                        proxy.upstream_port = CLOSED_PORT  # or it might be back before it was seen to be gone
                        proxy.cut_all()
                        await eventually(lambda: not laptop.is_connected)
                        await laptop.cancel(thread, "r1")
                        proxy.upstream_port = server.port
                    frames.append(frame)
            assert isinstance(frames[-1], Cancelled)

    run(scene())


def test_dropped_connection_is_made_again_at_once(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        said: list[str] = []
        async with Callboard(
            make_url(server.port),
            agent_id="metronome",
            on_connected=lambda: said.append("connected"),
            on_lost=said.append,
        ) as board:
            asking = asyncio.create_task(collect(board, thread, make_schedule(50, 5)))
            board.reconnect()
            check_answer(await asking, 50)
        assert said == ["connected", "the connection broke", "connected"]

    run(scene())


def test_default_agent_is_asked_for_until_the_server_answers(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with run_proxy(server.port) as proxy, Callboard(make_url(proxy.port)) as board:
            proxy.upstream_port = 9
            proxy.cut_all()
            asking = asyncio.create_task(board.ask(thread, "Hello"))
            await eventually(lambda: not board.is_connected)
            proxy.upstream_port = server.port
            assert (await asking).agentId == "eliza"

    run(scene())


def test_failing_observer_fails_its_callers(server: ServerProcess, thread: str) -> None:
    def observe(text: str) -> None:
        if json.loads(text)["type"] == "token":
            raise RuntimeError("the observer is broken")

    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="echo", observe=observe) as board:
            with pytest.raises(RuntimeError, match="the observer is broken"):
                await board.ask(thread, "Hello")

    run(scene())


def test_follower_sees_what_others_say(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="echo") as board:
            await board.ask(thread, "first")
            log: list[Any] = []
            following = asyncio.create_task(follow_into(log, board, Thread(thread, "echo")))
            await asyncio.to_thread(say_elsewhere, server, thread, "second")
            await eventually(lambda: log and isinstance(log[-1], Message) and log[-1].message == "second")
            following.cancel()
            assert [frame.message for frame in log if isinstance(frame, Input)] == ["first", "second"]

    run(scene())


def say_elsewhere(server: ServerProcess, thread: str, text: str) -> None:
    """Over the bare dialect; what was not acknowledged yet of an answer before comes there first."""
    with connect(server, thread, agentId="echo") as client:
        client.say(text)
        while client.receive().get("message") != text:
            pass


def test_caller_that_does_not_read_holds_up_nobody(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="metronome") as board:
            slow = board.send(thread, make_schedule(3000))
            first = await anext(slow)
            for number in range(5):
                assert (await board.ask(f"{thread}-{number}", make_schedule(500))).message == make_ticks(500)
            frames = [first, *[frame async for frame in slow]]
            check_answer(frames, 3000)
            assert len(frames) < 200, "tokens are joined for it"

    run(scene())


def test_answer_left_early_leaves_the_board_usable(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="metronome") as board:
            async with aclosing(board.send(thread, make_schedule(100, 2))) as answer:  # type: ignore[type-var]
                async for _ in answer:
                    break
            asking = asyncio.create_task(board.ask(thread, make_schedule(1000, 10)))
            await asyncio.sleep(0)
            asking.cancel()
            assert (await board.ask(f"{thread}-2", make_schedule(3))).message == make_ticks(3)

    run(scene())


@pytest.mark.slow(reason="starts two servers on two databases")
def test_other_log_is_read_anew(servers: Servers, tmp_path: Path, thread: str) -> None:
    """The database is another one after the restart: requests are said again, followers are told."""

    async def scene() -> None:
        server = await asyncio.to_thread(servers.start, data_dir=tmp_path / "one")
        async with run_proxy(server.port) as proxy, Callboard(make_url(proxy.port), agent_id="metronome") as board:
            log: list[Any] = []
            following = asyncio.create_task(follow_into(log, board, Thread(thread, "metronome")))
            answer = asyncio.create_task(collect(board, thread, make_schedule(200, 20)))
            await eventually(lambda: len(log) >= 10)
            await asyncio.to_thread(server.kill)
            again = await asyncio.to_thread(servers.start, data_dir=tmp_path / "two")
            proxy.upstream_port = again.port
            end = (await answer)[-1]
            assert isinstance(end, Message)
            assert end.message == make_ticks(200)
            await eventually(lambda: isinstance(log[-1], Message))
            following.cancel()
            assert [type(frame) for frame in log].count(Resync) == 1

    run(scene())


def test_every_frame_can_be_observed_as_it_came(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        texts: list[str] = []
        async with Callboard(make_url(server.port), agent_id="echo", observe=texts.append) as board:
            await board.ask(thread, "Hello")
        kinds = [json.loads(text)["type"] for text in texts]
        assert (kinds[0], kinds[-1]) == ("hello", "message")
        assert {"ready", "accepted"} <= set(kinds), "in either order: one is read, the other one stored"

    run(scene())


def test_acknowledged_answers_are_completed(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="echo") as board:
            await board.ask(thread, "Hello")
            await asyncio.to_thread(
                wait_until, lambda: not server.database.find_flawed_sessions(f"local:echo:{thread}")
            )

    run(scene())


def test_unreachable_server_is_an_error_in_time() -> None:
    async def scene() -> None:
        with pytest.raises(CallboardUnreachable, match="cannot be reached"):
            async with Callboard("ws://127.0.0.1:9", patience_s=0.3):
                pass

    run(scene())


def test_wrong_address_is_named_with_what_it_answered(server: ServerProcess) -> None:
    async def scene() -> None:
        with pytest.raises(CallboardUnreachable, match="cannot be reached \\(it answered HTTP 404\\)"):
            async with Callboard(f"{make_url(server.port)}/elsewhere"):
                pass

    run(scene())


@pytest.mark.parametrize("url", ["127.0.0.1:8888", "ftp://x", "ws://", "", "ws://a b", "ws://me@host", "ws://host:0"])
def test_url_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="url: must be like ws://"):
        Callboard(url)


def test_final_close_code_ends_the_board(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        with pytest.raises(CallboardClosed, match="1008"):
            async with Callboard(make_url(server.port), user_id="a:b") as board:
                await board.ask(thread, "Hello")

    run(scene())


def test_waiting_caller_hears_that_the_board_was_closed(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        board = Callboard(make_url(server.port), agent_id="metronome")
        async with board:
            asking = asyncio.create_task(board.ask(thread, make_schedule(1000, 10)))
            await asyncio.sleep(0.1)
        with pytest.raises(CallboardClosed, match="closed by its caller"):
            await asking
        with pytest.raises(CallboardClosed):
            await board.ask(thread, "x")

    run(scene())


def test_two_boards_of_one_user_share_their_acknowledgements(server: ServerProcess, thread: str) -> None:
    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="echo") as board:
            await board.ask(thread, "Hello")

    run(scene())
    with connect_v1(server) as client:
        wait_until(lambda: not server.database.find_flawed_sessions(f"local:echo:{thread}"))
        ready = client.subscribe(thread, "echo")
        assert ready["after"] == ready["head"]
