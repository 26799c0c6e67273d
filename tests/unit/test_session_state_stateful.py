"""Any interleaving of people, agents, storage, crashes and a second owner, against a model of storage.

The invariants are those of DESIGN, section 8, as far as a session answers for them: I1-I4, I7-I10. What can be told
from one write or command alone is asserted in `session_model`, as it comes.
"""

from collections import Counter
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.agents.protocol import TokenUsage
from actors.messages import AgentFailed, AgentFinished, ConfirmClaim, SubmitCancel, SubmitUserMessage, TokensProduced
from actors.session_commands import Accepted, Unexpected
from actors.session_state import Phase, Situation
from actors.session_turn import HOLD_CHARS
from scripts.simulation.stored_session import TERMINAL, WriteOutcome
from storage.records import (
    CANCEL_PREFIX,
    EffectRecord,
    EventRecord,
    EventType,
    JsonDocument,
    TurnStatus,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
)
from tests.examples import count_examples
from tests.unit.session_model import KEY, MOST_ATTEMPTS, RETRIES, SessionPlay

QUEUE_LIMIT = 3

request_ids = st.sampled_from(["r1", "r2", "r3"])
texts = st.sampled_from(["hello", "hello", "other"])
answers = st.integers(0, 3)


def confirm_claim(play: SessionPlay) -> None:
    play.tell(ConfirmClaim())


def carry_out_a_stray(play: SessionPlay) -> None:
    if play.strays:
        play.stored.apply(play.strays.pop(0))


def hear_from_an_agent_that_has_ended(play: SessionPlay) -> None:
    before = play.state
    if play.last_run is None:
        return
    run = play.last_run if play.agent is None else play.last_run - 1
    for message in (
        TokensProduced(run=run, texts=("stale",)),
        AgentFinished(run=run, checkpoint="stale", usage=None),
        AgentFailed(run=run, code="agent_timeout", message="stale", detail="stale", retryable=False),
    ):
        with play.sound():
            assert play.tell(message) == []
        assert play.state == before


def refuse_write(play: SessionPlay) -> None:
    """Storage refuses a write or a claim for good."""
    if play.write is not None or (play.is_claiming and play.state.phase is Phase.CLAIMING):
        play.write = None
        play.tell(WriteRefused(session_key=KEY, reason="refused"))
        assert play.left is not None
        assert play.left.restart


class SessionMachine(RuleBasedStateMachine):
    """Each rule is one thing that can happen next on the node looked at; each assertion holds after all of them.

    Hypothesis favours no rule and leaves some out of each example. So what goes wrong is one rule, and after most of
    the others storage answers a few times: sessions live long enough to get into trouble.
    """

    @initialize(coalesce_tokens=st.booleans(), past=st.sampled_from(["none", "claimed", "crashed"]))
    def begin(self, coalesce_tokens: bool, past: str) -> None:
        self.play = SessionPlay(queue_limit=QUEUE_LIMIT, coalesce_tokens=coalesce_tokens)
        self.other = SessionPlay(queue_limit=QUEUE_LIMIT, coalesce_tokens=coalesce_tokens, beside=self.play)
        self.stored = self.play.stored
        self.last_report: WriteOutcome | None = None
        self.seen_events: list[EventRecord] = []
        self.seen_effects: list[EffectRecord] = []
        self.seen_payloads: dict[str, JsonDocument] = {}
        if past != "none":
            self.play.grant_claim()
        if past == "crashed":  # and both nodes want the session
            self.play.say("hello", "r1")
            self.play.commit()
            self.play.stream("lost")
            self.play.commit()
            self.play.begin_anew()

    # People

    @rule(text=texts, request_id=st.none() | request_ids, answers=answers)
    def say(self, text: str, request_id: str | None, answers: int) -> None:
        self.play.say(text, request_id)
        self.have_storage_answer(answers)

    @rule(request_id=request_ids, answers=answers)
    def cancel(self, request_id: str, answers: int) -> None:
        self.play.cancel(request_id)
        hear_from_an_agent_that_has_ended(self.play)
        self.have_storage_answer(answers)

    # The agent

    @precondition(lambda self: self.play.agent is not None)
    @rule(values=st.lists(st.sampled_from(["a", "b", "much"]), min_size=1, max_size=3), answers=answers)
    def stream(self, values: list[str], answers: int) -> None:
        self.play.stream(*["c" * HOLD_CHARS if value == "much" else value for value in values])
        self.have_storage_answer(answers)

    @precondition(lambda self: self.play.agent is not None)
    @rule(request_id=request_ids, answers=answers)
    def stream_while_people_repeat_themselves(self, request_id: str, answers: int) -> None:
        """So that a write that is not carried out, for a request that is known, holds more than that."""
        self.play.stream("a")
        self.play.say("hello", request_id)
        self.play.say("hello")
        if self.play.agent is not None:  # it ends with an actor that fails
            self.play.stream("b")
        self.have_storage_answer(1)
        self.play.say("hello")
        self.have_storage_answer(answers)

    @precondition(lambda self: self.play.agent is not None)
    @rule(
        end=st.sampled_from(["finish", "finish", "agent_error", "agent_timeout"]),
        checkpoint=st.none() | st.integers(0, 9),
        usage=st.none() | st.just(TokenUsage(prompt_tokens=1, completion_tokens=2)),
        answers=answers,
    )
    def conclude(self, end: str, checkpoint: int | None, usage: TokenUsage | None, answers: int) -> None:
        if end == "finish":
            self.play.finish(checkpoint=checkpoint, usage=usage)
        else:
            self.play.fail(code=end, retryable=end == "agent_timeout", is_final=end == "agent_timeout")
        hear_from_an_agent_that_has_ended(self.play)
        self.have_storage_answer(answers)

    @precondition(lambda self: self.play.rest is not None)
    @rule(answers=answers)
    def end_rest(self, answers: int) -> None:
        """Whether the turn that rested is still there or not."""
        self.play.end_rest()
        self.have_storage_answer(answers)

    # Storage

    @precondition(lambda self: self.play.is_claiming or self.play.write is not None or self.play.outcome is not None)
    @rule(answers=st.integers(1, 3))
    def have_storage_answer(self, answers: int) -> None:
        for _ in range(answers):
            if self.play.is_claiming:
                self.play.grant_claim()
            elif self.play.write is not None:
                self.play.carry_out_write()
            if self.play.outcome is not None:
                self._hear_outcome()

    def _hear_outcome(self) -> None:
        before = self.play.state
        outcome = self.last_report = self.play.report()
        assert not isinstance(outcome, WriteRefused), outcome.reason
        if isinstance(outcome, WriteFenced):
            assert before.epoch < self.stored.epoch, "I8: only a later owner fences"
            assert self.play.left is not None
            is_undone = before.turn is not None or bool(before.queue)
            assert self.play.left.restart or not is_undone, "who does it now is found out by a claim"
        elif isinstance(outcome, WriteDuplicated) and before.epoch == self.stored.epoch:
            assert before.in_flight is not None
            for submitted in before.in_flight.submitted:
                self._check_repetition(submitted, outcome.known)

    def _check_repetition(self, submitted: SubmitUserMessage | SubmitCancel, known: tuple[EventRecord, ...]) -> None:
        """I10: who says again what has ended is told so, and so is who says again what has not."""
        for event in known:
            if isinstance(submitted, SubmitUserMessage) and event.request_id == submitted.request_id:
                has_ended = event.seq <= self.stored.processed_event_seq
                expected = ["repeated_finished" if has_ended else "repeated"]
                assert self.play.codes(submitted) == (
                    expected if event.payload["message"] == submitted.text else ["conflict"]
                )

    @precondition(lambda self: self.play.write is not None)
    @rule(times=st.integers(1, 2))
    def have_storage_work_without_an_answer(self, times: int) -> None:
        """More than once if it did not hear that it had committed."""
        self.play.carry_out_write(times=times)

    # Trouble

    @precondition(lambda self: self.play.state.phase is Phase.LEFT)
    @rule(answers=answers)
    def begin_anew(self, answers: int) -> None:
        self.play.begin_anew()
        self.have_storage_answer(answers)

    @rule(
        trouble=st.sampled_from(
            [
                SessionPlay.begin_anew,  # a crash
                SessionPlay.halt,
                SessionPlay.break_down,
                confirm_claim,
                carry_out_a_stray,
                hear_from_an_agent_that_has_ended,
                refuse_write,
            ]
        )
    )
    def get_into_trouble(self, trouble: Callable[[SessionPlay], None]) -> None:
        trouble(self.play)

    @rule(calls=st.integers(0, 6), answers=answers)
    def let_the_actor_fail(self, calls: int, answers: int) -> None:
        """At one of the next things that it does, whatever that is: a decision, or what follows from it."""
        self.play.fails_in = calls
        self.have_storage_answer(answers)

    @rule(answers=answers)
    def look_at_the_other_node(self, answers: int) -> None:
        """What the first one was at stays as it is, until it is looked at again."""
        self.play, self.other = self.other, self.play
        self.last_report = None
        self.have_storage_answer(answers)

    @precondition(lambda self: isinstance(self.last_report, WriteCommitted | WriteDuplicated))
    @rule()
    def hear_an_answer_again(self) -> None:
        """Storage never says it twice. Only two writes of nothing are equal, and mean the same."""
        before, outcome = self.play.state, self.last_report
        assert isinstance(outcome, WriteCommitted | WriteDuplicated)
        if before.in_flight is None or before.in_flight.write != outcome.write:
            is_expected = before.phase is Phase.LEFT or self.play.has_failed
            with self.play.sound():
                commands = self.play.tell(outcome)
            assert self.play.state == before
            assert [type(command) for command in commands] == ([] if is_expected else [Unexpected])
            self.play.unexpected.clear()
        self.last_report = None

    # What always holds

    @invariant()
    def rows_are_consistent(self) -> None:
        """I2, I4, I9, I10: what is true of the rows at any time."""
        self.stored.check()

    @invariant()
    def accepted_events_stay_as_they_are(self) -> None:
        """I1: once in there, and for ever; a client that was told `accepted` can rely on it."""
        assert self.stored.events[: len(self.seen_events)] == self.seen_events
        self.seen_events = list(self.stored.events)
        assert len({event.id for event in self.seen_events}) == len(self.seen_events)
        for answers in self.play.answers.values():
            for answer in answers:
                if isinstance(answer, Accepted):
                    event = self.seen_events[answer.event_seq - 1]
                    assert answer.duplicate is (event.id != answer.message.event_id)
                    assert (event.request_id, event.payload["message"]) == (
                        answer.message.request_id,
                        answer.message.text,
                    )

    @invariant()
    def effects_stay_as_they_are(self) -> None:
        """I3, I4: a `seq` and a `dedupe_key` have one content, for ever."""
        assert self.stored.effects[: len(self.seen_effects)] == self.seen_effects
        for effect in self.stored.effects[len(self.seen_effects) :]:
            assert self.seen_payloads.setdefault(effect.dedupe_key, effect.payload) is effect.payload
        self.seen_effects = list(self.stored.effects)

    @invariant()
    def checkpoints_come_with_their_answers(self) -> None:
        """I7: each is named by the message of its turn, and by nothing else."""
        named = {
            effect.checkpoint_id: effect.payload["eventSeq"]
            for effect in self.stored.effects
            if effect.checkpoint_id is not None
        }
        assert named == {kept.checkpoint_id: kept.event_seq for kept in self.stored.checkpoints}

    @invariant()
    def nothing_is_committed_under_an_older_epoch(self) -> None:
        """I8: each write that changed a row had the highest epoch granted."""
        assert all(epoch == granted for epoch, granted in self.stored.epochs)

    @invariant()
    def attempts_are_run_once_and_limited(self) -> None:
        """I9: an attempt is one run of the agent, whoever the owner is."""
        assert all(count == 1 for count in Counter(self.play.runs).values())
        assert all(attempt <= MOST_ATTEMPTS for _, attempt in self.play.runs)
        failed = Counter(seq for (seq, _), status in self.stored.turns.items() if status is TurnStatus.FAILED)
        assert all(count <= 1 + RETRIES for count in failed.values())

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        """I10: a submission is accepted or refused, once."""
        assert all(len(answers) <= 1 for answers in self.play.answers.values())

    @invariant()
    def messages_are_stored_in_their_order(self) -> None:
        """Those of one node, failures of its actors included."""
        for play in (self.play, self.other):
            stored = {event.id for event in self.stored.events}
            expected = [event_id for event_id in play.own_ids if event_id in stored]
            own = set(play.own_ids)
            assert [event.id for event in self.stored.events if event.id in own] == expected

    @invariant()
    def something_is_under_way_unless_all_is_done(self) -> None:
        for play in (self.play, self.other):
            assert play.unexpected == []
            if play.state.phase is not Phase.ACTIVE:
                continue
            is_storing = play.write is not None or play.outcome is not None
            assert is_storing is (play.state.in_flight is not None)
            is_resting = play.state.situation is Situation.BACKING_OFF
            assert play.state.is_idle is (not is_storing and play.agent is None and not is_resting)
            assert not is_resting or play.rest is not None, "nobody would begin the turn that rests"
            assert play.state.is_idle is (play.state.situation is Situation.IDLE)
            assert is_storing or play.state.situation in (
                Situation.IDLE,
                Situation.BACKING_OFF,
                Situation.ANSWERING,
            )
            assert is_storing or not play.state.inbox, "a message waits for nothing"
            assert is_storing or not play.is_held, "nobody would let the agent go on"
            if play.state.is_idle and play.state.epoch == self.stored.epoch:
                self._check_that_all_is_done()

    @invariant()
    def waiting_messages_are_limited(self) -> None:
        assert len(self.stored.list_unanswered()) <= 1 + QUEUE_LIMIT

    # What holds in the end

    def teardown(self) -> None:
        """From any state, actors that get their answers come to rest, and the owner leaves nothing undone."""
        for play in (self.play, self.other):
            play.run_on()
        for play in (self.play, self.other):
            if play.state.phase is Phase.ACTIVE and play.state.epoch == self.stored.epoch:
                self._check_that_all_is_done()
        self.play.begin_anew()
        self.play.run_on()
        self._check_that_all_is_done()
        events, effects = list(self.stored.events), list(self.stored.effects)
        for stray in self.play.strays:
            self.stored.apply(stray)
        assert (self.stored.events, self.stored.effects) == (events, effects), "I8"
        self._check_events()
        for submitted in self.play.submissions.values():
            self._check_answer(submitted)

    def _check_that_all_is_done(self) -> None:
        assert self.stored.list_unanswered() == []
        assert self.stored.processed_event_seq == len(self.stored.events)

    def _find_ends(self) -> dict[int, JsonDocument]:
        frames = [effect.payload for effect in self.stored.effects if effect.payload["type"] in TERMINAL]
        ends = {frame["eventSeq"]: frame for frame in frames}
        assert len(ends) == len(frames)
        return ends

    def _check_events(self) -> None:
        """I9, I10: one outcome each; unless its user stopped it or it was begun too often, by an agent's run."""
        self.stored.check()
        ends = self._find_ends()
        for event in self.stored.events:
            if event.type is EventType.USER_MESSAGE:
                frame = ends.pop(event.seq)
                by_agent = frame["type"] == "message" or frame.get("code") in ("agent_error", "agent_timeout")
                assert not by_agent or (event.seq, frame["attempt"]) in self.play.runs
                assert by_agent or frame["type"] == "cancelled" or frame["code"] == "attempts_exhausted"
        assert not ends

    def _check_answer(self, submitted: SubmitUserMessage | SubmitCancel) -> None:
        """I10: a submission was accepted, or refused, or known before, or its actor ended before it could say."""
        codes = self.play.codes(submitted)
        event = next((event for event in self.stored.events if event.id == submitted.event_id), None)
        is_lost = submitted.connection_id in self.play.lost and codes == []
        if event is None:
            assert codes not in ([], ["accepted"]) or is_lost or (codes == [] and self._is_repetition(submitted))
        elif isinstance(submitted, SubmitUserMessage):
            assert codes == ["accepted"] or is_lost
        else:
            assert codes == (["already_finished"] if self._is_late(submitted) else []) or is_lost

    def _is_repetition(self, submitted: SubmitUserMessage | SubmitCancel) -> bool:
        if isinstance(submitted, SubmitCancel):
            return any(event.request_id == f"{CANCEL_PREFIX}{submitted.request_id}" for event in self.stored.events)
        return submitted.request_id is not None and any(
            event.request_id == submitted.request_id and event.payload["message"] == submitted.text
            for event in self.stored.events
        )

    def _is_late(self, cancel: SubmitCancel) -> bool:
        """Tell whether the request ended by itself, before its cancel was stored."""
        asked = [event for event in self.stored.events if event.request_id == cancel.request_id]
        return bool(asked) and self._find_ends()[asked[0].seq]["type"] != "cancelled"


TestSession = SessionMachine.TestCase
TestSession.settings = settings(max_examples=count_examples(300), stateful_step_count=50)
