"""The same guest, moved by the program `vmferry` between two daemons, as a user does it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.by_hand import BEATS
from bench.guests import DEFAULT_LIMIT_MS, GuestKind, Move, Way
from bench.ordering import ordered
from support.certificates import certificates_of
from support.guest import GuestImage
from support.hosts import Host, alive
from support.ports import free_port
from support.traveller import NAME, Traveller
from support.waiting import eventually
from vmferry.client import Connection, connect
from vmferry.model import Statistics

PROGRAM = Path(sys.executable).with_name("vmferry")
SETTLED_S = 30.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two daemons. `uris` are what a client and the other daemon say."""

    hosts: tuple[Host, Host]
    uris: tuple[str, str]

    async def move(self, kind: GuestKind, way: Way, traveller: Traveller, number: int) -> Move:
        """A fresh guest has moved once; it is gone afterwards, from both hosts."""
        async with connect(self.uris[0]) as source, connect(self.uris[1]) as destination:
            await traveller.start(source)
            await traveller.heard(BEATS)
            definition = traveller.directory / "definition.xml"
            definition.write_text(await traveller.next_xml(source))
            words = _words(way, self.uris[1], definition)
            daemons = [host.process.pid for host in self.hosts if host.process is not None]
            order = await ordered(daemons, str(PROGRAM), "-c", self.uris[0], *words)
            await traveller.heard(BEATS)
            found = await _figures(source)
            await _forget(source, destination)
        judgement = traveller.judgement()
        return Move(
            guest=kind.name,
            way=way,
            round=number,
            wall_ms=order.wall_ms,
            total_ms=found.elapsed_ms,
            pause_ms=judgement.hand_overs[0].pause_ms,
            transferred_bytes=found.memory_processed_bytes,
            source_cpu_s=order.source_cpu_s,
            destination_cpu_s=order.destination_cpu_s,
            client_cpu_s=order.client_cpu_s,
            load=order.load,
            faults=judgement.faults(),
        )


def _words(way: Way, uri: str, definition: Path) -> list[str]:
    words = ["migrate", "--live", NAME, uri, "--xml", str(definition)]
    words += ["--tunnelled"] if way.is_tunnelled else []
    return words + (["--fixed-downtime", str(DEFAULT_LIMIT_MS)] if way.is_fixed else [])


async def _figures(source: Connection) -> Statistics:
    await eventually(lambda: _has_ended(source), SETTLED_S, what="the job ends")
    return (await source.newest_job(NAME)).statistics


async def _has_ended(source: Connection) -> bool:
    return (await source.newest_job(NAME)).ended_s is not None


async def _forget(source: Connection, destination: Connection) -> None:
    await destination.destroy(NAME)
    for host in (source, destination):
        if NAME in [domain.name for domain in await host.domains()]:
            await host.undefine(NAME)


@asynccontextmanager
async def plain(directory: Path) -> AsyncIterator[Pair]:
    """Two daemons that speak over loopback TCP, in the clear."""
    async with _pair(directory, "tcp", "") as made:
        yield made


@asynccontextmanager
async def encrypted(directory: Path) -> AsyncIterator[Pair]:
    """Two daemons that speak TLS with certificates of their own."""
    folder = certificates_of("vmferry bench", directory / "certificates")
    async with _pair(directory, "tls", f"?certificates={folder}", f"--certificates={folder}") as made:
        yield made


@asynccontextmanager
async def _pair(directory: Path, transport: str, query: str, *options: str) -> AsyncIterator[Pair]:
    uris = [f"vmferry+{transport}://127.0.0.1:{free_port()}" for _ in range(2)]
    made = [Host(name, directory / name, (f"--listen={uri}", *options)) for name, uri in zip("ab", uris, strict=True)]
    async with alive(*made):
        yield Pair((made[0], made[1]), (f"{uris[0]}{query}", f"{uris[1]}{query}"))


def traveller(kind: GuestKind, emulator: str | None, image: GuestImage, directory: Path) -> Traveller:
    """The guest, not started yet."""
    return Traveller(image, kind.settings, kind.memory_mib, directory, emulator)
