"""Callboard's actors under a seeded scheduler: one seed is one history, with everything that may go wrong in it.

    Client ──> Node: SessionDirector, SessionActors, DeliveryActor (the production code) ──> SimulatedWriter ──> Store
       ^             on a loop whose clock jumps, one for all nodes                          SimulatedReads ──────┘
       └──────────────── frames, late or cut off ──┘

The actors, their pure cores, the actor base and the runner of agents are those that a server runs. Given are the clock
(`virtual_loop`), processes (`processes`), chance (one seeded generator), the store (`store`, whose sessions are the
model that is verified against PostgreSQL: `stored_session`), what a writer does about a store that fails (`writer`),
and the transport (`node`, `client`). What happens is drawn in `scenario` (by a seed of `command`), and judged in
`checker`, what was told for traces in `traces`; `bugs` can be planted, to see that they are found.

What it does not see: PostgreSQL's own locks and statements (the integration tests do), the code of the real writer's
thread and of the sockets, and two things at one instant in two threads.
"""
