"""How far a session is compacted and purged, and when autovacuum makes the room of deleted rows usable again."""

STATEMENTS = (
    # Constant defaults: no row is rewritten. No index names them, so raising them stays a HOT update.
    """
    ALTER TABLE sessions
    ADD COLUMN compacted_effect_seq bigint NOT NULL DEFAULT 0,
    ADD COLUMN purged_event_seq bigint NOT NULL DEFAULT 0,
    ADD CHECK (compacted_effect_seq BETWEEN 0 AND delivered_effect_seq),
    ADD CHECK (purged_event_seq BETWEEN 0 AND processed_event_seq)
    """,
    # Most rows are deleted within hours. With the default of 0.2, a million effects took a tenth more room in the end.
    "ALTER TABLE effects SET (autovacuum_vacuum_scale_factor = 0.05)",
)


def up(migrator, db):  # noqa: ARG001 (the runner's signature)
    for statement in STATEMENTS:
        db.execute_sql(statement)
