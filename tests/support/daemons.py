"""Two daemons in one process, over unix sockets and simulated machines: the whole system but for QEMU and the network."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from support.waiting import eventually
from vmferry.attempt import Attempt
from vmferry.channel import ChannelOptions, open_channel, parse_uri
from vmferry.client import Connection
from vmferry.endpoint import ProgressListener, ignore_progress
from vmferry.errors import StorageFailed
from vmferry.flags import NONE, Flag
from vmferry.migrate import Migrated, Patience
from vmferry.model import DomainInfo, DomainState, MigrationId, new_migration_id
from vmferry.params import MigrationParams
from vmferry.protocol import Spelling
from vmferryd import app
from vmferryd.clock import SystemClock
from vmferryd.config import Config, load
from vmferryd.database import BOUND_S, Database
from vmferryd.drivers.memory import ExecutionLog, MemoryDriver, MemoryHost, Program, SimulatedGuest

NAME = "web"
UUID = str(uuid.UUID(int=7))
PROGRAM = Program(resident_pages=64, working_set_pages=16)
IMPATIENT = Patience(total_s=0.3, delay_s=0.02)
FAST: dict[str, Any] = {
    "phase_lease_s": 20.0,
    "coordinator_grace_s": 0.2,
    "connect_s": 2.0,
    "transfer_stall_s": 5.0,
    "let_go_s": 5.0,
    "finish_s": 3.0,
    "doubt_s": 1.0,
    "peer_call_s": 1.0,
    "resolver_first_s": 0.02,
    "resolver_longest_s": 0.1,
    "progress_s": 0.02,
    "shutdown_s": 0.05,
}
"""Bounds of a daemon in a test: short, but for the lease, which only some tests want to see run out."""


DIRTY_PAGES_PER_S = 100_000
"""More than any pause of a millisecond has room for."""
HANG_S = 0.1
"""How long a disk that hangs in a test is waited for; one that is only slow has its usual time."""


def domain_xml(name: str = NAME, domain_uuid: str = UUID, dirty: int = 200) -> str:
    """A small simulated guest that writes to its memory."""
    return f"""<domain type='test'><name>{name}</name><uuid>{domain_uuid}</uuid><memory unit='MiB'>1</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<metadata><vmferry:test xmlns:vmferry='urn:vmferry:test:1' dirty-rate-pages-per-s='{dirty}'/></metadata></domain>"""


class Writes:
    """A daemon's writes to its journal: counted, and failing on request."""

    def __init__(self) -> None:
        self.count = 0
        self.failing: Callable[[int], bool] = lambda _: False
        self.hanging: Callable[[int], bool] = lambda _: False
        self._answers = threading.Event()
        self._answers.set()
        self._database: Database | None = None

    def install(self, daemon: app.Daemon) -> None:
        """Every write of that daemon comes by here."""
        database = self._database = daemon.context.journal._database
        write = database.write

        async def counted(*changes: Any) -> None:
            self.count += 1
            if self.failing(self.count):
                raise StorageFailed(f"write {self.count} failed on request")
            if self.hanging(self.count):
                self._answers.clear()
            await write(self._waited_for, *changes)

        database.write = counted  # type: ignore[method-assign]

    def _waited_for(self, _: object) -> None:
        """What a write does first."""
        self._answers.wait()

    def fail(self, number: int) -> None:
        """The write of that number, counted from now, fails; later ones do not."""
        due = self.count + number
        self.failing = lambda count: count == due

    def fail_from(self, number: int) -> None:
        """The write of that number, counted from now, fails, and so do all later ones."""
        due = self.count + number
        self.failing = lambda count: count >= due

    def hang_from(self, number: int) -> None:
        """The disk does not answer from the write of that number on, counted from now, until `heal`."""
        due = self.count + number
        self.hanging = lambda count: count >= due
        assert self._database is not None
        self._database._bound_s = HANG_S

    def heal(self) -> None:
        """No write fails, and the disk answers."""
        self.failing = self.hanging = lambda _: False
        self._answers.set()
        if self._database is not None:
            self._database._bound_s = BOUND_S


class Host:
    """One machine with its daemon. The machine, the state directory and the guests outlive the daemon."""

    def __init__(self, name: str, directory: Path, log: ExecutionLog, **settings: Any) -> None:
        clock = SystemClock()
        self.name = name
        self.machine = MemoryHost(clock, mark=name, log=log, program=PROGRAM)
        self.writes = Writes()
        self.settings = {
            "listen": f"vmferry+unix://{directory}/{name}.sock",
            "state_directory": directory / name,
            "run_directory": directory / name / "run",
            "host_name": name,
            "qemu": {"enabled": False},
            "limits": FAST,
            "keepalive": {"interval_s": 1.0, "timeout_s": 1.0},
        } | settings
        self._serving: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._daemon: app.Daemon | None = None
        self._connections = AsyncExitStack()
        self.connection: Connection

    @property
    def config(self) -> Config:
        """What the daemon is started with."""
        return load(None, self.settings)

    @property
    def daemon(self) -> app.Daemon:
        """The daemon, which runs."""
        assert self._daemon is not None, f"{self.name} has no daemon"
        return self._daemon

    def use_tunnel(self) -> None:
        """The next daemon takes guests through the tunnel alone."""
        self.settings["data"] = {"native": False}

    def limit(self, **limits: Any) -> None:
        """The next daemon has these limits."""
        self.settings["limits"] = FAST | limits

    async def start(self) -> None:
        """The daemon serves, and `connection` leads to it."""
        ready: asyncio.Future[app.Daemon] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._serving = asyncio.create_task(self._serve(ready), name=f"daemon {self.name}")
        await asyncio.wait([ready, self._serving], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await self._serving
        self._daemon = ready.result()
        self.writes.install(self._daemon)
        # A new one: the old one would wait before it connects again. It stays open, for whoever still uses it.
        self.connection = await self._connections.enter_async_context(self.dial())

    async def _serve(self, ready: asyncio.Future[app.Daemon]) -> None:
        async with app.running(self.config, drivers={"test": lambda _: MemoryDriver(self.machine)}) as daemon:
            ready.set_result(daemon)
            await self._stop.wait()

    @asynccontextmanager
    async def dial(self, spelling: Spelling = Spelling.PARAMS) -> AsyncIterator[Connection]:
        """Another connection to the daemon."""
        uri = parse_uri(str(self.settings["listen"]))
        async with open_channel(uri, ChannelOptions()) as channel:
            yield Connection(uri, channel, spelling=spelling)

    async def stop(self) -> None:
        """No daemon runs here; the guests do."""
        self._stop.set()
        self._daemon = None
        if self._serving is not None:
            serving, self._serving = self._serving, None
            await serving

    async def close(self) -> None:
        """Neither a daemon nor a guest nor a connection is left."""
        self.writes.heal()
        self.machine.faults.clear()
        await self.stop()
        await self._connections.aclose()
        await self.machine.power_off()

    async def restart(self) -> None:
        """A new daemon over the same machine and journal."""
        await self.stop()
        await self.start()

    async def state(self, migration_id: MigrationId) -> str:
        """The journal's word for that migration; empty when there is none."""
        records = await self.daemon.context.journal.of(migration_id)
        return records[0].state.value if records else ""

    def guest(self) -> SimulatedGuest:
        """The only copy of the guest on this machine."""
        (guest,) = self.machine.of_domain(UUID)
        return guest


class TwoHosts:
    """A guest's source and its destination."""

    def __init__(self, directory: Path) -> None:
        self.log = ExecutionLog()
        self.source = Host("a", directory, self.log)
        self.destination = Host("b", directory, self.log)

    @property
    def hosts(self) -> tuple[Host, Host]:
        """Both."""
        return self.source, self.destination

    async def start(self) -> None:
        """Both daemons serve, and the guest runs on the source."""
        for host in self.hosts:
            await host.start()
        await self.source.connection.define(domain_xml())
        await self.source.connection.start(NAME)

    async def close(self) -> None:
        """No daemon and no guest is left."""
        for host in self.hosts:
            await host.close()

    async def migrate(
        self,
        flags: Flag = Flag.LIVE,
        params: MigrationParams | None = None,
        *,
        migration_id: MigrationId | None = None,
        listener: ProgressListener = ignore_progress,
        patience: Patience = IMPATIENT,
    ) -> Migrated:
        """The guest has been moved from the source to the destination."""
        return await self.source.connection.migrate(
            NAME,
            self.destination.connection,
            flags=flags,
            params=params,
            attempt=Attempt(migration_id or new_migration_id(), listener, patience),
        )

    # -- what must hold ------------------------------------------------------------------------------------------------

    async def lives(self, here: Host, state: DomainState = DomainState.RUNNING) -> None:
        """The guest is on `here` in that state, held by nobody, and nothing is left of it on the other host."""
        await self._lives((here,), state)

    async def lives_somewhere(self) -> Host:
        """The guest runs on one host, held by nobody, and nothing is left of it on the other one."""
        return await self._lives(self.hosts, DomainState.RUNNING)

    async def _lives(self, candidates: tuple[Host, ...], state: DomainState) -> Host:
        found: list[Host] = []

        async def settled() -> bool:
            found[:] = [host for host in candidates if await self._lives_now(host, state)]
            return len(found) == 1

        try:
            await eventually(settled, timeout_s=5.0)
        except AssertionError:
            seen = [(host.name, await self._find(host), host.machine.leftovers()) for host in self.hosts]
            names = [host.name for host in candidates]
            raise AssertionError(f"the guest does not live on one of {names} alone: {seen}") from None
        self.unharmed(found[0])
        return found[0]

    async def _lives_now(self, here: Host, state: DomainState) -> bool:
        there = self.destination if here is self.source else self.source
        found, other = await self._find(here), await self._find(there)
        return (
            found is not None
            and (found.state, found.migration_id) == (state, None)
            and (other is None or (other.state.active, other.migration_id) == (False, None))
            and self._executes(here, state)
            and there.machine.leftovers() == []
        )

    async def lives_at_last(self, walk: Any) -> None:
        """The phases that are left have run, and the guest lives at the destination."""
        await walk.finish()
        await walk.confirm()
        await self.lives(self.destination)

    def unharmed(self, here: Host) -> None:
        """Whatever was executed was executed once, and the memory is what the guest's own writes left."""
        assert self.log.findings() == []
        assert here.guest().memory_damage() == ()

    async def again(self) -> None:
        """Everything is as if nothing had happened: the guest can be moved, and it is."""
        for host in self.hosts:
            host.machine.faults.clear()
            host.writes.heal()
        await self.migrate()
        await self.lives(self.destination)

    def _executes(self, here: Host, state: DomainState) -> bool:
        guests = here.machine.of_domain(UUID)
        return len(guests) == 1 and guests[0].cpu.running == (state is DomainState.RUNNING)

    async def _find(self, host: Host) -> DomainInfo | None:
        found = [domain for domain in await host.connection.domains() if domain.uuid == UUID]
        return found[0] if found else None


@asynccontextmanager
async def two_hosts_at(directory: Path) -> AsyncIterator[TwoHosts]:
    """Both hosts with a running guest; afterwards no daemon, guest or channel is left."""
    grpc.aio.init_grpc_aio()
    hosts = TwoHosts(directory)
    try:
        await hosts.start()
        yield hosts
        assert hosts.log.findings() == []
    finally:
        await hosts.close()


__all__ = ["FAST", "IMPATIENT", "NAME", "NONE", "UUID", "Host", "TwoHosts", "Writes", "domain_xml", "two_hosts_at"]


async def restless(hosts: TwoHosts, memory_mib: int = 1) -> None:
    """A guest that changes its memory faster than a pause of one millisecond can end."""
    source = hosts.source.connection
    await source.destroy(NAME)
    xml = domain_xml(dirty=DIRTY_PAGES_PER_S)
    await source.define(xml.replace("'MiB'>1<", f"'MiB'>{memory_mib}<"))
    await source.start(NAME)
    await source.set_max_downtime(NAME, 1)
