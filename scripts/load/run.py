"""A whole run: connects once to see that there is a server, starts the sessions, watches them, and ends."""

import asyncio
import contextlib
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from scripts.load.client_session import ClientSession
from scripts.load.connection import ConnectFailedError, ServerRefusedError, open_connection
from scripts.load.outcome import End, Outcome
from scripts.load.plan import LoadPlan, make_token
from scripts.load.recorder import Metric, Recorder, Sample
from scripts.load.session import Outages, ServerLostError, Session
from scripts.tokens import TokenMint

SAMPLE_S: Final = 1.0
AnySession = Session | ClientSession

LAG_S: Final = 0.02
"""How often to look whether the load generator itself is late."""


def run_plan(
    plan: LoadPlan, recorder: Recorder, show: Callable[[Sample], None], mint: TokenMint | None = None
) -> Outcome:
    """Carry out a plan, on uvloop if it is there.

    Args:
        plan: What to do.
        recorder: Where figures and violations go.
        show: Called about every second.
        mint: Makes the users' tokens; None where the server wants none.
    """
    factory = import_module("uvloop").new_event_loop if find_spec("uvloop") is not None else None
    _allow_connections(plan.sessions)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_run(plan, recorder, show, mint))


async def _run(plan: LoadPlan, recorder: Recorder, show: Callable[[Sample], None], mint: TokenMint | None) -> Outcome:
    outages = Outages()
    numbers = range(1, plan.sessions + 1)
    sessions: Sequence[AnySession]
    if plan.protocol == "bare":
        sessions = [Session(plan, number, recorder, outages, mint) for number in numbers]
    else:
        sessions = [ClientSession(plan, number, recorder, mint) for number in numbers]
    with _watch(_sample(sessions, recorder, show)), _watch(_measure_lag(recorder)), _hear_interrupt() as interrupt:
        try:
            await _find_server_unless(interrupt, plan, mint)
            if not interrupt.is_set():
                await _run_sessions(plan, sessions, interrupt)
        except (ConnectFailedError, ServerRefusedError, ServerLostError) as error:
            return Outcome(end=End.LOST, reason=str(error))
        finally:
            show(recorder.take_sample())
    return Outcome(end=End.INTERRUPTED if interrupt.is_set() else End.COMPLETED)


async def _find_server_unless(interrupt: asyncio.Event, plan: LoadPlan, mint: TokenMint | None) -> None:
    """Find the server, or stop looking at an interrupt: one that does not answer is waited for for seconds."""
    tasks = (asyncio.create_task(_find_server(plan, mint)), asyncio.create_task(interrupt.wait()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _find_server(plan: LoadPlan, mint: TokenMint | None) -> None:
    """Connect and leave, so that what is wrong with the address is said at once, and once."""
    connection = await open_connection(plan.make_url(0), lambda _payload: None, make_token(plan, 0, mint))
    connection.leave()
    await connection.ended
    connection.raise_if_refused()


async def _run_sessions(plan: LoadPlan, sessions: Sequence[AnySession], interrupt: asyncio.Event) -> None:
    """Run all sessions to their end, or to the first failure or interrupt."""
    step_s = plan.ramp_s / plan.sessions
    tasks = [asyncio.create_task(session.run(index * step_s)) for index, session in enumerate(sessions)]
    interrupted = asyncio.create_task(interrupt.wait())
    everything = asyncio.gather(*tasks)
    everything.add_done_callback(lambda _everything: interrupted.cancel())
    try:
        await asyncio.wait({interrupted})
        if everything.done():
            everything.result()
    finally:
        for task in (*tasks, interrupted):
            task.cancel()
        await asyncio.gather(*tasks, everything, interrupted, return_exceptions=True)


async def _sample(sessions: Sequence[AnySession], recorder: Recorder, show: Callable[[Sample], None]) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        show(recorder.take_sample())
        for session in sessions:
            session.expire()


async def _measure_lag(recorder: Recorder) -> None:
    while True:
        due_s = recorder.clock() + LAG_S
        await asyncio.sleep(LAG_S)
        recorder.time(Metric.OWN_LAG, recorder.clock() - due_s)


@contextlib.contextmanager
def _watch(work: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Run something beside the sessions, and end it with them."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


@contextlib.contextmanager
def _hear_interrupt() -> Iterator[asyncio.Event]:
    """Make the first Ctrl-C, or SIGTERM, an event; the second one ends the process as ever."""
    loop, interrupt = asyncio.get_running_loop(), asyncio.Event()

    def hear() -> None:
        interrupt.set()
        stop_hearing()

    def stop_hearing() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, hear)
    try:
        yield interrupt
    finally:
        stop_hearing()


def _allow_connections(sessions: int) -> None:
    """Raise the limit of open files as far as the sessions need and the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sessions * 2 + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
