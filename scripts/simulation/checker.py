"""Judges a history once all has healed, from the rows and from what clients saw: the invariants I1-I10."""

from collections.abc import Sequence

from scripts.simulation.client import Client, Violation
from scripts.simulation.store import Store
from scripts.simulation.stored_session import TERMINAL
from storage.records import EffectStatus, EventType


def check_history(store: Store, clients: Sequence[Client]) -> None:
    """Check all of it.

    Raises:
        Violation: At the first thing that is not as it must be.
        AssertionError: The same, of one session's rows (`StoredSession.check`).
    """
    for session_key, session in store.sessions.items():
        require(len({event.id for event in session.events}) == len(session.events), "I1: an event is there twice")
        require_same(len({e.dedupe_key for e in session.effects}), len(session.effects), "I3: dedupe keys")
        session.check()
        require(all(epoch == granted for epoch, granted in session.epochs), "I8: a former owner committed")
        require_same(session.list_unanswered(), [], "I10: messages without an outcome")
        require_same(session.processed_event_seq, len(session.events), "I10: events not processed")
        stuck = [s for s in store.statuses[session_key] if s is EffectStatus.EXECUTING]
        watched = any(client.session_key == session_key for client in clients)
        require(not stuck or not watched, f"I6: {len(stuck)} effects are stuck")
        named = {e.checkpoint_id for e in session.effects if e.checkpoint_id is not None}
        require_same(named, {kept.checkpoint_id for kept in session.checkpoints}, "I7: checkpoints")
        check_epochs(store, session_key)
    for client in clients:
        check_client(store, client)


def check_epochs(store: Store, session_key: str) -> None:
    """I8: each epoch was granted to one."""
    epochs = [epoch for key, _, epoch in store.claims if key == session_key]
    require_same(epochs, sorted(set(epochs)), "I8: epochs granted")


def check_client(store: Store, client: Client) -> None:
    """I1, I4, I10: what a client was told is so, it has seen all of it, once and in order, and each request ended."""
    session = store.sessions[client.session_key]
    stored = [(effect.seq, effect.seq, effect.payload) for effect in session.effects]
    seen = [(effect.from_seq, effect.seq, effect.payload) for effect in client.applied]
    require_same(seen, stored, f"I4: what {client.name} applied")
    events = {event.request_id: event for event in session.events if event.type is EventType.USER_MESSAGE}
    ends = {
        effect.payload.get("requestId"): effect.payload["type"]
        for effect in session.effects
        if effect.payload["type"] in TERMINAL
    }
    for request in client.requests.values():
        if request.is_accepted:
            require(request.request_id in events, f"I1: {request.request_id} was accepted and is not there")
            require_same(events[request.request_id].payload["message"], request.text, "I1: text")
        if request.refusal is None:
            require_same(request.end, ends.get(request.request_id), f"I10: the end of {request.request_id}")
            require(request.end is not None, f"I10: {request.request_id} has no end")
        else:
            require(request.request_id not in events, f"I10: {request.request_id} was refused and is there")


def require(condition: bool, text: str) -> None:
    """Raise Violation unless it is so."""
    if not condition:
        raise Violation(text)


def require_same(found: object, expected: object, text: str) -> None:
    """Raise Violation unless both are equal; the text says where they part."""
    if found != expected:
        raise Violation(f"{text}: {describe_difference(found, expected)}")


def describe_difference(found: object, expected: object) -> str:
    """Return where two differ, in a line."""
    if isinstance(found, list) and isinstance(expected, list):
        for place, (one, other) in enumerate(zip(found, expected, strict=False)):
            if one != other:
                return f"at {place}: {one} instead of {other}"
        return f"{len(found)} instead of {len(expected)}"
    return f"{shorten(found)} instead of {shorten(expected)}"


def shorten(value: object) -> str:
    """Return a value's text, at most 200 characters."""
    text = repr(sorted(value, key=str) if isinstance(value, set | frozenset) else value)
    return text if len(text) <= 200 else f"{text[:200]}..."
