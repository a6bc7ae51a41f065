"""`migrate`: a guest moves to another host, and its user sees how."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import IO, Any

import click

from vmferry.channel import parse_uri
from vmferry.cli import display, render
from vmferry.cli.conduct import Conductor, Order, circumstances
from vmferry.cli.named import DOMAIN, NAME, NamedArgument, NamedCommand
from vmferry.cli.options import migration_options, read, text_of
from vmferry.cli.progress import Tracker
from vmferry.cli.running import Session, asynchronous
from vmferry.cli.spoken import Subject
from vmferry.cli.timeouts import Timeout, read_timeout, timeout_options
from vmferry.client import Connection
from vmferry.combinations import Fact
from vmferry.flags import Flag
from vmferry.model import new_migration_id
from vmferry.negotiation import Mode, Path
from vmferry.protocol import ProtocolVersion, Spelling


@click.command(cls=NamedCommand)
@DOMAIN
@click.argument(
    "destination_uri", cls=NamedArgument, option="--desturi", required=False, default="", meaning="The daemon there."
)
@migration_options
@timeout_options
@click.option(
    "--postcopy-after-precopy", is_flag=True, help="With --postcopy: the switch comes when all memory was sent once."
)
@click.option("--verbose", is_flag=True, help="Progress is shown anyway; taken for virsh's sake.")
@click.option(
    "--direct", is_flag=True, help="No daemon is there: the guest goes to a hypervisor that listens at --migrateuri."
)
@click.option("--detach", is_flag=True, help="With --p2p: end when the migration is under way, and say how to follow it.")
@asynchronous
async def migrate(
    session: Session,
    /,
    name: str,
    destination_uri: str,
    direct: bool,  # noqa: FBT001 - click's spelling of an option
    detach: bool,  # noqa: FBT001
    verbose: bool,  # noqa: ARG001, FBT001
    **given: Any,
) -> None:
    """Move a guest to another host.

    DESTINATION_URI names the daemon there; the source gives its copy up. With --p2p it is the source's daemon that connects
    there, so the URI is what leads there from the source's host, and the migration goes on when this program ends. With
    --direct there is no DESTINATION_URI: `vmferry receiver` prints how to start the hypervisor that receives.

    Ctrl-C asks the source to end the migration and waits for the answer; a second Ctrl-C leaves the migration to the two
    hosts. SIGTERM does what the first Ctrl-C does.
    """
    flags, params = read(given, facts=frozenset({Fact.DIRECT_OFFERED}) if direct else frozenset())
    timeout = read_timeout(given, flags)
    after_precopy = bool(given.get("postcopy_after_precopy"))
    if after_precopy and Flag.POSTCOPY not in flags:
        raise click.UsageError("--postcopy-after-precopy needs --postcopy: both hosts must be ready for the switch")
    if direct and Flag.PEER2PEER in flags:
        raise click.UsageError("--direct asks no daemon at the destination, and --p2p needs one: leave out one of the two")
    if not (direct or destination_uri):
        raise click.UsageError("say where the destination's daemon is, or --direct if there is none")
    if direct and not params.migrate_uri:
        raise click.UsageError("--direct needs --migrateuri: nobody else can say where the hypervisor listens")
    if detach:
        _check_detach(flags, timeout)
    order = Order(new_migration_id(), name, flags, params, timeout, after_precopy)
    async with AsyncExitStack() as connections:
        with render.waiting(f"connecting to {session.uri} {destination_uri}".rstrip()):
            source = await connections.enter_async_context(session.daemon())
            destination: Connection | str = destination_uri
            if not direct and Flag.PEER2PEER not in flags:
                destination = await connections.enter_async_context(session.other_daemon(destination_uri))
        await (_send_off if detach else _move)(session, source, destination, order)


def _check_detach(flags: Flag, timeout: Timeout | None) -> None:
    if Flag.PEER2PEER not in flags:
        raise click.UsageError(
            "--detach needs --p2p: without it this program itself leads the migration from host to host, and cannot leave it"
        )
    if timeout is not None:
        raise click.UsageError("--timeout and --detach exclude each other: nobody would be there to look at the clock")


async def _send_off(session: Session, source: Connection, destination: Connection | str, order: Order) -> None:
    """The migration goes on without this program, which has said how to follow it."""
    conductor = Conductor(source, destination, order, display.Nothing())
    with render.waiting(f"waiting until {order.domain} is on its way"), conductor.interrupts.from_signals():
        await conductor.set_going()
    follow = f"vmferry -c {session.uri} job watch {order.migration_id}"
    if session.json:
        click.echo(render.as_json({"event": "detached", "migration_id": order.migration_id, "watch": follow}))
        return
    render.line(render.stdout(), f"{order.domain} is on its way, migration {order.migration_id}")
    render.line(render.stdout(), f"follow it with: {follow}")


async def _move(session: Session, source: Connection, destination: Connection | str, order: Order) -> None:
    started_s = time.monotonic()
    is_direct = isinstance(destination, str) and Flag.PEER2PEER not in order.flags
    mode = Mode.DIRECT if is_direct else Mode.REGULAR
    source_host, destination_host, known = await asyncio.gather(
        _name_of(source), _name_there(destination, order), circumstances(source, order.domain, order.flags, order.params)
    )
    phases = Path(ProtocolVersion.V3, Spelling.PARAMS, mode, order.flags).profile.phases
    subject = Subject(order.migration_id, f"{order.domain} from {source_host} to {destination_host}")
    tracker = Tracker(phases, started_s, known)
    with display.chosen(subject, tracker, json=session.json) as shown:
        conductor = Conductor(source, destination, order, shown)
        with conductor.interrupts.from_signals():
            done = await conductor.conduct()
    total_ms = round((time.monotonic() - started_s) * 1000)
    if session.json:
        click.echo(render.as_json(render.summary_facts(done, source_host, destination_host, total_ms)))
    else:
        render.summary(render.stdout(), done, order.domain, destination_host, total_ms)


async def _name_of(daemon: Connection) -> str:
    return (await daemon.version()).host_name


async def _name_there(destination: Connection | str, order: Order) -> str:
    """How the destination is called: by itself, or by whoever names a way to it."""
    if not isinstance(destination, str):
        return await _name_of(destination)
    if Flag.PEER2PEER in order.flags:
        return parse_uri(destination).host or destination
    return order.params.migrate_uri or ""


@click.command()
@click.option("--incoming", "uri", required=True, metavar="URI", help="Where it listens: tcp:HOST:PORT or unix:/PATH.")
@click.option("--paused", is_flag=True, help="The guest stands still on arrival, until the receiver's monitor hears `cont`.")
@click.option(
    "--xml", "file", type=click.File("rb"), help="A definition in place of the domain's, with other paths or bridges."
)
@click.option("--directory", default="", metavar="DIR", help="Where its own sockets go; by default where it is started.")
@NAME
@asynchronous
async def receiver(session: Session, name: str, uri: str, paused: bool, file: IO[bytes] | None, directory: str) -> None:  # noqa: FBT001
    """Print how to start a receiver for `--direct`.

    It is the command line of one that receives the guest where no daemon is. Start it there, then call `vmferry migrate
    --direct NAME --migrateuri URI`. A guest that stands still now does so on arrival, too, and then needs --suspend.
    """
    xml = text_of(file) if file else ""
    async with session.daemon() as daemon:
        words = await (daemon.receiver_paused if paused else daemon.receiver)(name, uri, xml=xml, directory=directory)
    click.echo(render.as_json({"domain": name, "words": words}) if session.json else render.shell_command(words))


COMMANDS: tuple[click.Command, ...] = (migrate, receiver)
