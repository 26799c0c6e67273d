"""Any interleaving of people, agent, storage and crashes, against a model of storage."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.agents.protocol import TokenUsage
from actors.messages import AgentFailed, AgentFinished, ConfirmClaim, SubmitCancel, SubmitUserMessage, TokenProduced
from actors.session_state import Phase
from actors.session_steps import HOLD_CHARS
from actors.session_write import MAX_ATTEMPTS
from storage.records import WriteCommitted, WriteDuplicated, WriteFenced, WriteRefused
from tests.unit.session_model import KEY, TERMINAL, SessionPlay

QUEUE_LIMIT = 2

request_ids = st.sampled_from(["r1", "r2", "r3"])
texts = st.sampled_from(["hello", "other"])


class SessionMachine(RuleBasedStateMachine):
    """Each rule is one thing that can happen next; each assertion holds after all of them."""

    @initialize(coalesce_tokens=st.booleans())
    def begin(self, coalesce_tokens: bool) -> None:
        self.play = SessionPlay(queue_limit=QUEUE_LIMIT, coalesce_tokens=coalesce_tokens)
        self.lost: set[str] = set()  # submissions whose answers a crash may have swallowed

    # People

    @rule(text=texts, request_id=st.none() | request_ids)
    def say(self, text: str, request_id: str | None) -> None:
        self.play.say(text, request_id)

    @rule(request_id=request_ids)
    def cancel(self, request_id: str) -> None:
        self.play.cancel(request_id)

    # The agent

    @precondition(lambda self: self.play.agent is not None)
    @rule(values=st.lists(st.sampled_from(["a", "b", "much"]), min_size=1, max_size=3))
    def stream(self, values: list[str]) -> None:
        for value in values:
            self.play.stream("c" * HOLD_CHARS if value == "much" else value)

    @precondition(lambda self: self.play.agent is not None)
    @rule(
        checkpoint=st.none() | st.integers(0, 9),
        usage=st.none() | st.just(TokenUsage(prompt_tokens=1, completion_tokens=2)),
    )
    def finish(self, checkpoint: int | None, usage: TokenUsage | None) -> None:
        self.play.finish(checkpoint=checkpoint, usage=usage)

    @precondition(lambda self: self.play.agent is not None)
    @rule()
    def fail(self) -> None:
        self.play.fail()

    @precondition(lambda self: self.play.agent is None and self.play.last_run is not None)
    @rule()
    def hear_from_an_agent_that_has_ended(self) -> None:
        run, before = self.play.last_run, self.play.state
        assert run is not None
        for message in (
            TokenProduced(run=run, text="stale"),
            AgentFinished(run=run, checkpoint="stale", usage=None),
            AgentFailed(run=run, code="agent_error", message="stale", detail="stale", retryable=False),
        ):
            assert self.play.tell(message) == []
            assert self.play.state == before

    # Storage

    @precondition(lambda self: self.play.is_claiming)
    @rule()
    def grant_claim(self) -> None:
        self.play.grant_claim()

    @rule()
    def confirm_claim(self) -> None:
        self.play.tell(ConfirmClaim())

    @precondition(lambda self: self.play.write is not None)
    @rule(times=st.integers(1, 2))
    def commit(self, times: int) -> None:
        before = self.play.state
        outcome = self.play.commit(times=times)
        assert not isinstance(outcome, WriteRefused), outcome.reason
        assert isinstance(outcome, WriteCommitted | WriteDuplicated | WriteFenced)
        if isinstance(outcome, WriteFenced):
            assert before.epoch < self.play.stored.epoch
            self._lose_the_unanswered()

    # Ends of an actor: one rule, so that sessions live long enough to get into trouble

    @precondition(lambda self: self.play.state.phase is not Phase.LEFT)
    @rule(end=st.sampled_from(["crash", "crash after commit", "refusal", "other node", "halt", "failure"]))
    def end_actor(self, end: str) -> None:
        play = self.play
        if end == "refusal" and play.write is not None:
            play.take_write()
            play.tell(WriteRefused(session_key=KEY, reason="refused"))
            assert play.left is not None
            assert play.left.restart
        elif end == "other node":
            play.stored.claim()  # which the next write finds out
        elif end == "halt":
            play.halt()
            self._lose_the_unanswered()
        elif end == "failure":
            play.abandon()
            self._lose_the_unanswered()
        else:
            if play.write is not None and end == "crash after commit":
                play.stored.apply(play.take_write())
            self._lose_the_unanswered()
            play.begin_anew()

    @precondition(lambda self: self.play.state.phase is Phase.LEFT)
    @rule()
    def begin_anew(self) -> None:
        if self.play.write is not None:
            self.play.stored.apply(self.play.take_write())
        self.play.begin_anew()

    def _lose_the_unanswered(self) -> None:
        self.lost |= {name for name in self.play.submissions if not self.play.answers[name]}

    # What always holds; SessionPlay asserts more as it happens

    @invariant()
    def rows_are_consistent(self) -> None:
        self.play.stored.check()

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        for name in self.play.submissions:
            assert len(self.play.answers[name]) <= 1

    @invariant()
    def something_is_under_way_unless_all_is_done(self) -> None:
        play = self.play
        if play.state.phase is Phase.ACTIVE:
            assert (play.write is not None) is (play.state.in_flight is not None)
            assert play.state.is_idle is (play.write is None and play.agent is None)
            if play.write is None and play.agent is None and play.stored.epoch == play.state.epoch:
                assert play.stored.list_unanswered() == []
                assert play.stored.processed_event_seq == len(play.stored.events)
        if play.is_held:
            assert play.write is not None, "nobody would let the agent go on"

    @invariant()
    def waiting_messages_are_limited(self) -> None:
        # One that runs, those that wait behind it, and as many again that came while the session was being claimed.
        assert len(self.play.stored.list_unanswered()) <= 2 * (QUEUE_LIMIT + 1)

    @invariant()
    def attempts_are_limited(self) -> None:
        assert all(count == 1 for count in Counter(self.play.runs).values())
        assert all(attempt <= MAX_ATTEMPTS for _, attempt in self.play.runs)

    def teardown(self) -> None:
        play = self.play
        play.settle()
        play.stored.check()
        assert play.stored.list_unanswered() == []
        assert play.stored.processed_event_seq == len(play.stored.events)
        assert not play.is_held
        self._check_answers()

    def _check_answers(self) -> None:
        """Each submission was accepted, or refused, or was the same as one before, or fell into a crash."""
        play = self.play
        stored = {event.id: event for event in play.stored.events}
        terminal = Counter(
            effect.payload["eventSeq"] for effect in play.stored.effects if effect.payload["type"] in TERMINAL
        )
        for name, submitted in play.submissions.items():
            codes = play.codes(submitted)
            event = stored.get(submitted.event_id)
            if isinstance(submitted, SubmitCancel):
                assert codes in ([], ["already_finished"]) or event is None
            elif event is not None:
                assert terminal[event.seq] == 1
                assert codes == ["accepted"] or (name in self.lost and codes == [])
            elif codes == []:
                assert name in self.lost or self._is_repetition(submitted)
            else:
                assert codes != ["accepted"]

    def _is_repetition(self, submitted: SubmitUserMessage) -> bool:
        return submitted.request_id is not None and any(
            event.request_id == submitted.request_id and event.payload["message"] == submitted.text
            for event in self.play.stored.events
        )


TestSession = SessionMachine.TestCase
TestSession.settings = settings(deadline=None, derandomize=True, max_examples=250, stateful_step_count=50)
