"""`check`: everything that speaks against a migration, before anything is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console

from vmferry.cli import render
from vmferry.cli.exits import ExitCode
from vmferry.cli.named import DOMAIN, NamedArgument, NamedCommand
from vmferry.cli.options import migration_options, read
from vmferry.cli.running import Session, asynchronous
from vmferry.errors import PeerUnreachable
from vmferry.findings import Finding, Weight, findings_of


@click.command(cls=NamedCommand)
@DOMAIN
@click.argument("destination_uri", cls=NamedArgument, option="--desturi", meaning="The daemon there.")
@migration_options
@asynchronous
async def check(session: Session, /, name: str, destination_uri: str, **given: Any) -> ExitCode:
    """Find all that would keep a guest from moving.

    Takes the options of `migrate`, and asks both daemons what that migration would be refused for: definition and devices,
    machine type and hypervisor, disks and their caches, bridges, memory, ports, names, certificates, and whether the two
    hosts reach each other. Nothing is opened, made, held or recorded; it is safe at any time.

    \b
    Exit status:
      0  nothing speaks against it; notes may be worth reading
      2  the migration would be refused
    """  # noqa: D301 - click's mark of lines that stay as they are
    flags, params = read(given)
    with render.waiting(f"asking {session.uri} and {destination_uri}"):
        async with session.daemon() as source:
            try:
                async with session.other_daemon(destination_uri) as destination:
                    findings = await source.check(name, destination, flags=flags, params=params)
            except PeerUnreachable as error:
                alone = await source.check_alone(name, flags=flags, params=params)
                findings = (*findings_of(error, "", destination_uri), *alone)
    problems = [finding for finding in findings if finding.weight is Weight.PROBLEM]
    if session.json:
        click.echo(
            render.as_json({"domain": name, "refused": bool(problems), "findings": [asdict(each) for each in findings]})
        )
    else:
        _show(render.stdout(), name, findings, len(problems))
    return ExitCode.REFUSED if problems else ExitCode.DONE


def _show(console: Console, name: str, findings: Sequence[Finding], problems: int) -> None:
    for finding in sorted(findings, key=lambda each: each.weight is Weight.NOTE):
        style = "bold red" if finding.weight is Weight.PROBLEM else "yellow"
        about = " ".join(filter(None, (finding.host and f"on {finding.host},", finding.subject)))
        render.line(console, (finding.weight.value, style), f"  {finding.code}  {about}".rstrip(" ,"))
        render.prose(console, f"  {finding.problem}")
        if finding.remedy:
            render.prose(console, "  what to do: ", render.in_options(finding.remedy))
    notes = len(findings) - problems
    told = f"{notes} {'note' if notes == 1 else 'notes'}"
    if problems:
        tail = f" and {told}" if notes else ""
        render.line(console, f"{problems} {'problem' if problems == 1 else 'problems'}{tail}: {name} would not be moved")
    else:
        render.line(console, f"nothing speaks against moving {name}" + (f"; {told}" if notes else ""))


COMMANDS: tuple[click.Command, ...] = (check,)
