"""`vmferry`: the program. It puts the commands together and knows no more.

A command's module is imported when the command is named: what the others need is half of the time that a start takes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import NoReturn

# gRPC writes its own lines to standard error about connections that fail; the error tree says the same in our words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

from vmferry.bounds import DEFAULTS, ENVIRONMENT
from vmferry.cli.exits import help_text
from vmferry.cli.running import DEFAULT_URI, Output, RootGroup, Session
from vmferry.client import connect

MODULES: Mapping[str, tuple[str, ...]] = {
    "domains": ("list", "info", "define", "undefine", "start", "shutdown", "destroy", "suspend", "resume", "dumpxml"),
    "events": ("events",),
    "migration": ("migrate", "receiver"),
    "checking": ("check",),
    "jobs": ("jobs", "job"),
    "report": ("report",),
    "domjob": ("domjobinfo",),
    "tuning": (
        *("migrate-postcopy", "migrate-setmaxdowntime", "migrate-getmaxdowntime"),
        *("migrate-setspeed", "migrate-getspeed", "migrate-compcache", "migrate-tune"),
    ),
    "oversight": ("where", "resolve"),
    "host": ("version", "capabilities"),
    "pki": ("pki",),
    "completion": ("completion",),
}
"""The commands of each module, in the order in which help lists them."""

_MODULE_OF = {name: module for module, names in MODULES.items() for name in names}

JOB_ALIASES = {"domjobabort": "abort"}
"""What libvirt calls the commands of the group `job`."""


class VmferryGroup(RootGroup):
    """The commands, under libvirt's names as well."""

    aliases: Mapping[str, str] = {"dominfo": "info"}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click; libvirt's names of the commands about one job lead into that group."""
        if cmd_name in JOB_ALIASES:
            job = self.get_command(ctx, "job")
            assert isinstance(job, click.Group)  # noqa: S101 - for the type checker
            return job.get_command(ctx, JOB_ALIASES[cmd_name])
        self._bring(self.aliases.get(cmd_name, cmd_name))
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, whatever has been imported."""
        return [*_MODULE_OF, *(name for name in super().list_commands(ctx) if name not in _MODULE_OF)]

    def _bring(self, name: str) -> None:
        module = _MODULE_OF.get(name)
        if module is not None and name not in self.commands:
            for command in import_module(f"vmferry.cli.{module}").COMMANDS:
                self.add_command(command)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    if wanted:
        from vmferry.cli.host import client_version

        click.echo(f"vmferry {client_version()}")
        context.exit()


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=VmferryGroup, epilog="\b\n" + help_text(), context_settings=CONTEXT)
@click.option(
    "-c", "--connect", "uri", metavar="URI", envvar="VMFERRY_URI", default=DEFAULT_URI, show_default=True, show_envvar=True,
    help="The daemon to talk to: vmferry+unix:///path, vmferry+tcp://host:port or vmferry+tls://host:port.",
)  # fmt: skip
@click.option(
    "-o",
    "--output",
    type=click.Choice([output.value for output in Output]),
    default="text",
    show_default=True,
    help="For people, or JSON.",
)
@click.option(
    "--bound", "bounds", metavar="NAME=SECONDS", multiple=True,
    help=f"How long to wait for something; may be repeated. ${ENVIRONMENT} has the same, with commas.",
)  # fmt: skip
@click.option("--debug", is_flag=True, help="Errors come with a traceback.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
@click.pass_context
def main(
    context: click.Context,
    uri: str,
    output: str,
    bounds: tuple[str, ...],
    debug: bool,  # noqa: ARG001, FBT001 - read by RootGroup
) -> None:
    """Moves running virtual machines between hosts."""
    given = [setting for setting in os.environ.get(ENVIRONMENT, "").split(",") if setting]
    chosen = DEFAULTS.changed([*given, *bounds])
    context.obj = Session(uri, Output(output), context.obj or partial(connect, bounds=chosen), chosen)


def program() -> NoReturn:
    """The command has run, all that it printed is out, and the process is gone with its code.

    It does not take itself apart first: gRPC's share of that takes as long as many a command.
    """
    code: int | str | None = 0
    try:
        main(prog_name="vmferry")
    except SystemExit as end:
        code = end.code
    if not isinstance(code, int):
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    program()
