"""Benchmarks: how fast the parts of Callboard are on this machine, each beside what it is to be compared with.

    command ──> catalogue: benchmarks, each of variants (who does the work) and rows (what is reported)
       │
       │        round 1        round 2                    one process for each variant, asked in turn
       ├──────> A  B  C   ──>  C  B  A   ──> ...  ──>     for one round: noise of the machine hits all
       │                                                  of them alike, garbage of one no other
       └──────> rows: the median over the rounds, of a figure or a ratio within one round ──> table, JSON, plot

Each of `actors`, `stream`, `resume`, `idle`, `outbox`, `culprits` and `peers` has a command and a catalogue of its own;
the options (`choices`) and all that follows (`run`) are the same. `benchmark`, `target`, `measurement`, `report` and
`table` are pure; `plot` draws; `rounds` and `probe_process` run the probes, which measure. A probe is a generator: it
sets up, yields one sample for each round, and cleans up when it is closed. A server that is measured is a process more,
and the probe its load.

    stream_probe: StreamClient, StreamClient, ... ──ws──> stream_direct                   no storage: the yardstick
    (picows: cheap)                               ──ws──> callboard serve ──> PostgreSQL  merged, strict

Which probes there are, and what they stand on:

    actors_command    creation_probes, message_probes, flood_probe ──> systems: loop_system, stock_system, pykka_system
                                                                       ──> work, thespian_actors, pykka_actors
                      session_probe, activation_probe ──> session_stage, instant_storage
    stream_*          stream_probe ──> stream_generator ──> stream_client; stream_servers, stream_load, stream_outcome
    resume_*, idle_*  a server, and clients that come back, or say nothing
    culprit_*         a server, its sessions, and clients that do what they should not (culprit)
    outbox_*          outbox_databases, outbox_stored, outbox_waves, outbox_fed_writer; a probe for each question
    peers_*           what Callboard, DBOS and LangGraph do alike
    machine, cpu_time, resident_memory, loop_thread: what is measured of processes, and where clients run

| what fails | what happens |
|---|---|
| a probe raises | the command ends with its error; all processes are ended |
| a probe's process dies | the same |
| Ctrl-C | probes are closed and given time to clean up, then ended |
| the command is killed | each probe sees its pipe closed, and cleans up |
"""
