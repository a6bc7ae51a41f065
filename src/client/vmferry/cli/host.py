"""Commands about a host: who answers there, and what it can do."""

from __future__ import annotations

import re
from dataclasses import asdict
from importlib import metadata

import click

from vmferry.cli import render
from vmferry.cli.running import Session, asynchronous
from vmferry.features import Feature
from vmferry.model import DriverInfo


def client_version() -> str:
    """The version of this client; `unknown` where it is not installed but run from its source."""
    try:
        return metadata.version("vmferry")
    except metadata.PackageNotFoundError:
        return "unknown"


@click.command()
@asynchronous
async def version(session: Session) -> None:
    """Show who answers: versions and the host's name."""
    async with session.daemon() as daemon:
        answer = await daemon.version()
    known = {
        "client": client_version(),
        "daemon": answer.version,
        "host_name": answer.host_name,
        "host_uuid": answer.host_uuid,
        "uri": session.uri,
    }
    if session.json:
        click.echo(render.as_json(known))
        return
    names = {"client": "Client", "daemon": "Daemon", "host_name": "Host", "host_uuid": "Host UUID", "uri": "URI"}
    render.facts(render.stdout(), [(names[name], value) for name, value in known.items()])


@click.command()
@asynchronous
async def capabilities(session: Session) -> None:
    """Show what the host can do.

    Its drivers, those that do not work with the reason, and the features that the daemon announces.
    """
    async with session.daemon() as daemon:
        answer = await daemon.capabilities()
    features = [feature_name(number) for number in answer.features]
    if session.json:
        drivers = [asdict(driver) for driver in answer.drivers]
        click.echo(render.as_json({"drivers": drivers, "features": features}))
        return
    console = render.stdout()
    for driver in answer.drivers:
        render.line(console, ("driver ", "dim"), (driver.name, "bold"))
        render.facts(console, _driver_lines(driver), indent=2)
    render.line(console, ("features announced", "bold"))
    render.line(console, "  " + (", ".join(features) or "none"))


def feature_name(number: int) -> str:
    """The name that libvirt has for a feature, or its number where this client is older than the daemon."""
    return Feature(number).name if number in set(Feature) else f"feature {number}"


def _driver_lines(driver: DriverInfo) -> list[tuple[str, str]]:
    return [
        ("state", f"unavailable: {driver.unavailable}" if driver.unavailable else "available"),
        ("version", driver.version),
        ("domain types", ", ".join(driver.domain_types)),
        ("features", ", ".join(driver.features)),
        ("machines", ", ".join(sorted(driver.machines, key=_by_version))),
    ]


def _by_version(name: str) -> list[tuple[int, str]]:
    """For sorting: 2.10 comes after 2.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


COMMANDS: tuple[click.Command, ...] = (version, capabilities)
