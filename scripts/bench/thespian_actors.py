"""The actors that do the work on Thespian's system bases, ours among them: plain ones, with nothing of Callboard's.

At the top level of a module, as those of multiprocTCPBase are found by name in processes of their own.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from thespian.actors import Actor, ActorAddress, ActorExitRequest, ChildActorExited

from scripts.bench.work import (
    Answer,
    ArmWakeups,
    Call,
    CallYourself,
    CreateChildren,
    DismissChildren,
    MakeCalls,
    PrepareCalls,
    ReplaceChildren,
    WorkDone,
)

CALL = Call()
ANSWER = Answer()
WAKEUP_PERIOD = timedelta(hours=1)


class Receiver(Actor):  # type: ignore[misc]
    """Answers calls."""

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Answer."""
        if isinstance(message, Call):
            self.send(sender, ANSWER)


class Caller(Actor):  # type: ignore[misc]
    """Calls receivers, and counts what they answer."""

    def __init__(self) -> None:
        super().__init__()
        self._receivers: list[ActorAddress] = []
        self._missing = 0
        self._waves = 0
        self._reply_to: Any = None

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Count an answer, or begin some work."""
        if isinstance(message, Answer):
            self._missing -= 1
            if not self._missing:
                self._make_next_wave()
            return
        if isinstance(message, PrepareCalls):
            self._receivers = [self.createActor(Receiver) for _ in range(message.receivers)]
            self._begin(1, message.reply_to or sender)
        elif isinstance(message, MakeCalls):
            self._begin(message.waves, message.reply_to or sender)
        elif isinstance(message, ArmWakeups):
            for _ in range(message.count):
                self.wakeupAfter(WAKEUP_PERIOD)
            self.send(message.reply_to or sender, WorkDone())

    def _begin(self, waves: int, reply_to: ActorAddress) -> None:
        self._waves, self._reply_to = waves, reply_to
        self._make_next_wave()

    def _make_next_wave(self) -> None:
        if not self._waves:
            self.send(self._reply_to, WorkDone())
            return
        self._waves -= 1
        self._missing = len(self._receivers)
        for receiver in self._receivers:
            self.send(receiver, CALL)


class Parent(Actor):  # type: ignore[misc]
    """Creates children and has them exit, as a director does with its sessions."""

    def __init__(self) -> None:
        super().__init__()
        self._children: list[ActorAddress] = []
        self._missing = 0
        self._to_replace = 0
        self._at_once = 0
        self._reply_to: Any = None

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Begin some work, or go on with it."""
        if isinstance(message, ChildActorExited):
            self._missing -= 1
            if not self._missing:
                self._replace_next()
        elif isinstance(message, Answer):
            self.send(self._reply_to, WorkDone())
        elif isinstance(message, CreateChildren):
            self._reply_to = message.reply_to or sender
            self._create(message.count)
            self.send(self._children[-1], CALL)
        elif isinstance(message, DismissChildren):
            self._reply_to = message.reply_to or sender
            self._dismiss()
        elif isinstance(message, ReplaceChildren):
            self._reply_to = message.reply_to or sender
            self._to_replace, self._at_once = message.count, message.at_once
            self._replace_next()

    def _create(self, count: int) -> None:
        for _ in range(count):
            self._children.append(self.createActor(Receiver))

    def _dismiss(self) -> None:
        self._missing = len(self._children)
        for child in self._children:
            self.send(child, ActorExitRequest())
        self._children.clear()

    def _replace_next(self) -> None:
        count = min(self._to_replace, self._at_once)
        if not count:
            self.send(self._reply_to, WorkDone())
            return
        self._to_replace -= count
        self._create(count)
        self._dismiss()


class SelfCaller(Actor):  # type: ignore[misc]
    """Sends itself messages for ever."""

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:  # noqa: ARG002
        """Send the next."""
        if isinstance(message, CallYourself):
            self.send(self.myAddress, message)


class Announcer(Actor):  # type: ignore[misc]
    """Calls a function whenever some work is done. Its first message is the function."""

    _announce: Callable[[], None]

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:  # noqa: ARG002
        """Take the function, or call it."""
        if isinstance(message, WorkDone):
            self._announce()
        elif callable(message):
            self._announce = message
