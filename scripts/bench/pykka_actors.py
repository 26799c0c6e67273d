"""The same actors on Pykka, where each is a thread. Its messages name no sender, so calls carry where to answer."""

from dataclasses import dataclass
from typing import Any

import pykka

from scripts.bench.work import (
    Answer,
    CreateChildren,
    DismissChildren,
    MakeCalls,
    PrepareCalls,
    ReplaceChildren,
    WorkDone,
)

Reference = pykka.ActorRef[Any]
ANSWER = Answer()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCall:
    """A caller -> receiver, which answers with an `Answer` to `reply_to`."""

    reply_to: Reference


class PykkaReceiver(pykka.ThreadingActor):
    """Answers calls."""

    def on_receive(self, message: Any) -> None:
        """Answer."""
        if isinstance(message, SignedCall):
            message.reply_to.tell(ANSWER)


class PykkaCaller(pykka.ThreadingActor):
    """Calls receivers, and counts what they answer."""

    def __init__(self) -> None:
        super().__init__()
        self._receivers: list[Reference] = []
        self._missing = 0
        self._waves = 0
        self._reply_to: Any = None
        self._call = SignedCall(reply_to=self.actor_ref)

    def on_receive(self, message: Any) -> None:
        """Count an answer, or begin some work."""
        if isinstance(message, Answer):
            self._missing -= 1
            if not self._missing:
                self._make_next_wave()
            return
        if isinstance(message, PrepareCalls):
            self._receivers = [PykkaReceiver.start() for _ in range(message.receivers)]
            self._begin(1, message.reply_to)
        elif isinstance(message, MakeCalls):
            self._begin(message.waves, message.reply_to)

    def _begin(self, waves: int, reply_to: Any) -> None:
        self._waves, self._reply_to = waves, reply_to
        self._make_next_wave()

    def _make_next_wave(self) -> None:
        if not self._waves:
            self._reply_to.tell(WorkDone())
            return
        self._waves -= 1
        self._missing = len(self._receivers)
        for receiver in self._receivers:
            receiver.tell(self._call)


class PykkaParent(pykka.ThreadingActor):
    """Creates children and has them exit; Pykka knows no children, so it waits for each to have stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._children: list[Reference] = []
        self._reply_to: Any = None

    def on_receive(self, message: Any) -> None:
        """Do some work."""
        if isinstance(message, Answer):
            self._reply_to.tell(WorkDone())
        elif isinstance(message, CreateChildren):
            self._reply_to = message.reply_to
            self._create(message.count)
            self._children[-1].tell(SignedCall(reply_to=self.actor_ref))
        elif isinstance(message, DismissChildren):
            self._dismiss()
            message.reply_to.tell(WorkDone())
        elif isinstance(message, ReplaceChildren):
            for created in range(0, message.count, message.at_once):
                self._create(min(message.at_once, message.count - created))
                self._dismiss()
            message.reply_to.tell(WorkDone())

    def _create(self, count: int) -> None:
        for _ in range(count):
            self._children.append(PykkaReceiver.start())

    def _dismiss(self) -> None:
        stops = [child.stop(block=False) for child in self._children]
        for stopped in stops:
            stopped.get()
        self._children.clear()
