"""Callboard's client for Python: conversations with agents that outlive connections and servers.

    import asyncio

    from callboard import Callboard, Message, Token


    async def main() -> None:
        async with Callboard("ws://127.0.0.1:8888") as board:
            async for frame in board.send("thread-1", "Hello"):
                if isinstance(frame, Token):
                    print(frame.value, end="", flush=True)


    asyncio.run(main())

It speaks protocol v1 (`server/PROTOCOL.md`). `conversation` decides, without a socket; `client` moves the texts:

    client ──> conversation ──> topic (what was said in a thread) ──> thread_log (where its log is), inbox, thread
       └────> link (made again whenever it is lost) ──> address, token, backoff
       └────> reader (what only HTTP tells) ──> snapshot                          errors: what callers must expect
"""

from callboard.client import AnswerFrame, Callboard
from callboard.errors import CallboardClosed, CallboardError, CallboardUnreachable, RequestRefused
from callboard.inbox import LogFrame
from callboard.thread import Thread
from server.v1_frames import Cancelled, Error, Input, Message, Restarted, Resync, Token

__all__ = [
    "AnswerFrame",
    "Callboard",
    "CallboardClosed",
    "CallboardError",
    "CallboardUnreachable",
    "Cancelled",
    "Error",
    "Input",
    "LogFrame",
    "Message",
    "RequestRefused",
    "Restarted",
    "Resync",
    "Thread",
    "Token",
]
