"""A disk that is full at any write of either daemon: once, or until somebody makes room."""

from __future__ import annotations

import sqlite3

import pytest

from support.daemons import Host, TwoHosts
from support.waiting import eventually
from vmferry.endpoint import Reply, Request
from vmferry.errors import StorageFailed, VmferryError
from vmferry.model import GuestLocation, Side, new_migration_id
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.source_phases import SourcePhases

WRITES = [("source", number) for number in range(1, 8)] + [("destination", number) for number in range(1, 5)]
"""Every write that a migration needs, by side and number."""


def _host(two_hosts: TwoHosts, side: str) -> Host:
    return two_hosts.source if side == "source" else two_hosts.destination


async def _lives_somewhere(two_hosts: TwoHosts, error: VmferryError | None) -> None:
    """The guest is where it was said to be, or where the daemons settled it."""
    if error is None or error.guest is GuestLocation.DESTINATION:
        await two_hosts.lives(two_hosts.destination)
    elif error.guest is GuestLocation.SOURCE:
        await two_hosts.lives(two_hosts.source)
    else:
        await two_hosts.lives_somewhere()


async def _moved(two_hosts: TwoHosts) -> VmferryError | None:
    try:
        await two_hosts.migrate(migration_id=new_migration_id())
    except VmferryError as error:
        return error
    return None


@pytest.mark.parametrize(("side", "number"), WRITES)
async def test_one_write_fails(two_hosts: TwoHosts, side: str, number: int) -> None:
    """One write fails: the guest is in one place, held by nobody, and that is the place that the client was told."""
    _host(two_hosts, side).writes.fail(number)
    await _lives_somewhere(two_hosts, await _moved(two_hosts))


@pytest.mark.parametrize(("side", "number"), WRITES)
async def test_disk_is_full_for_a_while(two_hosts: TwoHosts, side: str, number: int) -> None:
    """Every write from one on fails, and then there is room again: both daemons settle without anybody's help."""
    host = _host(two_hosts, side)
    host.limit(phase_lease_s=0.5)
    await host.restart()
    host.writes.fail_from(number)
    error = await _moved(two_hosts)
    assert two_hosts.log.findings() == []
    host.writes.heal()
    await _lives_somewhere(two_hosts, error)


@pytest.mark.parametrize(("side", "number"), WRITES)
async def test_restart_with_a_full_disk(two_hosts: TwoHosts, side: str, number: int) -> None:
    """A daemon whose disk is full is stopped, and started when there is room: its journal is enough to settle."""
    host = _host(two_hosts, side)
    for either in two_hosts.hosts:
        either.limit(phase_lease_s=0.5)
        await either.restart()
    host.writes.fail_from(number)
    await _moved(two_hosts)
    await host.stop()
    host.writes.heal()
    await host.start()
    await two_hosts.lives_somewhere()


@pytest.mark.parametrize(("side", "number"), WRITES)
async def test_disk_hangs_for_a_while(two_hosts: TwoHosts, side: str, number: int) -> None:
    """The disk does not answer from one write on, and then it does: nothing runs twice, and both daemons settle."""
    host = _host(two_hosts, side)
    host.limit(phase_lease_s=0.5)
    await host.restart()
    host.writes.hang_from(number)
    error = await _moved(two_hosts)
    assert two_hosts.log.findings() == []
    host.writes.heal()
    await _lives_somewhere(two_hosts, error)


async def test_guest_runs_while_the_disk_hangs(two_hosts: TwoHosts) -> None:
    """A source whose disk does not answer when the guest is to be released lets it run again within the bound."""
    two_hosts.source.writes.hang_from(4)
    error = await _moved(two_hosts)
    assert isinstance(error, StorageFailed)
    assert "did not answer within 0.1 s" in str(error)
    assert two_hosts.source.guest().cpu.running
    two_hosts.source.writes.heal()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("table", ["migration", "domain"])
async def test_garbage_is_refused_before_a_guest_is_touched(two_hosts: TwoHosts, table: str) -> None:
    """A daemon whose journal has a damaged row does not start, says why, and neither looks for nor discards any guest."""
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    host = two_hosts.destination
    await host.stop()
    path = host.config.state_directory / "journal.sqlite"
    connection = sqlite3.connect(path)
    row = connection.execute(f"SELECT * FROM {table}").fetchone()  # noqa: S608 - the test's own
    connection.execute(f"UPDATE {table} SET digest = 'garbage'")  # noqa: S608
    connection.commit()
    connection.close()
    asked: list[object] = []
    host.machine.faults.around = lambda *call: asked.append(call)  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageFailed, match="damaged") as caught:
        await host.start()
    del host.machine.faults.around
    assert ([], True) == (asked, "ask the other hosts" in caught.value.remedy)
    assert host.guest().cpu.running
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE {table} SET digest = ?", (row[-1],))  # noqa: S608
    connection.commit()
    connection.close()
    await host.start()
    await two_hosts.lives(host)


async def test_guest_runs_while_the_disk_is_full(two_hosts: TwoHosts) -> None:
    """A source that cannot write its release lets its guest run again at once, not when the disk is repaired."""
    two_hosts.source.writes.fail_from(4)
    error = await _moved(two_hosts)
    assert isinstance(error, VmferryError)
    assert ["performing"] == [job.state for job in await two_hosts.source.connection.jobs()]
    assert two_hosts.source.guest().cpu.running
    two_hosts.source.writes.heal()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


def _answers_late(host: Host) -> None:
    """The next write reaches the disk, and whoever asked is told that it has not."""
    database = host.daemon.context.journal._database
    write = database.write

    async def late(*changes: object) -> None:
        database.write = write  # type: ignore[method-assign]
        await write(*changes)
        raise StorageFailed("the journal did not answer in time")

    database.write = late  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(("side", "ended"), [("source", "cancelled"), ("destination", "aborted")])
async def test_first_record_that_was_written_after_all_is_ended(two_hosts: TwoHosts, side: str, ended: str) -> None:
    """A migration that was refused because its first record came late holds nothing, and its record does not stay open."""
    host = _host(two_hosts, side)
    migration_id = new_migration_id()
    _answers_late(host)
    with pytest.raises(StorageFailed):
        await two_hosts.migrate(migration_id=migration_id)
    assert [entry.holder for entry in host.daemon.context.domains] in ([None], [])

    async def over() -> bool:
        record = await host.daemon.context.journal.find(migration_id, Side(side))
        return record is not None and record.state == ended and record.settled

    await eventually(over)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_first_record_that_is_not_ended_yet_is_no_migration(two_hosts: TwoHosts, side: str) -> None:
    """A repeated Begin or Prepare is not told that the migration is open while nobody holds its domain."""
    host, migration_id = _host(two_hosts, side), new_migration_id()
    phases: SourcePhases | DestinationPhases = host.daemon.source if side == "source" else host.daemon.destination
    opens = "begin" if side == "source" else "prepare"
    requests: list[Request] = []
    real = getattr(phases, opens)

    async def heard(request: Request) -> Reply:
        requests.append(request)
        reply: Reply = await real(request)
        return reply

    setattr(phases, opens, heard)
    _answers_late(host)
    host.writes.fail_from(2)  # so the record stays open
    with pytest.raises(StorageFailed):
        await two_hosts.migrate(migration_id=migration_id)
    record = await host.daemon.context.journal.find(migration_id, Side(side))
    assert record is not None
    assert not record.state.final
    for request in tuple(requests):
        with pytest.raises(StorageFailed, match="was not begun"):
            await real(request)
    assert requests
    host.writes.heal()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()
