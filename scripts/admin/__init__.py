"""`callboard admin`: what operators look at and do.

    command ──> access ──> the stored data: PostgreSQL, whether or not a node runs
                   └─────> a running node: HTTP on its socket (`server.admin_server`)

    command             the group: status_commands, session_commands, log_commands, outbox_commands, dead_commands,
                        data_commands, health_commands, agent_commands
    arguments           options that several have
    output, tables      the answer: tables or JSON
    failures, ending    what is wrong: exit codes, one line, signals
    access, node_client the data, the nodes

Commands read what is stored, and ask the nodes of this machine what they are at. What changes a session goes through
the node that owns it, or, if none does, is stored for the next one (`offline`). Each action is one transaction, with a
row of `operator_actions` in it; what concerns the data as a whole (`backup`, `compact`, ...) is noted right after.

| exit code | |
|---|---|
| 0 | done, and nothing is wrong |
| 1 | something is wrong: violations, problems, an agent that does not answer; or a question got no yes |
| 2 | an option or an argument cannot be used, or the file that it names |
| 3 | there is no such session, message or agent |
| 4 | no node answers, or its socket may not be used |
| 5 | the database cannot be used: it cannot be reached, its schema is another one, or there are no data |
| 6 | it cannot be done as things are: another node has the session, or there is nothing to do |
| 128 + n | signal n ended it: 130 Ctrl-C, the one end of `tail` and `top`; 141 whoever read it is gone; 143 `kill` |
"""
