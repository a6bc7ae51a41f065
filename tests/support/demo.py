"""`make demo`: two daemons on this machine, a guest that checks itself, there and back, and the end of everything.

The commands that are shown are the ones that are run. A QEMU guest where QEMU is present, the in-memory driver otherwise.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from support.guest.build import GuestImage, GuestSettings, GuestUnavailable, build_guest, kernel_command_line
from support.hosts import hosts
from support.tools import GUEST_CACHE, qemu_missing
from support.waiting import eventually
from vmferry.client import Connection, connect
from vmferry_demo.guest import NAME, Machine
from vmferry_demo.serial_recorder import SerialRecorder
from vmferry_demo.tour import READY_S, SerialWitness, Station, Testimony, Tour, Way, Witness

MEMORY_MIB = 512
WAY = Way("regular")
console = Console(highlight=False)

SIMULATED_XML = f"""
<domain type='test'>
  <name>{NAME}</name>
  <memory unit='MiB'>512</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <metadata><vmferry:test xmlns:vmferry='urn:vmferry:test:1' dirty-rate-pages-per-s='500'/></metadata>
</domain>
"""


class SimulatedWitness:
    """Knows how a simulated guest is from the daemon that simulates it."""

    async def lives_on(self, host: Station) -> None:
        """See Witness."""
        async with connect(host.uri) as connection:
            before = await _heartbeat(connection)

            async def beaten() -> bool:
                return await _heartbeat(connection) >= before + 10

            await eventually(beaten, READY_S)

    async def testimony(self, host: Station) -> Testimony:
        """See Witness."""
        async with connect(host.uri) as connection:
            facts = await connection.devices(NAME)
        words = f"{facts['heartbeat']} heartbeats, {facts['damaged-pages']} damaged pages."
        return Testimony(words, () if facts["damaged-pages"] == "0" else ("pages are damaged",))


async def _heartbeat(connection: Connection) -> int:
    return int((await connection.devices(NAME))["heartbeat"])


async def main() -> int:
    """The demo has run; answers its exit code."""
    image, why = _image()
    kind = "a QEMU guest" if image else f"the in-memory driver, because {why}"
    console.rule("[bold]vmferry demo")
    console.print(f"Two daemons on this machine, and one guest: {kind}.\n")
    with tempfile.TemporaryDirectory(prefix="vmf") as folder:
        directory = Path(folder)
        async with hosts(directory, "host-a", "host-b") as both:
            first, second = (Station(host.name, host.uri) for host in both)
            async with _witness(directory, image) as witness:
                good = await _toured(Tour(witness, console), directory / "traveller.xml", first, second)
            left = [*both[0].leftovers(), *both[1].leftovers()]
    console.print("Nothing is left behind." if not left else f"[red]Left behind: {left}")
    return 0 if good and not left else 1


def _image() -> tuple[GuestImage | None, str]:
    if missing := qemu_missing():
        return None, missing
    try:
        console.print("Building the guest that checks itself (a small C program on Debian's cloud kernel) …")
        return build_guest(GUEST_CACHE), ""
    except GuestUnavailable as reason:
        return None, str(reason)


@asynccontextmanager
async def _witness(directory: Path, image: GuestImage | None) -> AsyncIterator[Witness]:
    """Somebody listens to the guest, whose definition is in that folder."""
    definition = directory / "traveller.xml"
    if image is None:
        definition.write_text(SIMULATED_XML)
        yield SimulatedWitness()
        return
    settings = GuestSettings(dirty_mib_s=50, workset_mib=64)
    machine = Machine(image.kernel, image.initrd, kernel_command_line(settings), directory / "serial", MEMORY_MIB)
    definition.write_text(machine.definition())
    async with SerialRecorder.fifo(machine.serial) as recorder:
        yield SerialWitness(recorder, 1000 // settings.beat_ms)


async def _toured(tour: Tour, definition: Path, first: Station, second: Station) -> bool:
    """The guest was there and back, and is gone; whether all is well."""
    await tour.run("-c", first.uri, "define", str(definition))
    await tour.run("-c", first.uri, "start", NAME)
    if isinstance(tour.witness, SerialWitness):
        console.print(
            f"The guest boots and fills {MEMORY_MIB} MiB with a pattern; then it rewrites 50 MiB of it each second.\n"
        )
        await tour.witness.recorder.wait_until_ready(READY_S)
    await tour.there_and_back(WAY, first, second)
    good = await tour.ended(first, second)
    await tour.run("-c", first.uri, "destroy", NAME)
    await tour.run("-c", first.uri, "undefine", NAME)
    return good


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
