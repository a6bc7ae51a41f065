"""QEMU migrated by hand, with nobody between: the proof that the guest tells the truth, and a base line.

    PYTHONPATH=tests python -m support.guest.raw_migration --memory-mib 512 --hops 5

Prints a line for each hop and a verdict; ends with 1 if anything was corrupt, missing or doubled.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, EventListener, QMPClient, QMPError

from support.guest import GuestImage, GuestSettings, build_guest, kernel_command_line
from vmferry_demo.heartbeats import Judgement, Line, judge, parse_beat
from vmferry_demo.serial_recorder import SerialRecorder

_ENDED = {"completed", "failed", "cancelled"}


@dataclass(frozen=True)
class Options:
    """One run: a machine, a guest and how it travels."""

    hops: int
    memory_mib: int
    machine: str
    cpu: str
    accelerator: str
    serial: str
    append: str
    settle_s: float
    bandwidth_mib_s: int
    downtime_limit_ms: int


@dataclass
class Host:
    """A QEMU that runs, or will run, the guest; heard and driven."""

    process: asyncio.subprocess.Process
    monitor: QMPClient
    recorder: SerialRecorder


@dataclass(frozen=True)
class Hop:
    """What QEMU says about one migration, and what the clock on the wall says."""

    wall_ms: float
    total_ms: float
    downtime_ms: float
    transferred_mib: float


def qemu_command(options: Options, image: GuestImage, guest: GuestSettings, place: Path) -> list[str]:
    """The same machine at every host; its sockets and its serial port lie in `place`, which is made."""
    place.mkdir()
    serial = {
        "fifo": f"file,id=serial,path={place}/serial,append=on",
        "file": f"file,id=serial,path={place}/serial,append=on",
        "unix": f"socket,id=serial,path={place}/serial,server=on,wait=off",
    }[options.serial]
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", options.machine, "-cpu", options.cpu, "-accel", options.accelerator),
        *("-m", f"{options.memory_mib}M", "-smp", "1"),
        *("-chardev", serial, "-serial", "chardev:serial"),
        *("-qmp", f"unix:{place}/qmp,server=on,wait=off"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", f"{kernel_command_line(guest)} {options.append}"),
    ]


@contextlib.asynccontextmanager
async def running(command: Sequence[str], place: Path, serial: str) -> AsyncIterator[Host]:
    """A QEMU that answers; gone with all its descriptors when left."""
    async with contextlib.AsyncExitStack() as stack:
        if serial != "unix":
            recorder = await stack.enter_async_context(getattr(SerialRecorder, serial)(place / "serial"))
        process = await asyncio.create_subprocess_exec(*command)
        stack.push_async_callback(_end, process)
        if serial == "unix":
            recorder = await stack.enter_async_context(SerialRecorder.unix(place / "serial"))
        monitor = await _monitor(place / "qmp")
        stack.push_async_callback(_disconnect, monitor)
        yield Host(process, monitor, recorder)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _disconnect(monitor: QMPClient) -> None:
    with contextlib.suppress(Exception):
        await monitor.disconnect()


async def _monitor(path: Path) -> QMPClient:
    async with asyncio.timeout(20):
        while True:
            monitor = QMPClient()
            try:
                await monitor.connect(str(path))
                return monitor
            except ConnectError:
                await asyncio.sleep(0.002)


async def migrate(source: Host, destination: Host, options: Options, uri: str) -> Hop:
    """The guest runs at the destination, which waits at `uri`; the source is stopped for good."""
    limits = {"max-bandwidth": options.bandwidth_mib_s << 20, "downtime-limit": options.downtime_limit_ms}
    for host in (source, destination):
        wanted = {"capabilities": [{"capability": "events", "state": True}]}
        await host.monitor.execute("migrate-set-capabilities", wanted)
    await source.monitor.execute("migrate-set-parameters", limits)
    await destination.monitor.execute("migrate-incoming", {"uri": uri})
    started_s = time.monotonic()
    with _events(source, "MIGRATION") as progress, _events(destination, "RESUME") as resumed:
        await source.monitor.execute("migrate", {"uri": uri})
        status = await _end_of(progress)
        if status != "completed":
            raise RuntimeError(f"the migration {status}")
        await resumed.get()
    wall_ms = (time.monotonic() - started_s) * 1000
    return _hop(wall_ms, await _figures(source))


@contextlib.contextmanager
def _events(host: Host, name: str) -> Any:
    with host.monitor.listener(name) as listener:
        yield listener


async def _end_of(progress: EventListener) -> str:
    async for event in progress:
        data: Any = event["data"]
        status = str(data["status"])
        if status in _ENDED:
            return status
    raise RuntimeError("the monitor went away")


async def _figures(source: Host) -> dict[str, Any]:
    """Asked again while QEMU has announced the end but not yet counted."""
    while True:
        answer: Any = await source.monitor.execute("query-migrate")
        if answer.get("total-time"):
            return dict(answer)


def _hop(wall_ms: float, figures: dict[str, Any]) -> Hop:
    transferred_mib = figures["ram"]["transferred"] / 2**20
    return Hop(wall_ms, figures["total-time"], figures["downtime"], transferred_mib)


async def travel(options: Options, guest: GuestSettings, cache: Path) -> tuple[list[Hop], Judgement]:
    """The guest has gone through all hosts, has verified itself at the last one, and is gone."""
    image = build_guest(cache)
    hops: list[Hop] = []
    recordings: list[list[Line]] = []
    with tempfile.TemporaryDirectory() as root:
        source, leave = await _start(options, image, guest, Path(root) / "0", incoming=False)
        try:
            await source.recorder.wait_until_ready()
            for number in range(1, options.hops + 1):
                await asyncio.sleep(options.settle_s)
                place = Path(root) / str(number)
                destination, leave_next = await _start(options, image, guest, place, incoming=True)
                leave, leave_last = leave_next, leave
                try:
                    hops.append(await migrate(source, destination, options, f"unix:{place}/migration"))
                finally:
                    recordings.append(source.recorder.recording())
                    await leave_last.aclose()
                source = destination
            await _one_more_round(source.recorder)
            recordings.append(source.recorder.recording())
        except (QMPError, TimeoutError) as error:
            heard = source.recorder.recording()
            words = [line.text for line in heard[-5:]]
            error.add_note("\n".join([f"after {len(hops)} hops, the last of {len(heard)} lines:", *words]))
            raise
        finally:
            await leave.aclose()
    return hops, judge(recordings, guest.beat_ms)


async def _start(
    options: Options, image: GuestImage, guest: GuestSettings, place: Path, *, incoming: bool
) -> tuple[Host, contextlib.AsyncExitStack]:
    command = qemu_command(options, image, guest, place) + (["-incoming", "defer"] if incoming else [])
    stack = contextlib.AsyncExitStack()
    return await stack.enter_async_context(running(command, place, options.serial)), stack


async def _one_more_round(recorder: SerialRecorder) -> None:
    """All memory was compared, from the first page to the last, after the guest came."""

    def proven(lines: list[Line]) -> bool:
        beats = [beat for line in (lines[1:6] + lines[-1:]) if (beat := parse_beat(line))]
        return bool(beats) and beats[-1].rounds >= beats[0].rounds + 2

    await recorder.wait_until(proven, timeout_s=30)


def _report(hops: Sequence[Hop], judgement: Judgement) -> None:
    for number, (hop, hand_over) in enumerate(zip(hops, judgement.hand_overs, strict=True), start=1):
        print(
            f"hop {number}: pause {hand_over.pause_ms:6.1f} ms  clock step {hand_over.clock_step_ms:+5.1f} ms  "
            f"downtime {hop.downtime_ms:4.0f} ms  total {hop.total_ms:5.0f} ms  wall {hop.wall_ms:5.0f} ms  "
            f"{hop.transferred_mib:5.0f} MiB"
        )
    gaps_ms = sorted(_gaps_ms(judgement))
    print(
        f"{len(judgement.beats)} beats, gap p50 {gaps_ms[len(gaps_ms) // 2]:.1f} "
        f"p99 {gaps_ms[len(gaps_ms) * 99 // 100]:.1f} ms; {judgement.verified_rounds} rounds verified, "
        f"{judgement.rounds_since_hand_over} since the last hop; {judgement.beats[-1].dirtied_pages} pages dirtied; "
        f"{judgement.corrupt_pages} corrupt"
    )
    print("\n".join(judgement.faults()) or "no fault")


def _gaps_ms(judgement: Judgement) -> list[float]:
    beats = judgement.beats
    return [(b.host_time_s - a.host_time_s) * 1000 for a, b in pairwise(beats) if a.recording == b.recording]


def main() -> int:
    """0 if the guest arrived whole at every host."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hops", type=int, default=5)
    parser.add_argument("--memory-mib", type=int, default=512)
    parser.add_argument("--fill-mib", type=int, default=0)
    parser.add_argument("--dirty-mib-s", type=int, default=50)
    parser.add_argument("--workset-mib", type=int, default=64)
    parser.add_argument("--verify-percent", type=int, default=30)
    parser.add_argument("--machine", default="q35")
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--accelerator", default="tcg")
    parser.add_argument("--serial", choices=("fifo", "file", "unix"), default="fifo")
    parser.add_argument("--append", default="", help="more of the kernel command line, such as pti=off")
    parser.add_argument("--settle-s", type=float, default=1.0)
    parser.add_argument("--bandwidth-mib-s", type=int, default=10240)
    parser.add_argument("--downtime-limit-ms", type=int, default=300)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/vmferry-guest")
    given = parser.parse_args()
    guest = GuestSettings(given.fill_mib, given.dirty_mib_s, given.workset_mib, given.verify_percent)
    names = Options.__dataclass_fields__
    options = Options(**{name: value for name, value in vars(given).items() if name in names})
    hops, judgement = asyncio.run(travel(options, guest, given.cache))
    _report(hops, judgement)
    return 1 if judgement.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
