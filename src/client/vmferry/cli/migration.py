"""`migrate`: a guest moves to another host, and its user sees how."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Any

import click

from vmferry.channel import parse_uri
from vmferry.cli import display, render
from vmferry.cli.conduct import Conductor, Order
from vmferry.cli.frame import Subject
from vmferry.cli.options import migration_options, read
from vmferry.cli.progress import Tracker
from vmferry.cli.running import Session, asynchronous
from vmferry.client import Connection
from vmferry.flags import Flag
from vmferry.model import new_migration_id
from vmferry.negotiation import Mode, Path
from vmferry.protocol import ProtocolVersion, Spelling


@click.command()
@migration_options
@click.option("--verbose", is_flag=True, help="Progress is shown anyway; taken for virsh's sake.")
@click.argument("name")
@click.argument("destination_uri")
@asynchronous
async def migrate(session: Session, /, name: str, destination_uri: str, verbose: bool, **given: Any) -> None:  # noqa: ARG001, FBT001
    """The guest lives at another host.

    DESTINATION_URI names the daemon there; the source gives its copy up. With --p2p it is the source's daemon that connects
    there, so the URI is what leads there from the source's host, and the migration goes on when this program ends.

    Ctrl-C asks the source to end the migration and waits for the answer; a second Ctrl-C leaves the migration to the two
    hosts. SIGTERM does what the first Ctrl-C does.
    """
    flags, params = read(given)
    order = Order(new_migration_id(), name, flags, params)
    async with AsyncExitStack() as connections:
        with render.waiting(f"connecting to {session.uri} and {destination_uri}"):
            source = await connections.enter_async_context(session.daemon())
            destination: Connection | str = destination_uri
            if Flag.PEER2PEER not in flags:
                destination = await connections.enter_async_context(session.other_daemon(destination_uri))
        await _move(session, source, destination, order)


async def _move(session: Session, source: Connection, destination: Connection | str, order: Order) -> None:
    source_host = (await source.version()).host_name
    if isinstance(destination, str):
        destination_host = parse_uri(destination).host or destination
    else:
        destination_host = (await destination.version()).host_name
    started_s = time.monotonic()
    phases = Path(ProtocolVersion.V3, Spelling.PARAMS, Mode.REGULAR, order.flags).profile.phases
    subject = Subject(order.migration_id, f"{order.domain} from {source_host} to {destination_host}")
    with display.chosen(subject, Tracker(phases, started_s), json=session.json) as shown:
        conductor = Conductor(source, destination, order, shown)
        with conductor.interrupts.from_signals():
            done = await conductor.conduct()
    total_ms = round((time.monotonic() - started_s) * 1000)
    if session.json:
        click.echo(render.as_json(render.summary_facts(done, source_host, destination_host, total_ms)))
    else:
        render.summary(render.stdout(), done, order.domain, destination_host, total_ms)


COMMANDS: tuple[click.Command, ...] = (migrate,)
