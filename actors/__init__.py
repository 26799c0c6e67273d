"""What runs a conversation: actors and agents. Knows no socket and no SQL.

    edge ──SubmitUserMessage──> SessionDirector ──> SessionActor ──SessionWrite──> storage writer
     ^                               │ creates          │    ^                        │
     │                               │ lets leave       │    └──── WriteCommitted ────┘
     │                               v                  │EffectsCommitted
     └──frames── DeliveryActor <─────┴──────────────────┘    agent's task ──TokenProduced──> SessionActor

A session actor's life (`session_state` and `session_steps` have the details of a turn):

    created ──> claiming ──> idle <──────────────> working
                               │ SESSION_IDLE_S       │ fenced, refused, failed
                               v                      v
                            exited                 exited, and made anew if the session is still this node's

Invariants:

- Nothing is shown before its COMMIT: effects are published by the answer to the write that stores them.
- A session has one actor on a node, one write in flight and one turn at a time; turns run in `seq` order.
- An answer's last tokens, its message, its checkpoint, the turn's record and `processed_event_seq` are one write.
- A message has exactly one outcome: `message`, `cancelled` or `error`.
- A connection gets effects in order, none twice, none left out.

What happens at each failure:

| failure | what happens |
|---|---|
| an agent raises, hangs, yields nothing or nonsense | the turn ends with an `error`; the session goes on |
| a handler of a session actor raises | logged; waiting requests are answered `internal`; a new actor goes on |
| a handler of director or delivery raises | logged; the message is dropped, the state is as before |
| another node claims the session | the next write is fenced; the actor exits and leaves the rest to it |
| the database refuses a write's data | its requests are answered `internal`, the actor is made anew |
| the database cannot be reached | writes wait in the writer, tokens in the turn; past 64 KiB the agent is paused |
| a connection is slow | it is taken off live pushing and reads from the outbox at its own pace |
| a connection goes | what its socket had not taken stays in the outbox for the next one |
| the process is killed | the next start runs accepted events without an outcome again, as a new attempt |
"""
