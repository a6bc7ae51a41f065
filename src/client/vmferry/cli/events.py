"""`events`: what happens to the domains of one host, as it happens."""

from __future__ import annotations

import click

from vmferry.cli import render
from vmferry.cli.completion import domain_names
from vmferry.cli.running import Session, asynchronous
from vmferry.cli.units import counted, moment
from vmferry.model import DomainEvent


@click.command()
@click.argument("name", required=False, shell_complete=domain_names)
@asynchronous
async def events(session: Session, name: str | None) -> None:
    """Watch what happens to the domains, or to one.

    From now on; one line each, until Ctrl-C.
    """
    async with session.daemon() as daemon:
        async for event in daemon.watch_domains():
            if event.missed and not session.json:
                click.echo(f"{counted(event.missed, 'event')} missed: this program was too slow for them", err=True)
            if name is None or name in (event.domain_name, event.domain_uuid):
                click.echo(render.as_json(event) if session.json else _line(event))


def _line(event: DomainEvent) -> str:
    migration = f"  migration {event.migration_id}" if event.migration_id else ""
    return render.harmless(f"{moment(event.at_s)}  {event.domain_name}  {event.kind} {event.detail}{migration}")


COMMANDS: tuple[click.Command, ...] = (events,)
