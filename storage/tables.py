"""The tables as peewee models. Names and columns are a contract; storage/SCHEMA.md says what each is for.

The models are bound to no database: a store binds each query to its own. Migrations hold frozen copies.
"""

import peewee
from playhouse.postgres_ext import DateTimeTZField

from storage.records import EffectStatus, TurnStatus


class Event(peewee.Model):
    """An inbound fact."""

    id = peewee.UUIDField(primary_key=True)
    session_key = peewee.TextField()
    seq = peewee.BigIntegerField()
    type = peewee.TextField()
    payload = peewee.JSONField()
    request_id = peewee.TextField(null=True)
    created_at = DateTimeTZField()

    class Meta:
        table_name = "events"
        indexes = ((("session_key", "seq"), True), (("session_key", "request_id"), True))


class Effect(peewee.Model):
    """The outbox: one frame for a session's clients."""

    id = peewee.UUIDField(primary_key=True)
    session_key = peewee.TextField()
    seq = peewee.BigIntegerField()
    checkpoint_id = peewee.UUIDField(null=True)
    type = peewee.TextField()
    payload = peewee.JSONField()
    dedupe_key = peewee.TextField(unique=True)
    status = peewee.TextField(choices=[(status.value, status.name) for status in EffectStatus])
    attempt_count = peewee.IntegerField()
    last_attempt_at = DateTimeTZField(null=True)
    created_at = DateTimeTZField()
    updated_at = DateTimeTZField()

    class Meta:
        table_name = "effects"
        indexes = ((("session_key", "seq"), True),)


class Session(peewee.Model):
    """A conversation: its counters, its cursors, its owner."""

    session_key = peewee.TextField(primary_key=True)
    user_id = peewee.TextField()
    agent_id = peewee.TextField()
    thread_id = peewee.TextField()
    last_event_seq = peewee.BigIntegerField()
    processed_event_seq = peewee.BigIntegerField()
    last_effect_seq = peewee.BigIntegerField()
    delivered_effect_seq = peewee.BigIntegerField()
    owner = peewee.TextField(null=True)
    epoch = peewee.BigIntegerField()
    created_at = DateTimeTZField()
    last_active_at = DateTimeTZField()
    compacted_effect_seq = peewee.BigIntegerField()
    purged_event_seq = peewee.BigIntegerField()

    class Meta:
        table_name = "sessions"


class Node(peewee.Model):
    """A server process, and until when it may be taken to live."""

    node_id = peewee.TextField(primary_key=True)
    started_at = DateTimeTZField()
    renewed_at = DateTimeTZField()
    lingers_until = DateTimeTZField()
    expires_at = DateTimeTZField()

    class Meta:
        table_name = "nodes"


class Checkpoint(peewee.Model):
    """An agent's state after a turn."""

    checkpoint_id = peewee.UUIDField(primary_key=True)
    session_key = peewee.TextField()
    event_seq = peewee.BigIntegerField()
    state = peewee.JSONField()
    created_at = DateTimeTZField()

    class Meta:
        table_name = "checkpoints"
        indexes = ((("session_key", "event_seq"), True),)


class OperatorAction(peewee.Model):
    """What an operator did by hand."""

    id = peewee.UUIDField(primary_key=True)
    action = peewee.TextField()
    operator = peewee.TextField()
    session_key = peewee.TextField(null=True)
    event_seq = peewee.BigIntegerField(null=True)
    details = peewee.JSONField()
    created_at = DateTimeTZField()

    class Meta:
        table_name = "operator_actions"


class TurnAttempt(peewee.Model):
    """An attempt at a turn and its outcome."""

    session_key = peewee.TextField()
    event_seq = peewee.BigIntegerField()
    attempt = peewee.IntegerField()
    status = peewee.TextField(choices=[(status.value, status.name) for status in TurnStatus])
    error = peewee.TextField(null=True)
    latency_ms = peewee.IntegerField(null=True)
    token_usage = peewee.JSONField(null=True)
    started_at = DateTimeTZField()
    finished_at = DateTimeTZField(null=True)

    class Meta:
        table_name = "turns"
        primary_key = peewee.CompositeKey("session_key", "event_seq", "attempt")


TABLE_NAMES = tuple(
    model._meta.table_name for model in (Event, Effect, Session, Checkpoint, TurnAttempt, Node, OperatorAction)
)
"""The names of all of them."""
