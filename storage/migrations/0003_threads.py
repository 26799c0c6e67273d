"""A user's threads are listed by an index; its columns never change, so updates of the counters stay HOT updates."""


def up(migrator, db):  # noqa: ARG001 (the runner's signature)
    db.execute_sql("CREATE INDEX sessions_user ON sessions (user_id, created_at, session_key)")
