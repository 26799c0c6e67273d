"""``callboard load-test``: many conversations at once against a running server, every frame of them checked.

    run ──starts, asks for silence──> Session ──frames──> verifier (pure)
     │                                 │    ^                │
     │                                 │    └─── facts ──────┘
     │                        Connection (picows)
     └──progress, result <── Recorder <── what was sent, seen, measured, violated

That is the bare dialect (`--protocol bare`). Over protocol v1, a session is the client for Python, and both of its
sides are checked, the frames that come (`log_check`) and the answers that it gives (`client_session`). A connection may
be torn at any byte there, and nothing is excused.

`plan` is what is asked for, `conversation` and `answer` what came of it; `table`, `report` (with `plots`), `result` and
`outcome` say it to people and machines.

A session sends a message, waits for its end, pauses to think, and sends the next. Of the metronome's answers every
character is known beforehand; of other agents' answers it is checked that the tokens joined are the message.

Invariants, for each session (bare dialect):

- each request gets exactly one terminal frame, and nothing after it;
- what has come of an answer is at each moment the beginning of the whole, in order, without gap or repetition;
- requests are answered in the order in which they were sent;
- no frame belongs to another session.

What happens at each end of a connection:

| end | what the server may do next |
|---|---|
| our closing handshake (``--chaos``) | go on right behind the last frame; what ended unheard is its `message` alone |
| the server closes (1012 and the like) | the same, or begin an unfinished answer anew |
| torn, no close frame | the same; and frames that the server's socket had taken may be gone |
| no connect within ``--patience-s`` | the run ends, exit code 3 |

A message of which nothing has come is sent again under its id after each reconnect. Whether the server had it or not,
it is answered once.
"""
