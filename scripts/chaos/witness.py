"""A witness in the database: of each stored row, who wrote it under which epoch, and who owned its session then.

The tables do not say it; whether a former owner was at a row, or a former actor of the same owner, cannot be told from
them. The writer's epoch comes from the servers (`instruments.tell_epochs`).
"""

from typing import Final

INSTALL: Final = """
CREATE TABLE chaos_writes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_key text NOT NULL,
    kind text NOT NULL,
    seq bigint NOT NULL,
    connection text NOT NULL,
    written_epoch bigint,
    owner text,
    epoch bigint NOT NULL
);
CREATE FUNCTION witness_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_writes (session_key, kind, seq, connection, written_epoch, owner, epoch)
    SELECT NEW.session_key, TG_TABLE_NAME, coalesce(to_jsonb(NEW)->>'seq', to_jsonb(NEW)->>'event_seq')::bigint,
           current_setting('application_name'),
           (nullif(current_setting('chaos.epochs', true), '')::jsonb->>NEW.session_key)::bigint,
           sessions.owner, sessions.epoch
    FROM sessions WHERE sessions.session_key = NEW.session_key;
    RETURN NULL;
END
$$;
CREATE TRIGGER witness AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION witness_write();
CREATE TRIGGER witness AFTER INSERT ON effects FOR EACH ROW EXECUTE FUNCTION witness_write();
CREATE TRIGGER witness AFTER INSERT ON checkpoints FOR EACH ROW EXECUTE FUNCTION witness_write();
CREATE TRIGGER witness AFTER INSERT OR UPDATE ON turns FOR EACH ROW EXECUTE FUNCTION witness_write();
"""
"""Rows of a session come in the order of their commits: whoever writes holds the session's row by then."""

QUERY: Final = "SELECT session_key, kind, seq, connection, written_epoch, owner, epoch FROM chaos_writes ORDER BY id"
