"""Five hundred migrations of ten guests under faults: afterwards the daemons have what they had before."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from support.daemons import IMPATIENT, Host, TwoHosts, domain_xml
from support.waiting import eventually
from vmferry.attempt import Attempt
from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferryd.drivers.memory import FaultKind, Verb

GUESTS = [(f"guest-{number}", str(uuid.UUID(int=100 + number))) for number in range(10)]
ROUNDS = 50
SPARE = 10
"""Connections between daemons are kept, and made anew when they break; what leaked with each fault would be far more."""
POOL = 8
"""asyncio makes the threads of its pool when it needs one more, and keeps them."""
REMEMBERED = 60
"""So many ended migrations a daemon keeps here, so that it forgets most of the five hundred on the way."""
LARGEST_BYTES = 6 << 20
"""SQLite's log is put back into the file after 4 MiB, and the file holds what is remembered: some KiB for each."""
FAULTS = (FaultKind.REFUSE, FaultKind.LOSE_BEFORE, FaultKind.LOSE_AFTER, FaultKind.FAIL_TRANSFER)
STRUCK = (Verb.ACCEPT, Verb.SEND, Verb.HELD, Verb.LET_GO, Verb.RECEIVED, Verb.RESUME, Verb.PROBE, Verb.CANCEL)


@dataclass(frozen=True, slots=True)
class Figures:
    """What this process has: file descriptors, tasks and threads, and what both daemons remember of what goes on."""

    descriptors: int
    tasks: int
    threads: int
    migrations: int
    channels: int
    guests: int
    children: int
    board: int
    """Jobs that have ended and can still be asked for, on both hosts."""


def _figures(two_hosts: TwoHosts) -> Figures:
    daemons = [host.daemon for host in two_hosts.hosts]
    leaving, arriving = [each.source for each in daemons], [each.destination for each in daemons]
    return Figures(
        descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - a count
        tasks=len(asyncio.all_tasks()),
        threads=threading.active_count(),
        migrations=sum(len(side.migrations.unfinished) + len(side._opening) for side in leaving)
        + sum(len(side._migrations) + len(side._opening) for side in arriving),
        channels=sum(len(host.machine.channels) for host in two_hosts.hosts),
        guests=sum(len(host.machine.guests) for host in two_hosts.hosts),
        children=len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
        board=sum(len(host.daemon.context.board.all()) for host in two_hosts.hosts),
    )


async def _whole_records(host: Host) -> int:
    """The records of which a daemon's journal keeps more than the outcome."""
    return sum(bool(record.definition_xml) for record in await host.daemon.context.journal.newest(100_000))


def _journal_bytes(host: Host) -> int:
    """What the journal takes on the disk, its log included."""
    return sum(path.stat().st_size for path in host.config.state_directory.glob("journal.sqlite*"))


async def _where(two_hosts: TwoHosts, name: str) -> tuple[Host, Host]:
    for here, there in (two_hosts.hosts, two_hosts.hosts[::-1]):
        with suppress(VmferryError):
            if (await here.connection.domain(name)).state.active:
                return here, there
    raise AssertionError(f"{name} is nowhere")


async def _round(two_hosts: TwoHosts) -> int:
    """Every guest was moved, or tried to be; answers how many were."""

    async def move(name: str) -> bool:
        here, there = await _where(two_hosts, name)
        with suppress(VmferryError):
            await here.connection.migrate(name, there.connection, flags=Flag.LIVE, attempt=Attempt(patience=IMPATIENT))
            return True
        return False

    return sum(await asyncio.gather(*(move(name) for name, _ in GUESTS)))


async def _has_forgotten(host: Host) -> bool:
    return await _whole_records(host) <= REMEMBERED


async def _quiet(two_hosts: TwoHosts) -> None:
    await eventually(lambda: _figures(two_hosts).migrations == 0, 30.0, what="every migration is settled")
    await eventually(lambda: _figures(two_hosts).channels == 0, 30.0, what="no channel is open")


@pytest.mark.slow
async def test_nothing_leaks(two_hosts: TwoHosts, capsys: pytest.CaptureFixture[str]) -> None:
    """File descriptors, tasks, threads, guests and what is kept of migrations are what they were; each guest lives once."""
    rng = Random(500)
    for host in two_hosts.hosts:
        host.limit(remembered_migrations=REMEMBERED, housekeeping_s=1.0)
        await host.restart()
    for name, domain_uuid in GUESTS:
        await two_hosts.source.connection.define(domain_xml(name, domain_uuid, dirty=20))
        await two_hosts.source.connection.start(name)
    for _ in range(2):
        await _round(two_hosts)
    await _quiet(two_hosts)
    before = _figures(two_hosts)
    for host in two_hosts.hosts:
        host.machine.faults.choose = lambda verb, _: rng.choice(FAULTS) if verb in STRUCK and rng.random() < 0.02 else None
    moved = sum([await _round(two_hosts) for _ in range(ROUNDS)])
    for host in two_hosts.hosts:
        host.machine.faults.clear()
    await _quiet(two_hosts)
    await eventually(lambda: _figures(two_hosts).tasks <= before.tasks, 40.0, what="no task is left")
    await eventually(lambda: _figures(two_hosts).descriptors <= before.descriptors + SPARE, 30.0, what="none is left")
    after = _figures(two_hosts)
    with capsys.disabled():
        sys.stdout.write(f"\n{ROUNDS * len(GUESTS)} migrations, {moved} succeeded\nbefore {before}\nafter  {after}\n")
    assert after.guests == before.guests
    assert after.children == before.children
    assert after.board <= len(two_hosts.hosts) * REMEMBERED
    for host in two_hosts.hosts:
        await eventually(lambda host=host: _has_forgotten(host), 30.0, what="the journal has forgotten the oldest")  # type: ignore[misc]
        assert _journal_bytes(host) < LARGEST_BYTES
    assert after.threads <= before.threads + POOL
    assert two_hosts.log.findings() == []
    assert moved > ROUNDS * len(GUESTS) / 2
