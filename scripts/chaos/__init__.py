"""Real servers, a real PostgreSQL and a real client, with real faults: kill -9, crashes, processes that stand still.

    command ──> Stage (PostgreSQL, servers) <── Injector (faults, by a seed)
           ──> recorder (a process of its own): callboard's client, writes down all that it does and sees
           ──> checker: the record and the tables, once all has healed

`scripts.simulation` plays more histories, of models; this plays fewer, of the real thing.
"""
