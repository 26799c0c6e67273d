"""What is durable: PostgreSQL, embedded or given. Knows no actor.

    SessionWrite, SessionClaim, reports ──────────> StorageWriter (one thread) ──> one transaction ──> PostgreSQL
    reads ───────────────────────────────────────> StorageReader (a few threads) ─────────────────────────^
    the Janitor ─────────────────────────────────> StorageSweeper (one thread) ───────────────────────────^

    StorageWriter ──> WriteQueue (what waits) ──> BatchCommitter ──> WriterConnection
                                                  write_statement, report_statements: what is sent, pure
    StorageSweeper ──> SweepPass (what is due, in short transactions) ──> RetentionStore
                   ──> IndexRebuild
    StorageReader  ──> OutboxStore, SessionStore (for the actors), ThreadStore (for people: lists of threads, history)
                   ──> NodeStore (who lives: the writer renews the node's lease)

    StorageWriter ──> SetAside (what met somebody's lock, while others go ahead)

    EmbeddedPostgres ──> DataDirectory, ServerLocks, postmaster, socket_folder, service_account, postgres_settings

    For operators: InspectionStore, AuditStore, OperatorStore (the outbox, by hand), verification, replay, export_store

    backup      writes all into a file while servers run, and restores it into an empty database, whole or not at all
    doctor      facts (doctor_queries) ──> findings (doctor_server_findings, doctor_data_findings): what to do
    compaction  the sweep, at once and to its end

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
