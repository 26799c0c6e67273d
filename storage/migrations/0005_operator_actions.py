"""What operators have done (`audit_store`). A row is written in the transaction of the action itself."""

STATEMENTS = (
    """
    CREATE TABLE operator_actions (
        id uuid PRIMARY KEY,
        action text NOT NULL,
        operator text NOT NULL,
        session_key text,
        event_seq bigint,
        details jsonb NOT NULL,
        created_at timestamptz NOT NULL
    )
    """,
    # Which dead letters are settled is asked by these.
    "CREATE INDEX operator_actions_event ON operator_actions (session_key, event_seq)",
    "CREATE INDEX operator_actions_created_at ON operator_actions (created_at)",
)


def up(migrator, db):  # noqa: ARG001 (the runner's signature)
    for statement in STATEMENTS:
        db.execute_sql(statement)
