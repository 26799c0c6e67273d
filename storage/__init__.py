"""What is durable: PostgreSQL, embedded or given. Knows no actor.

    SessionWrite, SessionClaim, reports ──────────> StorageWriter (one thread) ──> one transaction ──> PostgreSQL
    reads ───────────────────────────────────────> StorageReader (a few threads) ─────────────────────────^
    the Janitor ─────────────────────────────────> StorageSweeper (one thread) ───────────────────────────^

Who writes, reads and sweeps:

    writer      write_queue (what waits), set_aside (what met somebody's lock, while others go ahead)
                batch_committer ──> write_statement, report_statements, array_literal (what is sent, pure)
                                ──> event_store, checkpoint_store, outbox_store, session_store (what a claim finds)
                writer_connection; writer_observer (who is told)
    reader      outbox_store, session_store, event_store: for the actors
                thread_store: for people, lists of threads and their history
                node_store: who lives; the writer renews the node's lease
    sweeper     sweep_pass (what is due, step by step) ──> retention_plan, retention_store, retention_statements
                index_rebuild, table_squeeze: the room that sweeps leave
    all         connection_watch (a lost answer is not waited for), database, tables, migrations, errors

What is given and taken: records, outbox_records, thread_records, retention_records, inspection_records.

For operators:

    inspection_store, operator_store, audit_store   look, act, note who did
    retry_plan                                      as which request a dead letter is run again
    interrupts                                      signals end a statement under way
    backup ──> backup_file, postgres_programs       all into a file while servers run, and back into an empty database
    export_store, compaction                        one user's data; the sweep, at once and to its end
    replay, replay_store                            what a client had on its screen
    verification ──> verification_checks ──> verification_statements, verification_turn_statements: the invariants
    doctor ──> facts: doctor_queries, doctor_facts
           ──> findings, which say what to do: doctor_server_findings, doctor_data_findings, doctor_finding

The embedded PostgreSQL:

    embedded (its life) ──> data_directory, server_locks, socket_folder, postmaster, postgres_settings, patience
                        ──> service_account (whom it runs as, which programs that one can reach)

An effect's life:

    pending ──handed to a connection──> executing ──taken by its socket──> completed
       ^                                    │
       └──────── connection went away ──────┘
       either ──nobody fetched it for EFFECT_TTL_S──> failed

Invariants (SCHEMA.md says which column holds what):

- Sequence numbers are 1..n within a session, without a gap: a write reserves them by raising the session's counters,
  and only if they stand where the write expects them.
- A write is committed whole or not at all, under the epoch of the session's owner or not at all.
- A session has one owner; another node may claim it once it was let go, or its owner is taken to be dead
  (`node_store`).
- The same write twice leaves one set of rows; the same request id twice leaves one event.
- Only what is final is swept: turns that ended, effects that are delivered or given up. The counters of a session never
  go back, whatever of it is deleted.

writer.py has the table of what happens at each failure, sweeper.py another.
"""
