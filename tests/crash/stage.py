"""The stage: two hosts and a client in network namespaces of their own, and a guest that lives through every failure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.bounds import KEEPALIVE_S, LIMITS, PATIENCE_S
from crash.points import Points
from crash.resident import Resident
from support import small_disk
from support.guest.build import GuestImage, GuestSettings
from support.hosts import Host
from support.network import CLIENT, FIRST, SECOND, Network, network
from support.traveller import NAME
from support.waiting import eventually
from vmferry.client import Connection, connect
from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainInfo, DomainState

PORT = 16533
DATA_PORT = PORT + 1
TESTS = Path(__file__).parents[1]
JOURNAL_MIB = 8
ANSWER_S = 1.0
MEMORY_MIB = 192
SETTINGS = GuestSettings(memory_mib=64, dirty_mib_s=10, workset_mib=16)
SLOW_MIB_PER_S = 24
UNFINISHED = (
    "SELECT side || ' ' || state FROM migration WHERE settled = 0 "
    "OR state NOT IN ('confirmed', 'cancelled', 'committed', 'aborted')"
)


@dataclass(slots=True)
class Machine:
    """One host with its connection, which does not go through the network, its place in the network, and its disk."""

    host: Host
    place: str
    connections: AsyncExitStack
    connection: Connection = field(init=False)

    async def start(self) -> None:
        """Its daemon answers, over a new connection: an old one would wait before it tries again."""
        await self.host.start()
        self.connection = await self.connections.enter_async_context(connect(self.host.uri))

    @property
    def run_directory(self) -> Path:
        return self.host.directory / "run"

    @property
    def disk(self) -> Path:
        """What its journal lies on; small."""
        return self.host.directory / "state"

    def unfinished(self) -> list[str]:
        """What its journal has not settled; also a journal that cannot be read now."""
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.disk}/journal.sqlite?mode=ro", uri=True)) as journal:
                return [row[0] for row in journal.execute(UNFINISHED)]
        except sqlite3.Error as error:
            return [f"its journal cannot be read: {error}"]

    def ends(self, since_s: float) -> list[str]:
        """How its journal says that the migrations ended that began here since then, by the wall clock."""
        with contextlib.closing(sqlite3.connect(f"file:{self.disk}/journal.sqlite?mode=ro", uri=True)) as journal:
            return [row[0] for row in journal.execute("SELECT state FROM migration WHERE started_s >= ?", (since_s,))]

    async def domain(self) -> DomainInfo | None:
        """The guest as its daemon knows it; None when it does not know it, or does not answer."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self.connection.domain(NAME)
        except (VmferryError, TimeoutError):
            return None

    async def runs_guest(self) -> bool:
        domain = await self.domain()
        return domain is not None and domain.state is DomainState.RUNNING and domain.migration_id is None

    @property
    def alive(self) -> bool:
        """Its daemon runs."""
        return self.host.process is not None and self.host.process.returncode is None

    def guest_folders(self) -> list[Path]:
        guests = self.run_directory / "guests"
        return list(guests.iterdir()) if guests.exists() else []

    def fill_disk(self) -> None:
        """Its journal cannot grow any more."""
        small_disk.fill(self.disk)

    def free_disk(self) -> None:
        small_disk.free(self.disk)


@dataclass(slots=True)
class Stage:
    """Everything that is there for all cells."""

    directory: Path
    net: Network
    points: Points
    machines: tuple[Machine, Machine]
    guest: Resident
    clients: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def roles(self) -> tuple[Machine, Machine]:
        """The machine where the guest runs, and the other one. Daemons that are down are started, and so is a lost guest."""
        for machine in self.machines:
            if not machine.alive:
                await machine.start()
        one, other = self.machines
        for source, destination in ((one, other), (other, one)):
            if await source.runs_guest():
                return source, destination
        await self.guest.boot(one.connection, other.connection)
        return one, other

    async def start_client(
        self, source: Machine, destination: Machine, flags: Flag, speed: int | None
    ) -> asyncio.subprocess.Process:
        """A client that migrates the guest, on its own machine."""
        order = self.directory / "order.json"
        order.write_text(json.dumps(await self._order(source, destination, flags, speed)))
        command = (*self.net.inside(CLIENT), *_python(), "crash.client", str(order))
        with (self.directory / "client.log").open("ab") as log:
            client = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=log)
        self.clients.append(client)
        return client

    async def _order(self, source: Machine, destination: Machine, flags: Flag, speed: int | None) -> dict[str, Any]:
        return {
            "points": str(self.directory / "points.sock"),
            "source": self._uri(source, CLIENT),
            "destination": self._uri(destination, CLIENT),
            "peer": self._uri(destination, source.place),
            "flags": int(flags),
            "domain": NAME,
            "xml": await self.guest.next_xml(source.connection),
            "bandwidth_mib_per_s": speed,
            "keepalive_s": KEEPALIVE_S,
            "patience_s": PATIENCE_S,
        }

    def _uri(self, machine: Machine, seen_from: str) -> str:
        return f"vmferry+tcp://{self.net.address(machine.place, seen_from)}:{PORT}"

    async def sweep(self) -> None:
        """No client is left, every cable carries, every disk has space, whatever a cell left behind."""
        self.points.forget()
        for client in self.clients:
            if client.returncode is None:
                client.kill()
            await client.wait()
        self.clients.clear()
        for link in self.net.links:
            self.net.restore(*link.ends)
        for machine in self.machines:
            machine.free_disk()

    async def start_over(self) -> None:
        """After a cell that failed: both hosts are as new, and the guest is gone."""
        await self.sweep()
        for machine in self.machines:
            await machine.host.kill()
            await _end_guests(machine.host)
            shutil.rmtree(machine.run_directory, ignore_errors=True)
            for path in machine.disk.iterdir():
                path.unlink()
        await self.guest.new_chapter(None)


@asynccontextmanager
async def stage(image: GuestImage, emulator: str | None) -> AsyncIterator[Stage]:
    """A stage; afterwards nothing of it is left: no process, namespace, mount, or file.

    Args:
        image: the guest.
        emulator: the QEMU that runs it; None leaves that to the hosts.

    Raises:
        NetworkUnavailable: this machine cannot make namespaces.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmf")))
        net = stack.enter_context(network())
        small_disk.unmount_orphans()
        points = Points()
        await stack.enter_async_context(points.listening(directory / "points.sock"))
        machines = [await stack.enter_async_context(_machine(directory, net, place)) for place in (FIRST, SECOND)]
        guest = await stack.enter_async_context(Resident(image, SETTINGS, MEMORY_MIB, directory, emulator))
        made = Stage(directory, net, points, (machines[0], machines[1]), guest)
        try:
            yield made
        finally:
            await made.sweep()


@asynccontextmanager
async def _machine(directory: Path, net: Network, place: str) -> AsyncIterator[Machine]:
    host = Host(place, directory / place, command=_daemon(directory, net, place))
    async with AsyncExitStack() as stack:
        stack.enter_context(small_disk.small_disk(host.directory / "state", JOURNAL_MIB))
        stack.push_async_callback(_end_guests, host)
        stack.push_async_callback(host.kill)
        _configure(host, net, place)
        machine = Machine(host, place, await stack.enter_async_context(AsyncExitStack()))
        await machine.start()
        yield machine


def _daemon(directory: Path, net: Network, place: str) -> Sequence[str]:
    config = directory / place / "vmferryd.toml"
    return (*net.inside(place), *_python(), "crash.daemon", str(directory / "points.sock"), str(config))


def _python() -> tuple[str, ...]:
    return ("env", f"PYTHONPATH={TESTS}", sys.executable, "-m")


def _configure(host: Host, net: Network, place: str) -> None:
    other = SECOND if place == FIRST else FIRST
    settings = {
        "": {
            "listen": [f"vmferry+tcp://0.0.0.0:{PORT}", host.uri],
            "advertise": f"vmferry+tcp://{net.address(place, other)}:{PORT}",
            "insecure": True,
            "state_directory": str(host.directory / "state"),
            "run_directory": str(host.directory / "run"),
            "host_name": place,
        },
        "limits": LIMITS,
        "keepalive": {"interval_s": KEEPALIVE_S, "timeout_s": KEEPALIVE_S},
    }
    lines: list[str] = []
    for section, values in settings.items():
        lines += [f"[{section}]"] if section else []
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    (host.directory / "vmferryd.toml").write_text("\n".join(lines))


async def _end_guests(host: Host) -> None:
    for pid in host.hypervisors():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not host.hypervisors(), what=f"no guest of {host.name} is left")
