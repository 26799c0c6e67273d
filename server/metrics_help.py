"""What each metric measures, from where to where: the HELP texts of `/metrics`."""

from collections.abc import Mapping
from typing import Final

HELP: Final[Mapping[str, str]] = {
    "callboard_messages_accepted_total": (
        "User messages that were committed as events; the same message sent again under its id is not counted again."
    ),
    "callboard_messages_refused_total": (
        "User messages that were refused and not stored, by error code; frames that could not be read count, too, "
        "refused cancels and subscriptions do not."
    ),
    "callboard_turns_total": "Messages whose outcome was committed, by outcome.",
    "callboard_attempts_retried_total": "Attempts at an answer that failed and that another attempt followed.",
    "callboard_dead_letters_total": "Messages whose last attempt failed, so that they were answered with an error.",
    "callboard_tokens_total": (
        "Tokens in committed effects, counted as agents gave them and not as they were merged into frames; those of "
        "attempts that failed or were cancelled later count, too."
    ),
    "callboard_sessions_started_total": "Actors that were made for sessions.",
    "callboard_sessions_passivated_total": (
        "Actors of idle sessions that were let go, after SESSION_IDLE_S or to make room for others."
    ),
    "callboard_writes_fenced_total": (
        "Writes of this node that changed nothing, as another node had taken over their session."
    ),
    "callboard_database_reconnects_total": (
        "Times that the storage writer had the database answer again after it was lost."
    ),
    "callboard_accept_to_commit_seconds": (
        "From when the server had read and checked a user message to when the database had committed its event."
    ),
    "callboard_first_token_seconds": (
        "From when the server had read and checked a user message to when the database had committed the first token "
        "of its answer; of a message that an earlier owner of the session left, from when the session was claimed."
    ),
    "callboard_commit_to_socket_seconds": (
        "From when the database had committed an effect to when the operating system had taken the frame of it for a "
        "connection, for each connection; only frames pushed from memory, not those read from the outbox."
    ),
    "callboard_socket_to_ack_seconds": (
        "From when the operating system had taken a frame to when the client's acknowledgement of it was read, once "
        "for each acknowledgement."
    ),
    "callboard_write_batch_rows": "Rows that the storage writer wrote for each batch, delivery reports included.",
    "callboard_commit_seconds": (
        "From when the storage writer took a batch to when the database had committed or refused all of it: one "
        "transaction, or more after a conflict, a refusal or a lost connection, with the waits between."
    ),
    "callboard_loop_lag_seconds": (
        "How long after its time a timer of the event loop rang; there is one every 0.25 s."
    ),
    "callboard_handler_seconds": (
        "From when an actor's message was taken from the mail queue to when its handler had returned, by message class."
    ),
    "callboard_writer_queue_requests": (
        "Writes, claims and delivery reports handed to the storage writer that the database has not answered."
    ),
    "callboard_writer_queue_bytes": "About how much memory the writes take that the database has not answered.",
    "callboard_intake_bytes": (
        "About how much memory the clients' messages take that are not answered, wherever they wait."
    ),
    "callboard_mail_queue_messages": "Messages between actors that wait for their handlers.",
    "callboard_sessions_live": "Sessions that have an actor in memory.",
    "callboard_sessions_busy": "Of these, those that are not idle.",
    "callboard_connections": "Open WebSocket connections, event streams and requests that wait for their answer.",
    "callboard_connections_lagging": (
        "Connections that are behind in some thread, reading it from the outbox or about to; also those that have just "
        "come and read what they missed."
    ),
    "callboard_database_up": "1 if the database answered the storage writer the last time, else 0.",
    "callboard_build_info": "Always 1; its label has the version of Callboard.",
}
