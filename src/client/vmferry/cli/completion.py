"""`completion`: what makes a shell complete commands, options and the names of domains."""

from __future__ import annotations

import asyncio

import click
from click.shell_completion import CompletionItem, get_completion_class

from vmferry.bounds import DEFAULTS
from vmferry.cli import render
from vmferry.cli.running import DEFAULT_URI, Session
from vmferry.client import connect

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "vmferry"
VARIABLE = "_VMFERRY_COMPLETE"
"""By this the shell asks the program what could follow; click answers."""


def domain_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """The domains whose names begin so, with their states. A daemon that is silent or away has none, and nothing is said."""
    uri = context.find_root().params.get("uri") or DEFAULT_URI
    try:
        known = asyncio.run(_states(uri))
    except Exception:  # noqa: BLE001 - whatever it is, a user who presses TAB does not want to read it
        return []
    return [CompletionItem(name, help=state) for name, state in known if name.startswith(incomplete)]


async def _states(uri: str) -> list[tuple[str, str]]:
    async with asyncio.timeout(DEFAULTS.complete_s), connect(uri) as daemon:
        return [(domain.name, domain.state.value) for domain in await daemon.domains()]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands.

    Their options and the names of domains as well.

    \b
    bash: vmferry completion bash >/etc/bash_completion.d/vmferry
    zsh:  vmferry completion zsh >"${fpath[1]}/_vmferry"
    fish: vmferry completion fish >~/.config/fish/completions/vmferry.fish
    """  # noqa: D301 - click's mark of lines that stay as they are
    kind = get_completion_class(shell)
    assert kind is not None, shell  # noqa: S101 - click knows these three
    script = kind(context.find_root().command, {}, PROGRAM, VARIABLE).source()
    click.echo(render.as_json({"shell": shell, "script": script}) if context.ensure_object(Session).json else script)


COMMANDS: tuple[click.Command, ...] = (completion,)
