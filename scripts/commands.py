"""`callboard`: the command and its subcommands."""

import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from actors.agents.agents_file import AgentsFileError
from scripts.admin.command import admin
from scripts.bench.command import bench
from scripts.chaos.command import chaos
from scripts.chat import chat
from scripts.load_test import load_test
from scripts.simulation.command import simulate
from scripts.tokens import token
from server.config import ConfigError, Settings, load_settings
from server.main import serve as run_server
from storage.errors import DatabaseUnavailable, StorageError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="callboard")
def main() -> None:
    """A server for conversations with agents."""


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each setting, all of them text: `load_settings` reads and checks them."""
    for declared in reversed(fields(Settings)):
        command = click.option(
            declared.metadata["option"],
            declared.name,
            metavar=declared.metadata["variable"],
            help=declared.metadata["doc"],
        )(command)
    return command


@main.command(short_help="Run a server.")
@settings_options
def serve(**options: str | None) -> None:
    """Run a server until Ctrl-C or SIGTERM.

    Each option can be given as an environment variable too, under the name shown behind it; the option wins.
    """
    try:
        run_server(load_settings(options, os.environ), os.environ, options)
    except (ConfigError, AgentsFileError) as error:
        raise click.UsageError(str(error)) from error
    except DatabaseUnavailable as error:
        words = f"{error}; see whether it runs and --database-url (DATABASE_URL) is right"
        raise click.ClickException(words) from error
    except StorageError as error:
        raise click.ClickException(str(error)) from error


main.add_command(admin)
main.add_command(chat)
main.add_command(bench)
main.add_command(load_test)
main.add_command(chaos)
main.add_command(simulate)
main.add_command(token)
