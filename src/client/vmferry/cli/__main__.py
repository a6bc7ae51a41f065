"""`vmferry`: the program. It puts the commands together and knows no more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

# gRPC writes its own lines to standard error about connections that fail; the error tree says the same in our words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

from vmferry.bounds import DEFAULTS, ENVIRONMENT
from vmferry.cli import checking, completion, domains, domjob, events, host, jobs, migration, oversight, pki, report, tuning
from vmferry.cli.exits import help_text
from vmferry.cli.running import DEFAULT_URI, Output, RootGroup, Session
from vmferry.client import connect

JOB_ALIASES = {"domjobabort": "abort"}
"""What libvirt calls the commands of the group `job`."""


class VmferryGroup(RootGroup):
    """The commands, under libvirt's names as well."""

    aliases: Mapping[str, str] = {"dominfo": "info"}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click; libvirt's names of the commands about one job lead into that group."""
        if cmd_name in JOB_ALIASES:
            return jobs.job.get_command(ctx, JOB_ALIASES[cmd_name])
        return super().get_command(ctx, cmd_name)


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
@click.version_option(host.client_version(), "--version", message="vmferry %(version)s")
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


for _module in (domains, events, migration, checking, jobs, report, domjob, tuning, oversight, host, pki, completion):
    for _command in _module.COMMANDS:
        main.add_command(_command)


if __name__ == "__main__":
    main(prog_name="vmferry")
