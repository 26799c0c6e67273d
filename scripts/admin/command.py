"""`callboard admin`: the group, and where its commands are."""

import os

import click

from scripts.admin.access import Access
from scripts.admin.agent_commands import agents, config
from scripts.admin.data_commands import backup, compact, export, migrate, purge, restore
from scripts.admin.dead_commands import audit, dead
from scripts.admin.ending import AdminGroup
from scripts.admin.health_commands import doctor, verify
from scripts.admin.log_commands import checkpoints, effects, events, replay, tail, turns
from scripts.admin.outbox_commands import outbox
from scripts.admin.session_commands import sessions
from scripts.admin.status_commands import status, top


@click.group(cls=AdminGroup, short_help="Look at servers and what they store, and act on it.")
@click.option("--data-dir", metavar="CALLBOARD_DATA_DIR", help="The server's data directory.")
@click.option("--database-url", metavar="DATABASE_URL", help="The server's PostgreSQL, if it is not the embedded one.")
@click.option("--agents", metavar="CALLBOARD_AGENTS", help="The agents file, for `agents check` without a server.")
@click.pass_context
def admin(context: click.Context, /, **options: str | None) -> None:
    """Look at servers and what they store, and act on it.

    A session is named by its key, `userId:agentId:threadId`. Commands read what is stored, whether or not a server
    runs, and ask those of this machine. Each has `--json`.

    Exit codes: 0 done; 1 something is wrong, or a question got no yes; 2 an option or argument cannot be used; 3 there
    is no such thing; 4 no server answers; 5 the database cannot be used; 6 it cannot be done as things are; 130 Ctrl-C,
    which is how `tail` and `top` end; 141 whoever read the answer is gone; 143 it was killed.

    Completion, in bash: eval "$(_CALLBOARD_COMPLETE=bash_source callboard)"
    """
    context.obj = Access(
        {name: value for name, value in options.items() if name != "agents"} | {"agents_file": options["agents"]},
        os.environ,
    )


for command in (
    status,
    top,
    sessions,
    events,
    effects,
    turns,
    checkpoints,
    tail,
    outbox,
    dead,
    audit,
    replay,
    verify,
    doctor,
    export,
    purge,
    migrate,
    compact,
    backup,
    restore,
    agents,
    config,
):
    admin.add_command(command)
