"""Commands about domains: define, start, look, stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import click

from vmferry.cli import render
from vmferry.cli.named import NAME
from vmferry.cli.options import text_of
from vmferry.cli.running import Session, asynchronous
from vmferry.cli.units import size
from vmferry.model import DomainInfo, DomainState

HEADINGS = ("Id", "Name", "State", "Reason", "Memory", "CPUs", "Persistent")

ACTIVE = tuple(state for state in DomainState if state.active)
INACTIVE = tuple(state for state in DomainState if not state.active)


@click.command()
@click.argument("file", type=click.File("rb"))
@asynchronous
async def define(session: Session, file: IO[bytes]) -> None:
    """Store the domain XML in FILE.

    `-` is standard input. A definition that is refused is refused with every finding.
    """
    xml = text_of(file)
    async with session.daemon() as daemon:
        domain = await daemon.define(xml)
    _done(session, domain.name, "defined", domain)


@click.command()
@NAME
@asynchronous
async def undefine(session: Session, name: str) -> None:
    """Forget the stored definition.

    An active domain goes on, and becomes transient.
    """
    async with session.daemon() as daemon:
        await daemon.undefine(name)
    _done(session, name, "undefined")


@click.command()
@click.option("--paused", is_flag=True, help="The guest exists and stands still.")
@NAME
@asynchronous
async def start(session: Session, name: str, paused: bool) -> None:  # noqa: FBT001 - click's spelling of an option
    """Start the guest."""
    async with session.daemon() as daemon:
        domain = await (daemon.start_paused(name) if paused else daemon.start(name))
    _done(session, domain.name, "started, and stands paused" if paused else "started", domain)


@click.command()
@NAME
@asynchronous
async def shutdown(session: Session, name: str) -> None:
    """Ask the guest to shut down.

    Whether it obeys is its own business.
    """
    async with session.daemon() as daemon:
        await daemon.shutdown(name)
    _done(session, name, "asked to shut down")


@click.command()
@NAME
@asynchronous
async def destroy(session: Session, name: str) -> None:
    """End the guest at once, as if its power were cut."""
    async with session.daemon() as daemon:
        await daemon.destroy(name)
    _done(session, name, "destroyed")


@click.command()
@NAME
@asynchronous
async def suspend(session: Session, name: str) -> None:
    """Stop the guest's CPUs; its memory stays."""
    async with session.daemon() as daemon:
        await daemon.suspend(name)
    _done(session, name, "suspended")


@click.command()
@NAME
@asynchronous
async def resume(session: Session, name: str) -> None:
    """Let a suspended guest go on."""
    async with session.daemon() as daemon:
        await daemon.resume(name)
    _done(session, name, "resumed")


@click.command(name="list")
@click.option("--all", "which", flag_value="all", help="Active and inactive domains.")
@click.option("--inactive", "which", flag_value="inactive", help="Inactive domains.")
@asynchronous
async def list_domains(session: Session, which: str | None) -> None:
    """List the active domains."""
    states = {"all": (), "inactive": INACTIVE}.get(which or "", ACTIVE)
    async with session.daemon() as daemon:
        known = await daemon.domains(*states)
    if session.json:
        click.echo(render.as_json(known))
    else:
        render.table(render.stdout(), HEADINGS, map(_row, known))


@click.command()
@NAME
@asynchronous
async def info(session: Session, name: str) -> None:
    """Show what the host knows of one domain.

    An active one comes with what the host allotted to its devices: pty paths, the VNC port.
    """
    async with session.daemon() as daemon:
        domain = await daemon.domain(name)
        devices = dict(await daemon.devices(name)) if domain.state.active else {}
    if session.json:
        click.echo(render.as_json({"domain": domain, "devices": devices}))
        return
    console = render.stdout()
    aliases = [(f"Device {alias}", fact) for alias, fact in sorted(devices.items())]
    render.facts(console, [*_facts(domain), *aliases])


@click.command()
@click.option("--inactive", is_flag=True, help="The stored definition, which the next start will use.")
@NAME
@asynchronous
async def dumpxml(session: Session, name: str, inactive: bool) -> None:  # noqa: FBT001 - click's spelling of an option
    """Print the definition as XML.

    It is the running guest's if there is one, else the stored one.
    """
    async with session.daemon() as daemon:
        xml = await (daemon.stored_xml(name) if inactive else daemon.xml(name))
    if session.json:
        click.echo(render.as_json({"domain": name, "xml": xml}))
    else:
        click.echo(xml, nl=not xml.endswith("\n"))


def _done(session: Session, name: str, what: str, domain: DomainInfo | None = None) -> None:
    if session.json:
        click.echo(render.as_json({"name": name, "done": what} | ({"domain": domain} if domain else {})))
    else:
        render.line(render.stdout(), f"{name}: {what}")


def _row(domain: DomainInfo) -> Sequence[str]:
    return (
        "" if domain.id is None else str(domain.id),
        domain.name,
        domain.state,
        domain.reason,
        size(domain.memory_bytes),
        str(domain.vcpus),
        "yes" if domain.persistent else "no",
    )


def _facts(domain: DomainInfo) -> list[tuple[str, str]]:
    return [
        ("Id", "-" if domain.id is None else str(domain.id)),
        ("Name", domain.name),
        ("UUID", domain.uuid),
        ("Type", domain.domain_type),
        ("State", f"{domain.state} ({domain.reason})"),
        ("CPUs", str(domain.vcpus)),
        ("Memory", size(domain.memory_bytes)),
        ("Persistent", "yes" if domain.persistent else "no"),
        ("Migration", domain.migration_id or ""),
    ]


COMMANDS: tuple[click.Command, ...] = (
    list_domains,
    info,
    define,
    undefine,
    start,
    shutdown,
    destroy,
    suspend,
    resume,
    dumpxml,
)
