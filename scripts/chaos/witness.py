"""A witness in the database: of each stored event and effect, which connection wrote it and who owned its session then.

No row of the tables says under which epoch it was written; whether a former owner was at it cannot be told from them.
"""

from typing import Final

INSTALL: Final = """
CREATE TABLE chaos_writes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_key text NOT NULL,
    kind text NOT NULL,
    seq bigint NOT NULL,
    connection text NOT NULL,
    owner text,
    epoch bigint NOT NULL
);
CREATE FUNCTION witness_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_writes (session_key, kind, seq, connection, owner, epoch)
    SELECT NEW.session_key, TG_TABLE_NAME, NEW.seq, current_setting('application_name'), sessions.owner, sessions.epoch
    FROM sessions WHERE sessions.session_key = NEW.session_key;
    RETURN NULL;
END
$$;
CREATE TRIGGER witness AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION witness_write();
CREATE TRIGGER witness AFTER INSERT ON effects FOR EACH ROW EXECUTE FUNCTION witness_write();
"""
"""Rows of a session come in the order of their commits: whoever writes holds the session's row by then."""

QUERY: Final = "SELECT session_key, kind, seq, connection, owner, epoch FROM chaos_writes ORDER BY id"
