"""Benchmarks: how fast the parts of Callboard are on this machine, each beside what it is to be compared with.

    command ──> catalogue: benchmarks, each of variants (who does the work) and rows (what is reported)
       │
       │        round 1        round 2                    one process for each variant, asked in turn
       ├──────> A  B  C   ──>  C  B  A   ──> ...  ──>     for one round: noise of the machine hits all
       │                                                  of them alike, garbage of one no other
       └──────> rows: the median over the rounds, of a figure or a ratio within one round ──> table, JSON, plot

Each of `actors`, `stream`, `idle`, `outbox` and `peers` has a command and a catalogue of its own; the options
(`choices`) and all that follows (`run`) are the same. `benchmark`, `target`, `measurement`, `report` and `table` are
pure; `plot` draws; `rounds` and `probe_process` run the probes, which measure. A probe is a generator: it sets up,
yields one sample for each round, and cleans up when it is closed. A server that is measured is a process more, and the
probe its load.

    stream_probe: StreamClient, StreamClient, ... ──ws──> stream_direct                   no storage: the yardstick
    (picows: cheap)                               ──ws──> callboard serve ──> PostgreSQL  merged, strict

| what fails | what happens |
|---|---|
| a probe raises | the command ends with its error; all processes are ended |
| a probe's process dies | the same |
| Ctrl-C | probes are closed and given time to clean up, then ended |
| the command is killed | each probe sees its pipe closed, and cleans up |
"""
