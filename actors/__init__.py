"""What runs a conversation: actors and agents. Knows no socket and no SQL.

    edge ──SubmitUserMessage──> SessionDirector ──> SessionActor ──SessionWrite──> storage writer
     ^                               │ creates          │    ^                        │
     │                               │ lets leave       │    └──── WriteCommitted ────┘
     │                               v                  │EffectsCommitted
     └──frames── DeliveryActor <─────┴──────────────────┘    agent's task ──TokensProduced──> SessionActor

The Janitor (`janitor`), one per node, stands aside: it has storage swept (compaction, expiry, retention), a step at a
time. So does the AdminActor: it asks the others what they are at, for operators (`admin`, `admin_messages`).

What each of them is made of, the decisions apart and pure:

    director    live_sessions (who has an actor), recoveries and circuit (who failed lately), orphan_poll
    session     session_steps (all decisions): session_state (what is known) ──> session_commands (what is to be done)
                    by session_reception, session_requests, session_turn, session_storage, session_ends, retry_policy
                    session_write, effect_frames: what is stored next        session_description: for operators
                turn_runner (the agent's task) ──> agents, agent_slices (those that never wait share the loop)
                session_log, session_traces ──> tracing, traceparent: what is told of it, and never what was said
    delivery    routing (which connection gets what), outbox_reads
    all         base, messages, services (the world outside, as it is given to them), handler_times

A session actor's life (`session_state` and `session_steps` have the details of a turn):

    created ──> claiming ──> idle <──────────────> working
                               │ SESSION_IDLE_S,      │ fenced, refused, failed
                               │ or room is needed    v
                               v                   exited ──> made anew, if the session is still this node's,
                            exited                            after 0.1 s, 0.2 s, ...; at the fifth failure: 30 s

The actors run on `loop_base.LoopSystemBase`, a Thespian system base; `loop_system.LoopActorSystem` makes one:

    loop_base ──> loop_mail (the queue and its slices)    loop_cell (an actor's address and cell)
              ──> loop_failure (handlers that raise)      loop_registry, loop_names (the live actors)
              ──> loop_outside, loop_requester (ask)      loop_driver (a loop at rest)
              ──> loop_factory (makes actors)             loop_status, loop_shutdown

Invariants:

- Nothing is shown before its COMMIT: effects are published by the answer to the write that stores them.
- A session has one actor on a node, one write in flight and one turn at a time; turns run in `seq` order.
- An actor is let go only when it has nothing to do and has read all that was sent to it.
- An answer's last tokens, its message, its checkpoint, the turn's record and `processed_event_seq` are one write.
- A message has exactly one outcome: `message`, `cancelled` or `error`.
- A connection gets effects in order, none twice, none left out.

What happens at each failure:

| failure | what happens |
|---|---|
| an agent raises, or gives no token | asked again after 1, 2 and 4 s; then the turn ends with an `error` |
| an agent hangs, or yields nonsense | the turn ends with an `error`; the session goes on |
| a handler of a session actor raises | logged; requests that storage was not given are answered `internal`; those in |
| | the write in flight are stored or answered, once it is known which; then a new actor goes on |
| a session actor cannot be made, or fails twice | what it has not read is answered `internal`; a new one is made |
| a session's actor fails five times in a minute | `overloaded` for 30 s; then it is tried again |
| a handler of an actor that is no BaseActor raises | run again twice at once; then its sender gets a PoisonMessage |
| a handler raises SystemExit or KeyboardInterrupt | the loop's run ends; the mail is there for the next run |
| a handler holds the loop for over `SLOW_HANDLER_MS` | logged, with the actor's class; nothing interrupts it |
| `SESSION_MAX_LIVE` sessions have an actor | the longest idle leaves; all busy: new ones are `overloaded` |
| a handler of the director raises | logged; a request is answered `internal`, the state is as before |
| a handler of delivery raises | logged; the message is dropped, the state is as before |
| another node has the session | new messages are `overloaded`; if that node has lost its connection, they wait for |
| | up to three seconds, until it is back or taken to be dead (`storage.node_store`) |
| another node claims the session | the next write is fenced and the actor exits; if something was left to do, a |
| | new one finds out by a claim whose the session is |
| somebody has locked the session's row | its write is tried again, behind the others; a claim is made again |
| the database refuses a write's data | its requests are answered `internal`, the actor is made anew |
| the database cannot be reached | writes wait in the writer, tokens in the turn; past 64 KiB the agent is paused, |
| or stands still | and its deadline with it; new messages are `overloaded` until it answers again |
| an answer of the database is lost without | within two seconds the connection is ended, and what is unknown is |
| a word | found out |
| a sweep fails, or the database is gone | logged once; the next pass, a minute later, begins anew |
| effects expire under a connection | it gets them all the same, in order; those that come later begin after them |
| a connection is slow | it is taken off live pushing and reads from the outbox at its own pace |
| a connection goes | what its socket had not taken stays in the outbox for the next one |
| the process is killed | the next start, or another node, runs accepted events without an outcome again, as a new |
| | attempt: those of sessions that somebody asks for at once, the others at 200 a second |
"""
