"""`make demo`: two daemons on this machine, a guest that checks itself, there and back, and the end of everything.

The commands that are shown are the ones that are run. A QEMU guest where QEMU is present, the in-memory driver otherwise.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from support.guest.build import GuestImage, GuestSettings, GuestUnavailable, build_guest, kernel_command_line
from support.heartbeats import Judgement, judge
from support.hosts import Host, hosts
from support.serial_recorder import SerialRecorder
from support.tools import GUEST_CACHE, qemu_missing
from support.waiting import eventually
from vmferry.client import Connection, connect

MEMORY_MIB = 512
READY_S = 180.0
console = Console(highlight=False)

SIMULATED_XML = """
<domain type='test'>
  <name>traveller</name>
  <memory unit='MiB'>512</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <metadata><vmferry:test xmlns:vmferry='urn:vmferry:test:1' dirty-rate-pages-per-s='500'/></metadata>
</domain>
"""

QEMU_XML = """
<domain type='qemu'>
  <name>traveller</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    <serial type='file'><source path='{serial}' append='on'/><target port='0'/></serial>
  </devices>
</domain>
"""


async def main() -> int:
    """The demo has run; answers its exit code."""
    image, why = _image()
    kind = "a QEMU guest" if image else f"the in-memory driver, because {why}"
    console.rule("[bold]vmferry demo")
    console.print(f"Two daemons on this machine, and one guest: {kind}.\n")
    with tempfile.TemporaryDirectory(prefix="vmf") as folder:
        directory = Path(folder)
        async with hosts(directory, "host-a", "host-b") as (first, second):
            async with _started(first, directory, image) as recorder:
                good = await _tour(first, second, recorder)
            left = [*first.leftovers(), *second.leftovers()]
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
async def _started(host: Host, directory: Path, image: GuestImage | None) -> AsyncIterator[SerialRecorder | None]:
    serial, definition = directory / "serial", directory / "traveller.xml"
    if image is None:
        definition.write_text(SIMULATED_XML)
        await _start(host, definition)
        yield None
        return
    command_line = kernel_command_line(GuestSettings(dirty_mib_s=50, workset_mib=64))
    definition.write_text(
        QEMU_XML.format(
            memory_mib=MEMORY_MIB, kernel=image.kernel, initrd=image.initrd, command_line=command_line, serial=serial
        )
    )
    async with SerialRecorder.fifo(serial) as recorder:
        await _start(host, definition)
        console.print(
            f"The guest boots and fills {MEMORY_MIB} MiB with a pattern; then it rewrites 50 MiB of it each second.\n"
        )
        await recorder.wait_until_ready(READY_S)
        yield recorder


async def _start(host: Host, definition: Path) -> None:
    await _run("-c", host.uri, "define", str(definition))
    await _run("-c", host.uri, "start", "traveller")


async def _tour(first: Host, second: Host, recorder: SerialRecorder | None) -> bool:
    """There and back, then the guest's own word."""
    for here, there in ((first, second), (second, first)):
        await _run("-c", here.uri, "migrate", "--live", "traveller", there.uri)
        await _beats(there, recorder)
    good = await _verdict(first, recorder)
    await _run("-c", first.uri, "destroy", "traveller")
    await _run("-c", first.uri, "undefine", "traveller")
    return good


async def _beats(host: Host, recorder: SerialRecorder | None) -> None:
    """The guest has lived for about a second where it is now."""
    if recorder is None:
        async with connect(host.uri) as connection:
            before = await _heartbeat(connection)

            async def beaten() -> bool:
                return await _heartbeat(connection) >= before + 10

            await eventually(beaten, READY_S)
        return
    heard = len(recorder.recording())
    await recorder.wait_until(lambda lines: len(lines) > heard + 100)


async def _heartbeat(connection: Connection) -> int:
    return int((await connection.devices("traveller"))["heartbeat"])


async def _verdict(host: Host, recorder: SerialRecorder | None) -> bool:
    if recorder is None:
        async with connect(host.uri) as connection:
            facts = await connection.devices("traveller")
        console.print(f"\nThe guest says: {facts['heartbeat']} heartbeats, {facts['damaged-pages']} damaged pages.")
        return facts["damaged-pages"] == "0"
    rounds = judge([recorder.recording()]).verified_rounds
    await recorder.wait_until(lambda lines: judge([lines]).verified_rounds >= rounds + 2, READY_S)
    judgement: Judgement = judge([recorder.recording()])
    console.print(
        f"\nThe guest says: {len(judgement.beats)} heartbeats, {len(judgement.missing)} missing, "
        f"{len(judgement.doubled)} doubled; all of its memory read {judgement.verified_rounds} times, "
        f"{judgement.corrupt_pages} corrupt pages."
    )
    for fault in judgement.faults():
        console.print(f"[red]{fault}")
    return not judgement.faults()


async def _run(*arguments: str) -> None:
    """`vmferry` has run with these arguments, as a user would run it.

    Raises:
        SystemExit: it failed.
    """
    console.print(f"[dim]$[/dim] [bold]vmferry {shlex.join(arguments)}")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "vmferry.cli", *arguments)
    if code := await process.wait():
        raise SystemExit(f"vmferry ended with {code}")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
