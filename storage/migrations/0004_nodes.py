"""Which nodes there are, and which of them may be taken to live (`node_store`). Times are the database's own."""

STATEMENTS = (
    """
    CREATE TABLE nodes (
        node_id text PRIMARY KEY,
        started_at timestamptz NOT NULL,
        renewed_at timestamptz NOT NULL,
        lingers_until timestamptz NOT NULL,
        expires_at timestamptz NOT NULL
    )
    """,
    """
    CREATE VIEW live_nodes AS
    SELECT node_id FROM nodes
    WHERE expires_at > clock_timestamp()
      AND (lingers_until > clock_timestamp()
           OR EXISTS (SELECT 1 FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name = 'callboard ' || nodes.node_id))
       OR pg_postmaster_start_time() + (lingers_until - renewed_at) > clock_timestamp()
    """,
)


def up(migrator, db):  # noqa: ARG001 (the runner's signature)
    for statement in STATEMENTS:
        db.execute_sql(statement)
