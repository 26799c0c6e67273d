"""`agents` and `config`: what a server was given."""

import asyncio
import sys
from dataclasses import asdict
from typing import Any

import click

from actors.agents.agents_file import AgentsFileError, load_agents
from actors.agents.check import check_agent
from actors.turn_runner import interrupt_agent
from scripts.admin.access import Access, pass_access
from scripts.admin.arguments import DURATION_S
from scripts.admin.failures import AdminError, ExitCode
from scripts.admin.output import json_option, print_json, print_table, tell_span
from server.config import describe_settings
from server.loop_watch import LoopWatch


@click.group(short_help="Which there are, and whether they answer.")
def agents() -> None:
    """See which agents there are, and whether they answer."""


def list_agents(access: Access) -> dict[str, Any]:
    """Return the agents of a running node, or of the agents file if none runs."""
    answers = access.ask_nodes("/agents")
    if answers:
        node_id, answer = next(iter(answers.items()))
        return {"node_id": node_id, "from_shell": False, **answer}
    tell_shell()
    try:
        registry = load_agents(access.settings.agents_file, access.environ)
    except AgentsFileError as error:
        raise AdminError(ExitCode.UNUSABLE_ARGUMENT, str(error)) from error
    shown = {"agents": list(registry.ids), "default": registry.default_agent_id}
    return {"node_id": None, "from_shell": True, **shown}


def tell_shell() -> None:
    """Say that what is shown is no server's."""
    click.echo("No server of this database answers: these are this shell's settings.", err=True)


@agents.command("list", short_help="Which there are.")
@json_option
@pass_access
def list_(access: Access, as_json: bool) -> None:
    """List the agents of a running node; without one, those of the agents file."""
    found = list_agents(access)
    if as_json:
        print_json(found)
        return
    for agent_id in found["agents"]:
        click.echo(f"{agent_id}{' (default)' if agent_id == found['default'] else ''}")


@agents.command(short_help="Ask each something.")
@click.argument("agent_ids", metavar="[AGENT]...", nargs=-1)
@click.option("--timeout", "timeout_s", type=DURATION_S, default="10s", show_default=True, help="For each.")
@click.option("--message", help="What to say.  [default: Hello, or what the agent wants to be asked]")
@json_option
@pass_access
def check(access: Access, agent_ids: tuple[str, ...], timeout_s: float, message: str | None, as_json: bool) -> None:
    """Ask each agent something, in the server that has it; nothing is stored. Exit code 1 if one does not answer."""
    found = list_agents(access)
    wanted = agent_ids or tuple(found["agents"])
    unknown = [agent_id for agent_id in wanted if agent_id not in found["agents"]]
    if unknown:
        known = ", ".join(found["agents"])
        raise AdminError(ExitCode.NOT_FOUND, f"there is no agent {unknown[0]}; there are {known}")
    checks = [ask_agent(access, found["node_id"], agent_id, timeout_s, message) for agent_id in wanted]
    if as_json:
        print_json({"node_id": found["node_id"], "from_shell": found["from_shell"], "checks": checks})
    else:
        rows = [
            (
                each["agent_id"],
                "ok" if each["error"] is None else each["error"],
                None if each["first_token_ms"] is None else tell_span(each["first_token_ms"] / 1000),
                tell_span(each["total_ms"] / 1000),
                each["tokens"],
            )
            for each in checks
        ]
        print_table(("agent", "answer", ">first token", ">all", ">tokens"), rows, empty="There is no agent.")
    if any(each["error"] is not None for each in checks):
        sys.exit(int(ExitCode.WRONG))


def ask_agent(
    access: Access, node_id: str | None, agent_id: str, timeout_s: float, message: str | None
) -> dict[str, Any]:
    """Ask one, through its node or in this process."""
    if node_id is None:
        registry = load_agents(access.settings.agents_file, access.environ)
        agent = registry.get(agent_id)
        assert agent is not None

        async def ask() -> dict[str, Any]:
            # No server's watch is in this process.
            limit_s = access.settings.turn_block_s
            watch = LoopWatch(asyncio.get_running_loop(), interrupt=interrupt_agent, limit_s=limit_s)
            watch.start()
            try:
                return asdict(await check_agent(agent, agent_id, timeout_s=timeout_s, message=message))
            finally:
                watch.close()
                await registry.aclose()

        return asyncio.run(ask())
    node = next((node for node in access.list_nodes() if node.node_id == node_id), None)
    if node is None:
        raise AdminError(ExitCode.NO_NODE, f"node {node_id} is gone: ask again")
    body = {"agent_id": agent_id, "timeout_s": timeout_s, "message": message}
    answer: dict[str, Any] = node.post("/agents/check", body, timeout_s=timeout_s + 5)
    return answer


@click.command(short_help="What is in force, and where it came from.")
@json_option
@pass_access
def config(access: Access, as_json: bool) -> None:
    """List the settings of a running node; without one, what a server started here would have. Secrets are masked."""
    answers = access.ask_nodes("/config")
    if answers:
        node_id, answer = next(iter(answers.items()))
        settings = answer["settings"]
    else:
        node_id = None
        tell_shell()
        settings = [asdict(each) for each in describe_settings(access.settings, access.options, access.environ)]
    if as_json:
        print_json({"node_id": node_id, "from_shell": node_id is None, "settings": settings})
        return
    if node_id is not None:
        click.echo(f"Node {node_id}\n")
    rows = [(each["variable"], each["value"] or "-", each["source"]) for each in settings]
    print_table(("variable", "value", "from"), rows, empty="")
