"""The demo in containers: what the client of docker-compose.yml does."""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from vmferry.bounds import DEFAULTS
from vmferry.client import connect
from vmferry.errors import VmferryError
from vmferry.oversight import looks
from vmferry.whereabouts import Verdict, Whereabouts, judge
from vmferry_demo.guest import NAME, Machine
from vmferry_demo.serial_recorder import SerialRecorder
from vmferry_demo.tour import READY_S, SerialWitness, Station, Tour, Way

HOSTS = (Station("host-a", "vmferry+tls://host-a"), Station("host-b", "vmferry+tls://host-b"))
"""As docker-compose.yml names them."""

WAYS = (
    Way("regular, tunnelled", ("--tunnelled",)),
    Way("regular, direct"),
    Way("peer-to-peer, tunnelled", ("--p2p", "--tunnelled")),
    Way("peer-to-peer, direct", ("--p2p",)),
)
"""Between daemons that speak TLS the hypervisors do so too, unless a guest's data is to go through the daemons."""

IMAGE = Path("/usr/share/vmferry-demo")
"""Where the image has the guest: its kernel, its initial file system, its kernel's command line."""

SERIAL = Path("/srv/guests/traveller")
"""Where its serial port writes: in a folder that both hosts and the client share, as hosts share their storage."""

MEMORY_MIB = 256
BEATS_PER_S = 20
DAEMONS_S = 60.0
_POLL_S = 0.5


async def start(console: Console) -> None:
    """The guest runs on one of the two hosts, and the user knows what to do next.

    Raises:
        SystemExit: a host does not answer, or the guest is in doubt.
    """
    host = await _started(console)
    console.print(f"The guest {NAME} runs on {host.name} and checks its own memory. Next:")
    console.print("  docker compose run client demo        there and back, in each way")
    console.print(f"  docker compose run client where {NAME}   or any other command of vmferry", soft_wrap=True)


async def demo(console: Console) -> bool:
    """The guest was moved there and back in each way, and the table is shown; whether all is well.

    Raises:
        SystemExit: a host does not answer, a command failed, or the guest is in doubt.
    """
    first = await _started(console)
    second = next(host for host in HOSTS if host != first)
    async with SerialRecorder.file(SERIAL) as recorder:
        await recorder.wait_until_ready(READY_S)
        recorder.forget()
        tour = Tour(SerialWitness(recorder, BEATS_PER_S), console)
        for way in WAYS:
            console.rule(f"[bold]{way.name}")
            await tour.there_and_back(way, first, second)
        console.rule("[bold]what came of it")
        return await tour.ended(first, second)


async def _started(console: Console) -> Station:
    """The host on which the guest runs, by now."""
    for host in HOSTS:
        await _answers(host)
    with _alone():
        found = await _whereabouts()
        if found.verdict in (Verdict.STOPPED, Verdict.NOWHERE):
            await _boot(console, _named(found.host) if found.verdict is Verdict.STOPPED else None)
            found = await _whereabouts()
    if found.verdict is not Verdict.RUNS:
        raise SystemExit("\n".join((f"The demo needs a guest that runs. {found.summary}", *found.what_now)))
    return _named(found.host)


@contextmanager
def _alone() -> Iterator[None]:
    """Another client that looks for the guest, and starts it, waits meanwhile."""
    with (SERIAL.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _named(name: str) -> Station:
    return next(host for host in HOSTS if host.name == name)


async def _answers(host: Station) -> None:
    """Its daemon is up.

    Raises:
        SystemExit: it is not, although it was waited for.
    """
    end_s = time.monotonic() + DAEMONS_S
    while True:
        try:
            async with connect(host.uri):
                return
        except VmferryError as error:
            if time.monotonic() > end_s:
                raise SystemExit(f"{host.name} does not answer: {error}") from None
        await asyncio.sleep(_POLL_S)


async def _whereabouts() -> Whereabouts:
    return judge(NAME, await looks(connect, [host.uri for host in HOSTS], NAME, DEFAULTS.look_s))


async def _boot(console: Console, home: Station | None) -> None:
    """The guest has been started, at the host that knows it; at the first one, if none does."""
    host = home or HOSTS[0]
    _forget_its_beats()
    console.print(f"Starting the guest {NAME} on {host.name} ...")
    async with connect(host.uri) as daemon:
        if home is None:
            await daemon.define(_machine().definition())
        await daemon.start(NAME)


def _forget_its_beats() -> None:
    SERIAL.unlink(missing_ok=True)


def _machine() -> Machine:
    command_line = (IMAGE / "cmdline").read_text().strip()
    return Machine(IMAGE / "kernel", IMAGE / "initrd", command_line, SERIAL, MEMORY_MIB)
