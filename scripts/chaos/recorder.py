"""The recording client, a process of its own: says things in several threads, and writes down what came of it.

    python -m scripts.chaos.recorder SEED THREADS FILE URL...

It is two users, whose threads have the same names. Each has a connection to each server, and may ask the next thing in
a thread of another one.

Each line of the record is a JSON object with `t`, monotonic seconds, and `kind`:

| kind | fields | when |
|---|---|---|
| `invoke` | `device`, `session`, `request`, `text` | before a message is sent for the first time |
| `ok` | `session`, `request`, `end`, `text`, `joined` | its end came; `joined` are its tokens since `restarted` |
| `fail` | `session`, `request`, `code` | it was refused for good: nothing may be stored |
| `unknown` | `session`, `request` | a connection was lost, or the run ended, before anything of it was known |
| `frame` | `device`, `connection`, `session`, `request`, `type`, `seq`, `from`, `digest` | a stored frame came |
| `accepted` | `session`, `request`, `seq` | the server said so |
| `connected`, `lost` | `connection` | |

`session` is the key of the thread that a frame names, for the user whose connection it came on.
"""

import asyncio
import json
import logging
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Final, TextIO

from callboard import Callboard, RequestRefused

AGENT: Final = "metronome"
USERS: Final = ("ann", "bob")

EFFECTS: Final = frozenset({"input", "token", "message", "restarted", "cancelled", "error"})
"""The frames that are stored; an `error` without `seq` is not."""

DRAIN_S: Final = 30.0
"""How long what is open at the end may take."""


SWITCH_RATE: Final = 0.3
"""How likely the next thing in a thread is said to another server."""


class Recorder:
    """Writes lines, each at once: what was written is there whatever happens next."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.connection_count = 0

    def write(self, kind: str, **fields: Any) -> None:
        """Write a line."""
        self._file.write(json.dumps({"t": round(time.monotonic(), 6), "kind": kind, **fields}) + "\n")
        self._file.flush()


class Device:
    """A user's client of one server.

    Attributes:
        name: Tells it from others.
        open: What was said and not heard of since: request ids, with their threads.
    """

    def __init__(self, recorder: Recorder, url: str, user: str) -> None:
        self._recorder = recorder
        self.name = f"{user} {url}"
        self._user = user
        self._connection = 0
        self.open: dict[str, str] = {}
        self.board = Callboard(
            url,
            user_id=user,
            agent_id=AGENT,
            observe=self.observe,
            on_connected=self.connected,
            on_lost=self.lost,
            patience_s=60.0,
        )

    def connected(self) -> None:
        """A connection is there."""
        self._recorder.connection_count += 1
        self._connection = self._recorder.connection_count
        self._recorder.write("connected", connection=self._connection)

    def lost(self, _reason: str) -> None:
        """It is not any more."""
        self._recorder.write("lost", connection=self._connection)
        for request, thread in self.open.items():
            self._recorder.write("unknown", session=self.name_session(thread), request=request)
        self.open.clear()  # once for each request

    def name_session(self, thread: str) -> str:
        """Return the key of one of the user's threads."""
        return f"{self._user}:{AGENT}:{thread}"

    def observe(self, text: str) -> None:
        """A frame came."""
        frame = json.loads(text)
        self.open.pop(frame.get("requestId"), None)
        if frame["type"] == "accepted":
            session = self.name_session(frame["threadId"])
            self._recorder.write("accepted", session=session, request=frame["requestId"], seq=frame["eventSeq"])
        elif frame["type"] in EFFECTS and "seq" in frame:
            shown = {name: frame.get(name) for name in ("requestId", "value", "message", "code", "attempt")}
            self._recorder.write(
                "frame",
                device=self.name,
                connection=self._connection,
                session=self.name_session(frame["threadId"]),
                request=frame.get("requestId"),
                type=frame["type"],
                seq=frame["seq"],
                **{"from": frame.get("from", frame["seq"])},
                digest=blake2b(json.dumps(shown).encode(), digest_size=8).hexdigest(),
            )


async def talk(
    devices: Sequence[Device], recorder: Recorder, thread: str, chance: random.Random, stop: asyncio.Event
) -> None:
    """Say one thing after the other until told to stop."""
    number = 0
    device = chance.choice(devices)
    session = device.name_session(thread)
    while not stop.is_set():
        number += 1
        request = f"{session.replace(':', '-')}-{number}"
        text = json.dumps({"tokens": chance.randrange(1, 30), "interval_ms": chance.choice((0, 5, 20))})
        if chance.random() < SWITCH_RATE:
            device = chance.choice(devices)
        recorder.write("invoke", device=device.name, session=session, request=request, text=text)
        await ask(device, recorder, thread, request, text)


async def ask(device: Device, recorder: Recorder, thread: str, request: str, text: str) -> None:
    """Say one thing, again while it is refused for now, and write down its end."""
    session = device.name_session(thread)
    while True:
        joined = ""
        device.open[request] = thread
        try:
            async for frame in device.board.send(thread, text, request_id=request):
                kind = type(frame).__name__.lower()
                if kind == "token":
                    joined += frame.value  # type: ignore[union-attr]
                elif kind == "restarted":
                    joined = ""
                else:
                    said = getattr(frame, "message", "")
                    recorder.write("ok", session=session, request=request, end=kind, text=said, joined=joined)
        except RequestRefused as error:
            if error.retryable:
                continue
            recorder.write("fail", session=session, request=request, code=error.code)
        return


async def record(urls: Sequence[str], seed: int, threads: int, file: TextIO) -> None:
    """Talk in `threads` threads until SIGTERM, then wait for what is open."""
    recorder = Recorder(file)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    devices = {user: [Device(recorder, url, user) for url in urls] for user in USERS}
    async with AsyncExitStack() as stack:
        for device in chain.from_iterable(devices.values()):
            await stack.enter_async_context(device.board)
        tasks: dict[str, asyncio.Task[None]] = {}
        for number in range(threads):
            user, thread = USERS[number % len(USERS)], f"c{seed}-{number // len(USERS)}"
            chance = random.Random(f"{seed}-{number}")  # noqa: S311 (no secret)
            talking = talk(devices[user], recorder, thread, chance, stop)
            tasks[devices[user][0].name_session(thread)] = asyncio.create_task(talking)
        await stop.wait()
        _, pending = await asyncio.wait(tasks.values(), timeout=DRAIN_S)
        for session, task in tasks.items():
            if task in pending:
                recorder.write("unknown", session=session, request="")
                task.cancel()
            else:
                task.result()  # raises what ended it


if __name__ == "__main__":
    logging.disable()  # what the client says of lost connections: the record has it
    with Path(sys.argv[3]).open("w") as opened:
        asyncio.run(record(sys.argv[4:], int(sys.argv[1]), int(sys.argv[2]), opened))
