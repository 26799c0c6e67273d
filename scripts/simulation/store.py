"""The database in memory: sessions with their owners and outboxes, and the nodes' leases, on a virtual clock."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from scripts.simulation.bugs import Bug
from scripts.simulation.stored_session import StoredSession, StoredSessions, WriteOutcome
from storage.node_store import LEASE_S, LINGER_S
from storage.outbox_records import NO_LOG, OpenTurn, OutboxEffect, OutboxPage, OutboxSubscription, SubscriptionRefusal
from storage.records import (
    EffectsDelivery,
    EffectStatus,
    EventType,
    Report,
    SessionClaimed,
    SessionHeld,
    SessionWrite,
    WriteCommitted,
)

STARTS = {
    EffectStatus.PENDING: (EffectStatus.EXECUTING,),
    EffectStatus.EXECUTING: (EffectStatus.PENDING,),
    EffectStatus.COMPLETED: (EffectStatus.PENDING, EffectStatus.EXECUTING),
}


@dataclass(slots=True)
class Lease:
    """A node's: until when it lingers without a connection, and until when it lasts with one."""

    lingers_until_s: float
    expires_at_s: float
    is_connected: bool = True


@dataclass(slots=True)
class Store:
    """All rows.

    Attributes:
        clock: The virtual time, in seconds; the database's own, and everybody's.
        bug: What is wrong with it.
        is_down: True while nobody gets an answer.
        is_read_only: True while it takes no writes.
        claims: Who was granted which epoch of which session, in order.
    """

    clock: Callable[[], float]
    chance: random.Random
    bug: Bug | None = None
    sessions: StoredSessions = field(default_factory=StoredSessions)
    owners: dict[str, str | None] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    statuses: defaultdict[str, list[EffectStatus]] = field(default_factory=lambda: defaultdict(list))
    delivered: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    claims: list[tuple[str, str, int]] = field(default_factory=list)
    is_down: bool = False
    is_read_only: bool = False

    # Nodes

    def renew(self, node_id: str) -> None:
        """As `NodeStore.renew`."""
        now_s = self.clock()
        self.leases[node_id] = Lease(now_s + LINGER_S, now_s + LEASE_S)

    def is_alive(self, node_id: str) -> bool:
        """As the view `live_nodes`."""
        lease, now_s = self.leases.get(node_id), self.clock()
        return (
            lease is not None and lease.expires_at_s > now_s and (lease.is_connected or lease.lingers_until_s > now_s)
        )

    def disconnect(self, node_id: str) -> None:
        """A node's connection is gone."""
        if node_id in self.leases:
            self.leases[node_id].is_connected = False

    def bury_dead(self, node_id: str) -> list[str]:
        """As `NodeStore.bury_dead`."""
        dead = [other for other in self.leases if other != node_id and not self.is_alive(other)]
        for other in dead:
            del self.leases[other]
        if dead:
            for key, statuses in self.statuses.items():
                for place in range(self.delivered[key], len(statuses)):
                    if statuses[place] is EffectStatus.EXECUTING:
                        statuses[place] = EffectStatus.PENDING
        return dead

    def find_orphaned(self, node_id: str, limit: int, besides: Sequence[str] = ()) -> list[str]:
        """As `SessionStore.find_orphaned`."""
        return [
            key
            for key, session in self.sessions.items()
            if session.processed_event_seq < len(session.events)
            and self.owners.get(key) != node_id
            and not self.is_alive(self.owners.get(key) or "")
            and key not in besides
        ][:limit]

    # Writes

    def claim(self, session_key: str, node_id: str) -> SessionClaimed | SessionHeld:
        """As the writer carries out a claim."""
        owner = self.owners.get(session_key)
        if owner is not None and owner != node_id and self.is_alive(owner):
            return SessionHeld(session_key=session_key, is_dying=not self.leases[owner].is_connected)
        claimed = self.sessions[session_key].claim()
        self.owners[session_key] = node_id
        self.claims.append((session_key, node_id, claimed.snapshot.epoch))
        return claimed

    def apply(self, write: SessionWrite, *, is_repeated: bool = False) -> WriteOutcome:
        """As the writer carries out a write.

        Args:
            write: What.
            is_repeated: True if it was carried out before, perhaps.
        """
        session = self.sessions[write.session_key]
        if self.bug is Bug.NO_FENCE and write.epoch < session.epoch:
            return self._force(session, write)
        if self.bug is Bug.BLIND_RETRY and is_repeated and write.last_effect_seq <= len(session.effects):
            return self._force(session, write)
        outcome = session.apply(write)
        self._note_effects(session)
        return outcome

    def _force(self, session: StoredSession, write: SessionWrite) -> WriteCommitted:
        """Carry a write out that does not apply, after what there is."""
        session.epochs.append((write.epoch, session.epoch))
        base = len(session.events)
        session.events += [replace(event, seq=base + place) for place, event in enumerate(write.events, start=1)]
        for effect in write.effects:
            session.effects.append(
                type(effect)(
                    seq=len(session.effects) + 1,
                    type=effect.type,
                    payload=effect.payload,
                    dedupe_key=effect.dedupe_key,
                    checkpoint_id=effect.checkpoint_id,
                )
            )
        self._note_effects(session)
        return WriteCommitted(write=write)

    def _note_effects(self, session: StoredSession) -> None:
        statuses = self.statuses[session.session_key]
        statuses += [EffectStatus.PENDING] * (len(session.effects) - len(statuses))

    def take_report(self, report: Report, node_id: str) -> None:
        """As the writer carries out a delivery report or a release."""
        key = report.session_key
        if not isinstance(report, EffectsDelivery):
            if self.owners.get(key) == node_id and self.sessions[key].epoch == report.epoch:
                self.owners[key] = None
            return
        statuses = self.statuses[key]
        for place in range(report.from_seq - 1, min(report.to_seq, len(statuses))):
            if statuses[place] in STARTS[report.status]:
                statuses[place] = report.status
        if report.status is EffectStatus.COMPLETED:
            self.delivered[key] = max(self.delivered[key], report.to_seq)

    # Reads

    def read_heads(self, session_keys: Sequence[str]) -> dict[str, int]:
        """As `OutboxStore.read_heads`."""
        return {key: len(self.sessions[key].effects) for key in session_keys if key in self.sessions}

    def read_log(self, session_key: str, after: int, limit: int) -> OutboxPage:
        """As `OutboxStore.read_log`."""
        effects = self.sessions[session_key].effects
        page = tuple(
            OutboxEffect(seq=effect.seq, from_seq=effect.seq, payload=effect.payload)
            for effect in effects[after : after + limit]
        )
        return OutboxPage(effects=page, complete=after + limit >= len(effects), head=len(effects))

    def read_subscription(self, session_key: str, after: int | None, limit: int) -> OutboxSubscription:
        """As `OutboxStore.read_subscription`."""
        session = self.sessions.get(session_key)
        if session is None or not session.epoch:
            page = OutboxPage(effects=(), complete=True, head=0)
            refusal = SubscriptionRefusal.BEYOND_HEAD if after else None
            return OutboxSubscription(log=NO_LOG, after=0, delivered_seq=0, page=page, refusal=refusal)
        place = after if after is not None else self._find_place(session)
        refused = place > len(session.effects)
        return OutboxSubscription(
            log=session_key,
            after=0 if refused else place,
            delivered_seq=self.delivered[session_key],
            page=self.read_log(session_key, 0 if refused else place, limit),
            open_turns=tuple(
                OpenTurn(request_id=event.request_id, attempt=0)
                for event in session.events[session.processed_event_seq :]
                if event.type is EventType.USER_MESSAGE
            ),
            refusal=SubscriptionRefusal.BEYOND_HEAD if refused else None,
        )

    def _find_place(self, session: StoredSession) -> int:
        open_seqs = set(session.list_unanswered())
        first = next((e.seq for e in session.effects if e.payload["eventSeq"] in open_seqs), len(session.effects) + 1)
        return min(self.delivered[session.session_key], first - 1)
