"""The composition root: builds everything, owns the task group, and fixes the order of start and end.

Start: journal, drivers, domains (guests are adopted), migrations (each unfinished one is settled or goes on being asked for),
then the server. End: the server stops, tasks are cancelled, monitors and journal are closed. Nothing is rolled back and no
guest is touched: the journal is enough for the next start.

`Surroundings` is all that a daemon stands on but its process: time, hypervisors, disk and network. `tests/simulation` puts a
daemon over others.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from grpc import aio

from vmferry.channel import open_channel
from vmferry.errors import DriverLost, DriverRefused, InvalidState, StorageFailed, VmferryError
from vmferry.model import Side
from vmferryd.certificates import Certificates
from vmferryd.clock import Clock, SystemClock
from vmferryd.config import Config
from vmferryd.database import Database, Thread, Worker
from vmferryd.domains import registry
from vmferryd.domains.registry import Domains
from vmferryd.domains.store import Store
from vmferryd.drivers.base import Driver
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.driver import QemuDriver
from vmferryd.drivers.registry import DriverFactory, DriverRegistry
from vmferryd.jobs import journal
from vmferryd.jobs.board import Board
from vmferryd.jobs.changes import from_journal
from vmferryd.jobs.journal import Journal, Witness
from vmferryd.peer import PeerToPeer
from vmferryd.peers import OpenChannel, Peers, advertised
from vmferryd.phases.context import Context, Identity, Tasks
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.oversight import Oversight
from vmferryd.phases.resolver import Backoff
from vmferryd.phases.source_migrations import SourceMigrations
from vmferryd.phases.source_phases import SourcePhases
from vmferryd.rpc import server as rpc_server
from vmferryd.transfer.configured import opened
from vmferryd.transfer.tunnel import ChannelPair, channel_pair

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon. For tests and the entry point; everything else goes through gRPC."""

    context: Context
    source: SourcePhases
    destination: DestinationPhases
    server: aio.Server


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a daemon stands on; by default the machine.

    `drivers` are factories by name, instead of the configured ones. `disk` makes the worker of the journal. `dial` opens
    channels to other daemons, `server` makes the server, and `channel_pair` the sockets between daemon and hypervisor.
    `witness` sees each write to the journal.
    """

    clock: Clock = field(default_factory=SystemClock)
    drivers: Mapping[str, DriverFactory] | None = None
    disk: Callable[[], Worker] = Thread
    dial: OpenChannel = open_channel
    server: rpc_server.MakeServer = rpc_server.grpc_server
    channel_pair: ChannelPair = channel_pair
    witness: Witness | None = None


@asynccontextmanager
async def running(
    config: Config, *, drivers: Mapping[str, DriverFactory] | None = None, witness: Witness | None = None
) -> AsyncIterator[Daemon]:
    """The daemon answers at every place of `config.listen`, until the context is left; guests run on.

    Args:
        config: what to run.
        drivers: factories by name, instead of the configured ones.
        witness: sees each write to the journal.

    Raises:
        StorageFailed: the journal cannot be used; it is left as it is.
        InvalidParameter: a place to listen cannot be used.
        InvalidState: another daemon uses the state directory.
    """
    with _exclusive(config.state_directory):
        async with running_over(Surroundings(drivers=drivers, witness=witness), config) as daemon:
            yield daemon


@asynccontextmanager
async def running_over(surroundings: Surroundings, config: Config) -> AsyncIterator[Daemon]:
    """Like `running`, over `surroundings`. That no other daemon uses the state directory is the caller's business."""
    path, bound_s = config.state_directory / "journal.sqlite", config.limits.journal_s
    database = await Database.open(path, surroundings.disk(), bound_s, _check)
    try:
        available, unavailable = await _drivers(config, surroundings)
        async with (
            _tasks() as tasks,
            _context(config, surroundings, database, available, tasks) as context,
            _serving(config, context, unavailable, surroundings.server) as daemon,
        ):
            yield daemon
    finally:
        await database.close()


def _check(connection: sqlite3.Connection) -> None:
    """Everything that is stored can be understood; before any guest is looked for and anything is written."""
    journal.check(connection)
    registry.check(connection)


@asynccontextmanager
async def _tasks() -> AsyncIterator[Tasks]:
    """Tasks for the body; what it raises comes out as it is, since none of the tasks ever fails."""
    try:
        async with asyncio.TaskGroup() as group:
            yield Tasks(group)
    except BaseExceptionGroup as failed:
        if len(failed.exceptions) > 1:
            raise
        raise failed.exceptions[0] from None


@asynccontextmanager
async def _serving(
    config: Config, context: Context, unavailable: dict[str, str], make: rpc_server.MakeServer
) -> AsyncIterator[Daemon]:
    source, destination = SourcePhases(context, SourceMigrations(context)), DestinationPhases(context)
    await context.domains.load()
    context.tasks.spawn(context.domains.follow_events(), "domain events")
    await _recover(context, source.migrations, destination)
    await _forget(context)
    context.tasks.spawn(_keep_house(context), "housekeeping")
    context.tasks.spawn(_look_again(context), "unseen domains")
    oversight = Oversight(context, source.migrations, destination)
    await oversight.recall()
    served = rpc_server.Served(context, source, destination, PeerToPeer(context, source), oversight, unavailable)
    server = rpc_server.build(served, config, make)
    rpc_server.listen(server, config.listen, context.identity.certificates)
    await server.start()
    log.info(
        "serving",
        host=context.identity.host_name,
        listen=[str(uri) for uri in config.listen],
        drivers=context.drivers.names,
        unavailable=unavailable,
    )
    try:
        yield Daemon(context, source, destination, server)
    finally:
        log.info("stopping", guests="left running")
        await server.stop(config.limits.shutdown_s)


async def _recover(context: Context, source: SourceMigrations, destination: DestinationPhases) -> None:
    for record in reversed(await context.journal.newest(context.limits.remembered_migrations)):
        context.board.publish(from_journal(record))
    context.board.restarted()
    for record in await context.journal.unfinished():
        log.info("recovering", migration_id=record.migration_id, side=record.side, state=record.state)
        try:
            await (source if record.side is Side.SOURCE else destination).recover(record)
        except VmferryError as error:
            log.warning("recovery_goes_on", migration_id=record.migration_id, error=str(error))


def _this_boot() -> str:
    """The same for every daemon of this machine until it boots again; empty where the kernel does not say it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


async def _keep_house(context: Context) -> None:
    """What nobody needs any more is forgotten again and again; runs until it is cancelled."""
    while True:
        await context.clock.sleep(context.limits.housekeeping_s)
        await _forget(context)


async def _look_again(context: Context) -> None:
    """Guests that could not be reached at the start are tried again, until all have been."""
    for pause_s in Backoff(context.limits):
        await context.clock.sleep(pause_s)
        if not await context.domains.look_again():
            return


async def _forget(context: Context) -> None:
    limits = context.limits
    try:
        await context.journal.forget(limits.remembered_migrations, context.clock.wall() - limits.remembered_days * _DAY_S)
    except VmferryError as error:
        log.warning("not_forgotten", error=str(error))


_DAY_S = 86_400
_LOOKS = 3


@asynccontextmanager
async def _context(
    config: Config, surroundings: Surroundings, database: Database, drivers: DriverRegistry, tasks: Tasks
) -> AsyncIterator[Context]:
    host_uuid = str(config.host_uuid) if config.host_uuid else await database.remembered("uuid", str(uuid.uuid4()))
    reached_at = advertised(config.reached_at)
    certificates = Certificates(config.certificates) if config.certificates else None
    identity = Identity(config.host_name or socket.gethostname(), host_uuid, str(reached_at), _this_boot(), certificates)
    context = Context(
        identity=identity,
        journal=Journal(database, surroundings.witness),
        domains=Domains(Store(database), drivers),
        drivers=drivers,
        peers=Peers(config.as_client, certificates, surroundings.dial),
        board=Board(surroundings.clock, config.limits.remembered_migrations),
        clock=surroundings.clock,
        limits=config.limits,
        tasks=tasks,
        doors=await opened(config, reached_at, tasks.spawn),
        channel_pair=surroundings.channel_pair,
    )
    try:
        yield context
    finally:
        context.doors.close()
        await context.tasks.end()
        await context.peers.close()
        await context.domains.close()
        await context.drivers.close()


async def _drivers(config: Config, surroundings: Surroundings) -> tuple[DriverRegistry, dict[str, str]]:
    """The drivers that work here, and why the others do not."""
    clock = surroundings.clock
    if surroundings.drivers is not None:
        return await DriverRegistry.open(clock, surroundings.drivers), {}
    if not config.qemu.enabled:
        return await DriverRegistry.open(clock), {"qemu": "switched off in the configuration"}
    qemu = _qemu(config, clock)
    try:
        await looked_at(qemu)
    except (DriverRefused, DriverLost) as error:
        log.warning("driver_unavailable", driver="qemu", error=str(error))
        return await DriverRegistry.open(clock), {"qemu": f"{error.message}. {error.remedy}".strip()}
    return await DriverRegistry.open(clock, {"qemu": lambda _: qemu}), {}


async def looked_at(driver: Driver) -> None:
    """What it can is known. A QEMU that does not answer is asked again: on a busy machine its start can take too long.

    Raises:
        DriverRefused: there is none, or it cannot be used.
        DriverLost: it does not answer, each time.
    """
    for _ in range(_LOOKS - 1):
        try:
            await driver.capabilities()
        except DriverLost as error:
            log.warning("driver_does_not_answer", driver=driver.name, error=str(error))
        else:
            return
    await driver.capabilities()


def _qemu(config: Config, clock: Clock) -> QemuDriver:
    section = config.qemu
    settings = QemuConfig(**section.model_dump(exclude={"enabled", "emulator"}))
    if section.emulator is not None:
        settings = replace(settings, emulator=section.emulator)
    return QemuDriver(settings, config.run_directory / "guests", clock)


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """No other daemon uses `directory` meanwhile. The lock goes with the process, however it ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFailed(
            f"the state directory {directory} cannot be used: {error}", remedy="check its owner, space and mount"
        ) from None
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidState(
            f"another vmferryd uses {directory}", remedy="stop it, or give this one a --state-directory of its own"
        ) from None
