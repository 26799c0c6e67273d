"""Real servers, a real PostgreSQL and a real client, with real faults: kill -9, crashes, processes that stand still.

    command ──> stage (PostgreSQL, `server`s, `proxy` between them) <── faults, by a seed
           ──> recorder (a process of its own): callboard's client, writes down all that it does and sees
           ──> checker: the record and the tables, once all has healed

A server of a run has `instruments` in the place of some methods, tells a `witness` in the database who wrote what, and
has one of the `bugs` if a run is to show that it would be found.

`scripts.simulation` plays more histories, of models; this plays fewer, of the real thing.
"""
