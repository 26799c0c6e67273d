"""A session written to PostgreSQL as its actor writes it: inputs, tokens, ends with checkpoints, lost attempts."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from actors.agents.protocol import TokenUsage
from actors.effect_frames import make_cancelled, make_error, make_input, make_message, make_restarted, make_token
from storage.records import EffectStatus, EventRecord, TurnEnd, TurnStart, TurnStatus, make_input_key
from tests.postgres import Conversation, Frame, RecordingWriter, make_cancel, make_checkpoint, make_user_message

USAGE = TokenUsage(prompt_tokens=1, completion_tokens=2)


class StoredTalk:
    """A session and what was said in it.

    Attributes:
        frames: All that was written, the effect of `seq` n at n - 1.
    """

    def __init__(self, writer: RecordingWriter, key: str) -> None:
        self._writer = writer
        self.key = key
        self.conversation = Conversation(writer, key)
        self.conversation.claim()
        self.frames: list[Frame] = []

    def ask(self, text: str, *, request_id: str | None = None, begins: bool = True) -> EventRecord:
        """Commit a message with its input, and its first attempt if it `begins`."""
        event = make_user_message(self.conversation.last_event_seq + 1, text, request_id=request_id)
        frame = make_input(event_seq=event.seq, request_id=request_id, message=text, origin="c1")
        write = self.conversation.make_write(
            events=[event], frames=[frame], turn_starts=[TurnStart(event_seq=event.seq, attempt=1)] if begins else []
        )
        key = make_input_key(event.id)
        effects = (msgspec.structs.replace(write.effects[0], dedupe_key=key),)
        self.conversation.commit(replace(write, effects=effects))
        self.frames.append(frame)
        return event

    def begin(self, event: EventRecord) -> None:
        """Commit the first attempt at a message that has waited."""
        start = TurnStart(event_seq=event.seq, attempt=1)
        self.conversation.commit(self.conversation.make_write(turn_starts=[start]))

    def stream(self, event: EventRecord, *values: str, attempt: int = 1) -> None:
        """Commit tokens."""
        self._commit([self._token(event, value, attempt) for value in values])

    def lose(self, event: EventRecord, *, attempt: int) -> None:
        """Commit that an attempt begins after one that was lost and had shown something."""
        frame = make_restarted(event_seq=event.seq, attempt=attempt, request_id=event.request_id)
        start = TurnStart(event_seq=event.seq, attempt=attempt)
        self.conversation.commit(self.conversation.make_write(frames=[frame], turn_starts=[start]))
        self.frames.append(frame)

    def cancel(self, event: EventRecord) -> None:
        """Commit a cancel of a message."""
        assert event.request_id is not None
        cancel = make_cancel(self.conversation.last_event_seq + 1, event.request_id)
        self.conversation.commit(self.conversation.make_write(events=[cancel]))

    def end(
        self,
        event: EventRecord,
        *values: str,
        status: TurnStatus = TurnStatus.COMPLETED,
        attempt: int = 1,
        answer: str | None = None,
        state: object = None,
        processed: int | None = None,
    ) -> None:
        """Commit the last tokens and the end of a turn, with a checkpoint if there is a `state`."""
        frames: list[Frame] = [self._token(event, value, attempt) for value in values]
        request_id = event.request_id
        if status is TurnStatus.COMPLETED:
            text = "".join(values) if answer is None else answer
            frames.append(
                make_message(
                    event_seq=event.seq,
                    attempt=attempt,
                    request_id=request_id,
                    message=text,
                    latency_ms=12,
                    usage=USAGE,
                )
            )
        elif status is TurnStatus.CANCELLED:
            frames.append(make_cancelled(event_seq=event.seq, attempt=attempt, request_id=request_id))
        else:
            frames.append(
                make_error(
                    event_seq=event.seq,
                    attempt=attempt,
                    request_id=request_id,
                    code="agent_error",
                    message="it failed",
                    retryable=False,
                )
            )
        checkpoint = None if state is None else make_checkpoint(event.seq, state)
        write = self.conversation.make_write(
            frames=frames,
            processed=event.seq if processed is None else processed,
            turn_ends=[TurnEnd(event_seq=event.seq, attempt=attempt, status=status, latency_ms=12)],
            checkpoint=checkpoint,
        )
        if checkpoint is not None:
            last = msgspec.structs.replace(write.effects[-1], checkpoint_id=checkpoint.checkpoint_id)
            write = replace(write, effects=(*write.effects[:-1], last))
        self.conversation.commit(write)
        self.frames += frames

    def exchange(self, text: str, *values: str, state: object = None) -> EventRecord:
        """Commit a message and its answer."""
        event = self.ask(text)
        self.end(event, *values, state=state)
        return event

    def deliver(self, to_seq: int, *, executing_to: int | None = None) -> None:
        """Report effects as delivered, and those after them, if so, as handed to a connection."""
        self._writer.deliver(self.conversation.delivery(1, to_seq, EffectStatus.COMPLETED))
        if executing_to is not None:
            self._writer.deliver(self.conversation.delivery(to_seq + 1, executing_to, EffectStatus.EXECUTING))

    def _commit(self, frames: Sequence[Frame]) -> None:
        self.conversation.commit(self.conversation.make_write(frames=frames))
        self.frames += frames

    def _token(self, event: EventRecord, value: str, attempt: int) -> Frame:
        return make_token(event_seq=event.seq, attempt=attempt, request_id=event.request_id, value=value)


def tell_all_kinds(talk: StoredTalk) -> None:
    """Fill a session with turns of all kinds; the numbers are the effects'.

    event 1: 1 input, 2 3 tokens, 4 message          event 5: 13 input, 14 15 tokens, 16 message
    event 2: 5 input, 6 token, 7 cancelled (by 3)    event 6: 17 input, 18 token, runs
    event 4: 8 input, 9 token, 10 restarted, 11 token, 12 error          event 7: 19 input, waits

    Up to 16 they are delivered, 17 and 18 are with a connection.
    """
    talk.exchange("one", "He", "llo", state={"turns": 1})
    second = talk.ask("two", request_id="r2")
    talk.stream(second, "so far")
    talk.cancel(second)
    talk.end(second, status=TurnStatus.CANCELLED, processed=3)
    fourth = talk.ask("four", request_id="r4")
    talk.stream(fourth, "lost")
    talk.lose(fourth, attempt=2)
    talk.end(fourth, "again", status=TurnStatus.FAILED, attempt=2)
    talk.exchange("five", "Bye ", "🎭", state={"turns": 2})
    sixth = talk.ask("six", request_id="r6")
    talk.stream(sixth, "on my")
    talk.ask("seven", request_id="r7", begins=False)
    talk.deliver(16, executing_to=18)
