"""The first schema: events, effects, sessions, checkpoints, turns."""

from peewee import (
    SQL,
    BigIntegerField,
    Check,
    CompositeKey,
    IntegerField,
    JSONField,
    Model,
    TextField,
    UUIDField,
)
from playhouse.postgres_ext import DateTimeTZField


class Event(Model):
    id = UUIDField(primary_key=True)
    session_key = TextField()
    seq = BigIntegerField(constraints=[Check("seq > 0")])
    type = TextField()
    payload = JSONField()
    request_id = TextField(null=True)
    created_at = DateTimeTZField()

    class Meta:
        table_name = "events"
        indexes = ((("session_key", "seq"), True), (("session_key", "request_id"), True))


class Effect(Model):
    id = UUIDField(primary_key=True)
    session_key = TextField()
    seq = BigIntegerField(constraints=[Check("seq > 0")])
    checkpoint_id = UUIDField(null=True)
    type = TextField()
    payload = JSONField()
    dedupe_key = TextField(unique=True)
    status = TextField(constraints=[Check("status IN ('pending', 'executing', 'completed', 'failed')")])
    attempt_count = IntegerField(constraints=[SQL("DEFAULT 0")])
    last_attempt_at = DateTimeTZField(null=True)
    created_at = DateTimeTZField()
    updated_at = DateTimeTZField()

    class Meta:
        table_name = "effects"
        # No index may name status: it would end HOT updates, and every effect's status changes.
        indexes = ((("session_key", "seq"), True),)


class Session(Model):
    session_key = TextField(primary_key=True)
    user_id = TextField()
    agent_id = TextField()
    thread_id = TextField()
    last_event_seq = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    processed_event_seq = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    last_effect_seq = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    delivered_effect_seq = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    owner = TextField(null=True)
    epoch = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    created_at = DateTimeTZField()
    last_active_at = DateTimeTZField()

    class Meta:
        table_name = "sessions"
        constraints = (
            Check("processed_event_seq BETWEEN 0 AND last_event_seq"),
            Check("delivered_effect_seq BETWEEN 0 AND last_effect_seq"),
        )


class Checkpoint(Model):
    checkpoint_id = UUIDField(primary_key=True)
    session_key = TextField()
    event_seq = BigIntegerField()
    state = JSONField()
    created_at = DateTimeTZField()

    class Meta:
        table_name = "checkpoints"
        indexes = ((("session_key", "event_seq"), True),)


class TurnAttempt(Model):
    session_key = TextField()
    event_seq = BigIntegerField()
    attempt = IntegerField()
    status = TextField(constraints=[Check("status IN ('running', 'completed', 'cancelled', 'failed')")])
    error = TextField(null=True)
    latency_ms = IntegerField(null=True)
    token_usage = JSONField(null=True)
    started_at = DateTimeTZField()
    finished_at = DateTimeTZField(null=True)

    class Meta:
        table_name = "turns"
        primary_key = CompositeKey("session_key", "event_seq", "attempt")


STATEMENTS = (
    # Room on the page for the new versions of rows whose status or counters change (HOT updates).
    "ALTER TABLE effects SET (fillfactor = 70)",
    "ALTER TABLE sessions SET (fillfactor = 50)",
    # The safety net looks for sessions with events left to process; nearly always there are none in it.
    "CREATE INDEX sessions_unprocessed ON sessions (session_key) WHERE processed_event_seq < last_event_seq",
)


def up(migrator, db):  # noqa: ARG001 (the runner's signature)
    models = [Event, Effect, Session, Checkpoint, TurnAttempt]
    with db.bind_ctx(models, bind_refs=False, bind_backrefs=False):
        db.create_tables(models, safe=False)
    for statement in STATEMENTS:
        db.execute_sql(statement)
