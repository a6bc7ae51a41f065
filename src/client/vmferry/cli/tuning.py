"""`migrate-setspeed` and its siblings: what migrations of a domain obey, under libvirt's names (specification 7.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import click

from vmferry.cli import render
from vmferry.cli.domjob import scaled
from vmferry.cli.named import DOMAIN, NamedArgument, NamedCommand
from vmferry.cli.running import Session, asynchronous
from vmferry.in_effect import UNLIMITED_MIB_PER_S, InEffect

POSTCOPY = click.option("--postcopy", is_flag=True, help="After the switch to post-copy.")


@click.command(name="migrate-setmaxdowntime", cls=NamedCommand)
@DOMAIN
@click.argument(
    "downtime_ms",
    cls=NamedArgument,
    option="--downtime",
    metavar="MS",
    type=click.IntRange(min=1),
    meaning="How long at most.",
)
@asynchronous
async def setmaxdowntime(session: Session, name: str, downtime_ms: int) -> None:
    """Set how long the switch may take, in ms.

    While it lasts the guest stands still. A migration that goes on obeys at once, and forgets it when it ends.
    """
    async with session.daemon() as daemon:
        await daemon.set_max_downtime(name, downtime_ms)
    _done(session, {"name": name, "max_downtime_ms": downtime_ms})


@click.command(name="migrate-getmaxdowntime", cls=NamedCommand)
@DOMAIN
@asynchronous
async def getmaxdowntime(session: Session, name: str) -> None:
    """Show how long the switch may take, in ms."""
    async with session.daemon() as daemon:
        downtime_ms = await daemon.max_downtime_ms(name)
    click.echo(render.as_json({"name": name, "max_downtime_ms": downtime_ms}) if session.json else downtime_ms)


@click.command(name="migrate-setspeed", cls=NamedCommand)
@POSTCOPY
@DOMAIN
@click.argument(
    "mib_per_s",
    cls=NamedArgument,
    option="--bandwidth",
    metavar="MIB_PER_S",
    type=click.IntRange(min=0, max=(1 << 64) - 1),
    meaning="How much at most; 0 is no limit.",
)
@asynchronous
async def setspeed(session: Session, name: str, mib_per_s: int, postcopy: bool) -> None:  # noqa: FBT001 - click's option
    """Set what migrations may send at most, in MiB/s.

    0 is unlimited; a migration that names a bandwidth obeys that. Kept with the domain, also while it is off. A migration
    that goes on obeys at once, and forgets it when it ends.
    """
    async with session.daemon() as daemon:
        await (daemon.set_max_postcopy_speed if postcopy else daemon.set_max_speed)(name, mib_per_s)
    _done(session, {"name": name, "max_speed_mib_per_s": mib_per_s})


@click.command(name="migrate-getspeed", cls=NamedCommand)
@POSTCOPY
@DOMAIN
@asynchronous
async def getspeed(session: Session, name: str, postcopy: bool) -> None:  # noqa: FBT001 - click's option
    """Show what migrations may send at most, in MiB/s.

    8796093022207 is unlimited.
    """
    async with session.daemon() as daemon:
        mib_per_s = await (daemon.max_postcopy_speed_mib_per_s if postcopy else daemon.max_speed_mib_per_s)(name)
    click.echo(render.as_json({"name": name, "max_speed_mib_per_s": mib_per_s}) if session.json else mib_per_s)


@click.command(name="migrate-compcache", cls=NamedCommand)
@click.option("--size", "cache_bytes", metavar="BYTES", type=click.IntRange(min=1), help="Set it first: a power of two.")
@DOMAIN
@asynchronous
async def compcache(session: Session, name: str, cache_bytes: int | None) -> None:
    """Show or set the size of xbzrle's cache.

    With it xbzrle finds what has changed of a page.
    """
    async with session.daemon() as daemon:
        if cache_bytes is not None:
            await daemon.set_compression_cache(name, cache_bytes)
        known_bytes = await daemon.compression_cache_bytes(name)
    if session.json:
        click.echo(render.as_json({"name": name, "compression_cache_bytes": known_bytes}))
    else:
        click.echo(f"Compression cache: {scaled(known_bytes)}")


def _done(session: Session, facts: Mapping[str, object]) -> None:
    """As virsh, these say nothing to people."""
    if session.json:
        click.echo(render.as_json(facts))


@click.command(name="migrate-postcopy", cls=NamedCommand)
@DOMAIN
@asynchronous
async def startpostcopy(session: Session, name: str) -> None:
    """Switch a migration that goes on to post-copy.

    The guest runs at the destination as soon as it can, and its pages follow. For a migration that was begun with
    --postcopy, while it sends memory.
    """
    async with session.daemon() as daemon:
        await daemon.start_postcopy(name)
    _done(session, {"name": name, "started_postcopy": True})


PERCENT = click.IntRange(1, 99)


@click.command(name="migrate-tune", cls=NamedCommand)
@click.option("--auto-converge-initial", metavar="PERCENT", type=PERCENT, help="How much the guest is slowed down at first.")
@click.option("--auto-converge-increment", metavar="PERCENT", type=PERCENT, help="How much more each time.")
@click.option(
    "--available-switchover-bandwidth",
    metavar="MIB_PER_S",
    type=click.IntRange(min=0, max=(1 << 64) - 1),
    help="What the rest is believed to be sent at; 0 is what is measured.",
)
@DOMAIN
@asynchronous
async def tune(
    session: Session,
    name: str,
    auto_converge_initial: int | None,
    auto_converge_increment: int | None,
    available_switchover_bandwidth: int | None,
) -> None:
    """Show or change what a migration obeys.

    Change what has no command of its own while the guest is sent; it is obeyed at once, and forgotten at the end. The
    first two are for a migration that was begun with --auto-converge. The other values: migrate-setmaxdowntime,
    migrate-setspeed, migrate-compcache.
    """
    async with session.daemon() as daemon:
        found = await daemon.tune_migration(
            name,
            auto_converge_initial_percent=auto_converge_initial,
            auto_converge_increment_percent=auto_converge_increment,
            switchover_bandwidth_mib_per_s=available_switchover_bandwidth,
        )
    if session.json:
        click.echo(render.as_json({"name": name, **asdict(found)}))
        return
    for what, value in _in_words(found):
        click.echo(f"{what + ':':<{_WIDTH}}{value}")


_WIDTH = 26


def _in_words(found: InEffect) -> Iterator[tuple[str, str]]:
    """What is known, for people."""
    if found.max_downtime_ms is not None:
        yield "Longest pause", f"{found.max_downtime_ms} ms"
    yield "Sent at most", _speed(found.bandwidth_mib_per_s)
    yield "In post-copy at most", _speed(found.postcopy_bandwidth_mib_per_s)
    switchover = found.switchover_bandwidth_mib_per_s
    yield "Rest is sent at", "what is measured" if switchover is None else _speed(switchover)
    if found.auto_converge_initial_percent is not None:
        more = found.auto_converge_increment_percent
        yield "If it is slowed down", f"by {found.auto_converge_initial_percent} % at first, then by {more} % more"
    if found.compression_cache_bytes is not None:
        yield "Compression cache", scaled(found.compression_cache_bytes)


def _speed(mib_per_s: int) -> str:
    return "unlimited" if mib_per_s >= UNLIMITED_MIB_PER_S else f"{mib_per_s} MiB/s"


COMMANDS: tuple[click.Command, ...] = (startpostcopy, setmaxdowntime, getmaxdowntime, setspeed, getspeed, compcache, tune)
