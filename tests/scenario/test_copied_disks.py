"""The disks of a running guest go over with it, whatever a hypervisor does wrong on the way; nothing is left of a failure."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from scenario.offline_hosts import disk, with_disks
from support.daemons import NAME, UUID, TwoHosts
from support.ports import free_port
from support.waiting import eventually
from vmferry.errors import AddressUnavailable, NotSupported, VmferryError
from vmferry.flags import NONE, Flag
from vmferry.migrate import Migrated
from vmferry.model import GuestLocation, JobStep
from vmferry.params import MigrationParams
from vmferry.report import Account, report
from vmferryd.drivers.memory import FaultKind, Verb
from vmferryd.transfer import sockets

COPIED = Flag.LIVE | Flag.NON_SHARED_DISK
BEFORE, LATER = b"before" * 2048, b"later." * 2048

HERE = [
    (Verb.COPY_DISKS, FaultKind.REFUSE),
    (Verb.COPY_DISKS, FaultKind.LOSE_BEFORE),
    (Verb.COPY_DISKS, FaultKind.LOSE_AFTER),
    (Verb.SEND, FaultKind.REFUSE),
    (Verb.SEND, FaultKind.LOSE_AFTER),
    (Verb.ROUND, FaultKind.FAIL_TRANSFER),
    (Verb.HELD, FaultKind.FAIL_TRANSFER),
    (Verb.HELD, FaultKind.LOSE_AFTER),
    (Verb.LET_GO, FaultKind.REFUSE),
]
"""Faults of the source's hypervisor."""

THERE = [
    (Verb.ACCEPT, FaultKind.REFUSE),
    (Verb.ACCEPT, FaultKind.LOSE_AFTER),
    (Verb.DISK, FaultKind.FAIL_TRANSFER),
    (Verb.DISK, FaultKind.KILL_BEFORE),
    (Verb.RECEIVE, FaultKind.KILL_BEFORE),
    (Verb.LOAD, FaultKind.KILL_BEFORE),
    (Verb.RECEIVED, FaultKind.KILL_AFTER),
]
"""Faults of the destination's hypervisor before the commit."""


class Disks:
    """A running guest with two disks at the source, and a folder for their images at the destination."""

    def __init__(self, hosts: TwoHosts, directory: Path) -> None:
        self.hosts = hosts
        self.here, self.there = directory / "here", directory / "there"
        for folder in (self.here, self.there):
            folder.mkdir()

    async def start(self) -> None:
        """The guest runs, and its disks have something."""
        for name in ("a", "b"):
            (self.here / name).write_bytes(BEFORE)
        source = self.hosts.source.connection
        await source.destroy(NAME)
        await source.define(self._xml(self.here))
        await source.start(NAME)

    async def migrate(self, flags: Flag = COPIED, **more: Any) -> Migrated:
        """It lives at the destination."""
        return await self.hosts.migrate(flags, MigrationParams(destination_xml=self._xml(self.there), **more))

    def arrived(self) -> dict[str, bytes]:
        """The images at the destination."""
        return {path.name: path.read_bytes() for path in self.there.iterdir()}

    def arriving(self) -> dict[str, bytes]:
        """The same, without the marks of a migration that goes on."""
        return {name: content for name, content in self.arrived().items() if not name.startswith(".")}

    @staticmethod
    def _xml(folder: Path) -> str:
        return with_disks(disk(folder / "a"), disk(folder / "b", "vdb"))


@pytest.fixture(params=[NONE, Flag.TUNNELLED], ids=["native", "tunnel"])
def way(request: pytest.FixtureRequest) -> Flag:
    """What asks for each way that the data can take."""
    return Flag(request.param)


@pytest.fixture
async def disks(two_hosts: TwoHosts, tmp_path: Path) -> Disks:
    """The guest runs at the source."""
    made = Disks(two_hosts, tmp_path)
    await made.start()
    return made


async def test_disks_are_the_same_when_the_guest_has_moved(disks: Disks, way: Flag) -> None:
    """Also what was written while the memory was sent; each disk has figures of its own."""
    faults = disks.hosts.source.machine.faults
    faults.once(Verb.ROUND, FaultKind.HANG)
    moving = asyncio.create_task(disks.migrate(COPIED | way))
    await eventually(lambda: faults.hanging == 1)
    assert {"a": BEFORE, "b": BEFORE} == disks.arriving()
    (disks.here / "a").write_bytes(LATER)
    faults.release()
    done = await moving
    assert {"a": LATER, "b": BEFORE} == disks.arrived()
    assert {("vda", len(LATER)), ("vdb", len(BEFORE))} == {(d.target, d.processed_bytes) for d in done.statistics.disks}
    assert len(LATER) + len(BEFORE) == done.statistics.disk_total_bytes
    await disks.hosts.lives(disks.hosts.destination)


async def test_the_report_tells_when_disks_were_copied_and_how_much(disks: Disks) -> None:
    """The copying of disks and of memory are two spans, one after the other; also after the daemon's restart."""
    done = await disks.migrate()
    await disks.hosts.source.restart()
    job = await disks.hosts.source.connection.job(done.migration_id)
    steps = [(change.step, change.figures and change.figures.sent_bytes) for change in job.changes if change.step]
    assert [(JobStep.DISKS, None), (JobStep.MEMORY, 2 * len(BEFORE))] == steps
    found = report([Account("a", job)])
    copying = [span for span in found.spans if "copies" in span.what]
    assert ["copies the disks", "copies the memory, and what is written to the disks meanwhile"] == [s.what for s in copying]
    assert copying[0].at_ms + copying[0].took_ms == copying[1].at_ms
    assert found.copies is not None
    assert {("vda", len(BEFORE)), ("vdb", len(BEFORE))} == {(d.target, d.processed_bytes) for d in found.copies.disks}


@pytest.mark.parametrize(("verb", "kind"), HERE)
async def test_source_fails(disks: Disks, verb: Verb, kind: FaultKind, way: Flag) -> None:
    """The guest runs on at the source with its disks, no image is left at the destination, and the next attempt succeeds."""
    await _fails(disks, disks.hosts.source.machine.faults, verb, kind, way)


@pytest.mark.parametrize(("verb", "kind"), THERE)
async def test_destination_fails(disks: Disks, verb: Verb, kind: FaultKind, way: Flag) -> None:
    """The guest runs on at the source with its disks, no image is left at the destination, and the next attempt succeeds."""
    await _fails(disks, disks.hosts.destination.machine.faults, verb, kind, way)


async def _fails(disks: Disks, faults, verb: Verb, kind: FaultKind, way: Flag) -> None:
    faults.once(verb, kind)
    with pytest.raises(VmferryError) as caught:
        await disks.migrate(COPIED | way)
    assert [kind] == [fired for _, _, fired in faults.fired]
    assert GuestLocation.SOURCE is caught.value.guest
    await disks.hosts.lives(disks.hosts.source)
    await eventually(lambda: {} == disks.arrived(), what="no image is left")
    await disks.migrate(COPIED | way)
    await disks.hosts.lives(disks.hosts.destination)
    assert {"a": BEFORE, "b": BEFORE} == disks.arrived()


async def test_a_destination_that_dies_during_the_copy_is_noticed_at_once(disks: Disks, way: Flag) -> None:
    """Also when the copy itself says nothing: the migration ends, although data has come and the way is open."""
    there = disks.hosts.destination.machine
    disks.hosts.source.machine.faults.once(Verb.SEND, FaultKind.HANG)
    moving = asyncio.create_task(disks.migrate(COPIED | way))
    await eventually(lambda: disks.hosts.source.machine.faults.hanging == 1)
    there.kill(UUID)
    with pytest.raises(VmferryError, match=r"died while it waited|did not arrive"):
        await moving
    disks.hosts.source.machine.faults.clear()
    await disks.hosts.lives(disks.hosts.source)
    await eventually(lambda: {} == disks.arrived(), what="no image is left")


@pytest.mark.option("--disks-port")
@pytest.mark.option("--disks-uri")
@pytest.mark.parametrize("kind", ["port", "tcp", "unix"])
async def test_disks_come_in_where_that_was_asked_for(disks: Disks, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever way the memory takes; nobody listens there afterwards."""
    path, port = disks.there.parent / "disks.sock", free_port()
    uri = {"tcp": f"tcp://127.0.0.1:{port}", "unix": f"unix://{path}"}.get(kind)
    asked = {"disks_uri": uri} if uri else {"disks_port": port}
    connected = []
    connect = sockets.connect

    async def seen(address, *others):
        connected.append(str(address))
        return await connect(address, *others)

    monkeypatch.setattr(sockets, "connect", seen)
    await disks.migrate(COPIED, **asked)
    assert 2 == sum(str(path if kind == "unix" else port) in address for address in connected)
    await disks.hosts.lives(disks.hosts.destination)
    assert {"a": BEFORE, "b": BEFORE} == disks.arrived()
    assert not path.exists()


async def test_a_place_for_disks_that_is_taken_is_an_error(disks: Disks) -> None:
    """Nothing is left, and the guest runs on."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AddressUnavailable):
        await disks.migrate(COPIED, disks_port=taken.getsockname()[1])
    await disks.hosts.lives(disks.hosts.source)
    await eventually(lambda: {} == disks.arrived(), what="no image is left")


async def test_post_copy_that_is_asked_for_while_disks_are_copied_waits_for_them(disks: Disks) -> None:
    """It begins when the disks are there, and needs to be asked for only once."""
    faults = disks.hosts.source.machine.faults
    faults.once(Verb.COPY_DISKS, FaultKind.HANG)
    moving = asyncio.create_task(disks.migrate(COPIED | Flag.POSTCOPY))
    await eventually(lambda: faults.hanging == 1)
    await disks.hosts.source.connection.start_postcopy(NAME)
    assert 0 == faults.calls[(Verb.START_POSTCOPY, None)]
    faults.release()
    await moving
    assert 1 == faults.calls[(Verb.START_POSTCOPY, None)]
    await disks.hosts.lives(disks.hosts.destination)
    assert {"a": BEFORE, "b": BEFORE} == disks.arrived()


async def test_what_is_tuned_while_disks_are_copied_is_obeyed_by_the_memory(disks: Disks) -> None:
    """Also where the migration was begun with another value."""
    faults, ask = disks.hosts.source.machine.faults, disks.hosts.source.connection
    faults.once(Verb.COPY_DISKS, FaultKind.HANG)
    moving = asyncio.create_task(disks.migrate(COPIED | Flag.POSTCOPY, max_downtime_ms=70, postcopy_bandwidth_mib_per_s=5))
    await eventually(lambda: faults.hanging == 1)
    await ask.set_max_downtime(NAME, 40)
    await ask.set_max_postcopy_speed(NAME, 3)
    faults.once(Verb.ROUND, FaultKind.HANG)
    faults.release()
    await eventually(lambda: disks.hosts.source.guest().sender is not None and faults.hanging == 1)
    found = await ask.tune_migration(NAME)
    assert (found.max_downtime_ms, found.postcopy_bandwidth_mib_per_s) == (40, 3)
    faults.release()
    await moving


async def test_what_is_tuned_while_disks_are_copied_ends_with_the_migration(disks: Disks) -> None:
    """One that is cancelled before any memory was sent leaves the values that held before it, also after a restart."""
    source = disks.hosts.source
    await source.connection.set_max_downtime(NAME, 500)
    await source.connection.set_max_postcopy_speed(NAME, 9)
    for restarts in (False, True):
        source.machine.faults.once(Verb.COPY_DISKS, FaultKind.HANG)
        moving = asyncio.create_task(disks.migrate(COPIED | Flag.POSTCOPY))
        await eventually(lambda: source.machine.faults.hanging == 1)
        await source.connection.set_max_downtime(NAME, 40)
        await source.connection.set_max_postcopy_speed(NAME, 3)
        if restarts:
            await source.restart()
        else:
            await source.connection.abort_job((await source.connection.newest_job(NAME)).migration_id)
        source.machine.faults.release()
        with pytest.raises(VmferryError):
            await moving
        await disks.hosts.lives(source)
        found = await source.connection.tune_migration(NAME)
        assert (found.max_downtime_ms, found.postcopy_bandwidth_mib_per_s) == (500, 9)


async def test_an_image_that_was_there_is_never_removed(disks: Disks) -> None:
    """Whatever becomes of the migration: only what it made itself is, also by a daemon that comes back."""
    faults = disks.hosts.source.machine.faults
    (disks.there / "a").write_bytes(b"x" * len(BEFORE))
    faults.once(Verb.SEND, FaultKind.HANG)
    moving = asyncio.create_task(disks.migrate())
    await eventually(lambda: faults.hanging == 1)
    await disks.hosts.destination.restart()
    with pytest.raises(VmferryError):
        await moving
    faults.clear()
    await eventually(lambda: {"a"} == set(disks.arrived()), what="what was made is gone")
    await disks.hosts.lives(disks.hosts.source)


async def test_an_image_of_another_size_is_refused(disks: Disks) -> None:
    """It stays as it is, and what was asked for besides is not made."""
    (disks.there / "a").write_bytes(b"somebody else's")
    with pytest.raises(NotSupported) as refused:
        await disks.migrate()
    assert "remove it" in refused.value.remedy
    assert {"a": b"somebody else's"} == disks.arrived()
    await disks.hosts.lives(disks.hosts.source)


async def test_a_destination_daemon_that_dies_removes_the_images_when_it_is_back(disks: Disks) -> None:
    """They are in its journal since before they were made."""
    faults = disks.hosts.source.machine.faults
    faults.once(Verb.SEND, FaultKind.HANG)
    moving = asyncio.create_task(disks.migrate())
    await eventually(lambda: faults.hanging == 1)
    assert {"a", "b"} == set(disks.arriving())
    await disks.hosts.destination.restart()
    with pytest.raises(VmferryError):
        await moving
    faults.clear()
    await eventually(lambda: {} == disks.arrived(), what="no image is left")
    await disks.hosts.lives(disks.hosts.source)
