"""`where` and `resolve`: what an operator needs when something went wrong."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import click
from rich.console import Console

from vmferry.channel import Transport, Uri, parse_uri
from vmferry.cli import render
from vmferry.cli.exits import ExitCode
from vmferry.cli.named import NAME
from vmferry.cli.running import Session, asynchronous
from vmferry.cli.units import moment
from vmferry.errors import InvalidParameter
from vmferry.evidence import HostEvidence, RecordEvidence
from vmferry.model import Keep, MigrationId
from vmferry.oversight import Order, Oversight, looks, peers_of
from vmferry.whereabouts import Look, Verdict, Whereabouts, judge

CODES: Mapping[Verdict, ExitCode] = {
    Verdict.RUNS: ExitCode.DONE,
    Verdict.MOVING: ExitCode.DONE,
    Verdict.PAUSED: ExitCode.DONE,
    Verdict.STOPPED: ExitCode.NO_COPY,
    Verdict.NOWHERE: ExitCode.NO_COPY,
    Verdict.RUNS_AS_FAR_AS_SEEN: ExitCode.IN_DOUBT,
    Verdict.IN_DOUBT: ExitCode.IN_DOUBT,
    Verdict.CUT_OFF: ExitCode.IN_DOUBT,
    Verdict.UNKNOWN: ExitCode.IN_DOUBT,
    Verdict.TWO_COPIES: ExitCode.ALARM,
    Verdict.TWO_RUN: ExitCode.ALARM,
}
"""What `where` exits with."""


@click.command()
@NAME
@click.option(
    "--hosts", metavar="A,B,…", help="The hosts to ask, as URIs or names.  [default: the daemon of --connect and its peers]"
)  # fmt: skip
@asynchronous
async def where(session: Session, name: str, hosts: str | None) -> ExitCode:
    """Find out where a guest is, and what to do now.

    Asks every host at once and changes nothing; it is safe at any time, also during a migration. Without --hosts it asks the
    daemon of --connect, and the hosts that its journal names for this guest.

    \b
    Exit status:
      0  exactly one copy, running or standing still, or on its way and settled without anybody's help
      4  in doubt, or something that may run could not be seen
      5  ALARM: two copies run, or two hosts claim the guest
      6  no copy exists
    """  # noqa: D301 - click's mark of lines that stay as they are
    asked = [str(uri) for uri in read_hosts(hosts, parse_uri(session.uri))]
    with render.waiting(f"asking {', '.join(asked)}"):
        seen = await looks(session.other_daemon, asked, name, session.bounds.look_s)
        if hosts is None:
            seen += await looks(session.other_daemon, peers_of(seen), name, session.bounds.look_s)
    found = judge(name, seen)
    code = CODES[found.verdict]
    if session.json:
        click.echo(render.as_json({**asdict(found), "safe": found.verdict.safe, "exit_code": int(code), "hosts": seen}))
    else:
        _show(render.stdout(), found, seen)
    return code


def read_hosts(text: str | None, connected: Uri) -> list[Uri]:
    """The hosts of a list; a bare name is reached as the daemon of --connect is, if that is by TCP, else by TLS.

    Raises:
        InvalidParameter: one of them is no URI, or none is there.
    """
    if text is None:
        return [connected]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InvalidParameter("--hosts names no host", remedy="give URIs, separated by commas")
    transport = Transport.TCP if connected.transport is Transport.TCP else Transport.TLS
    return list(dict.fromkeys(parse_uri(name if "://" in name else f"vmferry+{transport}://{name}") for name in names))


def _show(console: Console, found: Whereabouts, seen: Sequence[Look]) -> None:
    style = "bold red" if found.verdict.alarm else "bold green" if found.verdict.safe else "bold yellow"
    render.line(console, (found.summary, style))
    for reason in found.reasons:
        render.line(console, f"  - {reason}")
    if found.what_now:
        render.line(console, ("what to do now:", "cyan"))
    for number, step in enumerate(found.what_now, 1):
        render.line(console, f"  {number}. {step}")
    for look in seen:
        render.line(console)
        render.line(console, ("host ", "dim"), (look.name, "bold"), (f"  {look.uri}" if look.evidence else "", "dim"))
        render.facts(console, [("silent", look.error)] if look.evidence is None else _facts(look.evidence), indent=2)


def _facts(evidence: HostEvidence) -> list[tuple[str, str]]:
    domain = evidence.domain
    copies = [
        f"{copy.run_state}, transfer {copy.transfer_state}, {copy.driver}"
        + (f", process {copy.process_id}" if copy.process_id else "")
        + ("" if copy.managed else ", not managed by the daemon")
        for copy in evidence.copies
    ]
    images = [
        f"{image.path}: {image.state}"
        + (f" by process {', '.join(map(str, image.holders))}" if image.holders else "")
        + (f" ({image.detail})" if image.detail else "")
        for image in evidence.images
    ]
    return [
        ("domain", f"{domain.state} ({domain.reason})" if domain else "not defined here"),
        ("journal", "\n".join(map(_record, evidence.records)) or "nothing about it"),
        ("copies", "\n".join(copies) or "none"),
        ("images held for writing", "\n".join(images)),
        ("not seen", "\n".join(evidence.problems)),
    ]


def _record(record: RecordEvidence) -> str:
    open_ = "" if record.settled else ", not settled"
    peer = f" with {record.peer_uri}" if record.peer_uri else ""
    peer = f" to a receiver at {record.receiver_uri}" if record.receiver_uri else peer
    decided = f", decided by {record.resolution.who}" if record.resolution else ""
    return f"{record.state}{open_}, {record.side} of {record.migration_id}{peer} since {moment(record.started_s)}{decided}"


@click.command()
@NAME
@click.option("--keep-here", "keep", flag_value=Keep.HERE.value, help="The copy of the host that is told lives on.")
@click.option("--keep-there", "keep", flag_value=Keep.THERE.value, help="The copy of the host that is told is destroyed.")
@click.option("--fenced", is_flag=True, help="The other host cannot run its copy, now or later. Without it you are asked.")
@click.option("--why", default="", metavar="TEXT", help="Kept in the journal.")
@click.option("--migration", "migration_id", metavar="ID", help="Only this migration.")
@click.option(
    "--although-peer-answers", is_flag=True, help="Decide although the other host answers, if that settles nothing."
)
@asynchronous
async def resolve(
    session: Session,
    name: str,
    keep: str | None,
    fenced: bool,  # noqa: FBT001 - click's spelling of an option
    why: str,
    migration_id: str | None,
    although_peer_answers: bool,  # noqa: FBT001
) -> None:
    """Decide about a guest whose other host is gone.

    Look first with `vmferry where`, and fence the other host: cut its power, or take its storage away. The decision is
    written to the journal with who, when and why; a host that comes back obeys it.
    """
    if keep is None:
        raise click.UsageError("say --keep-here or --keep-there")
    async with session.daemon() as daemon:
        oversight = Oversight(daemon)
        confirmed = fenced or _confirmed(session, name, Keep(keep), await oversight.examine(name))
        order = Order(
            name,
            Keep(keep),
            migration_id=MigrationId(migration_id) if migration_id else None,
            fenced=confirmed,
            although_peer_answers=although_peer_answers,
            who=_operator(),
            why=why,
        )
        record = await oversight.resolve(order)
    if session.json:
        click.echo(render.as_json(record))
    else:
        kept = "lives on here" if keep == Keep.HERE else "is given up here"
        render.line(render.stdout(), f"{name} {kept}: migration {record.migration_id} is {record.state}")


def _confirmed(session: Session, name: str, keep: Keep, evidence: HostEvidence) -> bool:
    """The operator has typed the name of the guest; never where nobody can be asked."""
    if session.json or not sys.stdin.isatty():
        return False
    console = render.stderr()
    render.line(console, ("host ", "dim"), (evidence.host_name, "bold"))
    render.facts(console, _facts(evidence), indent=2)
    consequence = (
        f"If the other host runs its copy, now or later, {name} runs twice and its disks are destroyed."
        if keep is Keep.HERE
        else f"The copy of {name} on {evidence.host_name} will be destroyed. If the other host has none, the guest is lost."
    )
    render.line(console, (consequence, "bold red"))
    typed: str = click.prompt(
        "Type the name of the guest if the other host is fenced", default="", show_default=False, err=True
    )
    return typed.strip() == name


def _operator() -> str:
    """Who decides, as this machine knows them."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


COMMANDS: tuple[click.Command, ...] = (where, resolve)
