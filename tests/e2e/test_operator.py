"""A real guest in doubt: an operator finds out where it is, keeps it, and the host that was given up comes back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import pytest

from support.hosts import IMPATIENT, Host, connections
from support.traveller import NAME, Traveller
from support.waiting import eventually
from vmferry.client import Connection
from vmferry.errors import VmferryError
from vmferry.migrate import Migrated
from vmferry.model import DomainState, StateReason

pytestmark = pytest.mark.qemu

SLOW_MIB_PER_S = 90
SAFE, IN_DOUBT = 0, 4


async def program(host: Host, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status of `vmferry`, and its answer."""
    command = (sys.executable, "-m", "vmferry.cli", "-c", host.uri, "-o", "json", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    said, complained = await process.communicate()
    assert process.returncode is not None
    assert said, complained.decode()
    return process.returncode, json.loads(said)


@pytest.mark.parametrize("two_hosts", [{"doubt_s": 3.0}], indirect=True, ids=["doubt soon"])
@pytest.mark.parametrize("traveller", [512], indirect=True)
async def test_a_guest_in_doubt_is_kept(two_hosts: tuple[Host, Host], traveller: Traveller) -> None:
    """The destination burns down after the release: the guest in doubt is kept, runs on unharmed, and is the only one."""
    first, second = two_hosts
    both = f"{first.uri},{second.uri}"
    async with connections(first, second, bounds=IMPATIENT) as (source, destination):
        await traveller.start(source)
        code, found = await program(first, "where", NAME, "--hosts", both)
        assert (SAFE, "runs", "a") == (code, found["verdict"], found["host"])
        moving = asyncio.create_task(traveller.move(source, destination, bandwidth_mib_per_s=SLOW_MIB_PER_S))
        await _under_way(source, moving)
        os.kill(_daemon(second), signal.SIGSTOP)  # it will not hear the source's word
        await _released(source, moving)
        await second.kill()
        with pytest.raises(VmferryError):  # the source cannot end it alone any more, asks, and finds nobody
            await source.abort_job_of(NAME)
        with pytest.raises(VmferryError):
            await moving
        await _shown_in_doubt(source)
        code, found = await program(first, "where", NAME, "--hosts", both)
        assert (IN_DOUBT, "in-doubt", "a") == (code, found["verdict"], found["host"])
        for pid in second.hypervisors():
            os.kill(pid, signal.SIGKILL)  # the fence
        code, _ = await program(first, "resolve", NAME, "--keep-here", "--fenced", "--why", "host b burned down")
        assert SAFE == code
        await traveller.heard(50)
        await second.start()
        await _is_safe(first, both)
    async with connections(first) as (source,):
        assert DomainState.RUNNING is (await source.domain(NAME)).state
    assert [] == second.leftovers()
    await traveller.verified()
    assert [] == traveller.judgement().faults()


async def _under_way(connection: Connection, moving: asyncio.Task[Migrated]) -> None:
    async def sent() -> bool:
        assert not moving.done(), moving
        try:
            figures = (await connection.newest_job(NAME)).statistics
        except VmferryError:
            return False
        return figures.memory_processed_bytes > 0.2 * max(1, figures.memory_total_bytes)

    await eventually(sent, 60.0, what="the transfer is under way")


async def _released(connection: Connection, moving: asyncio.Task[Migrated]) -> None:
    async def released() -> bool:
        assert not moving.done(), moving
        return (await connection.newest_job(NAME)).state == "released"

    await eventually(released, 60.0, what="the source has released the guest")


async def _shown_in_doubt(connection: Connection) -> None:
    async def in_doubt() -> bool:
        return (await connection.domain(NAME)).reason is StateReason.IN_DOUBT

    await eventually(in_doubt, 120.0, what="the source says that the guest is in doubt")


async def _is_safe(host: Host, both: str) -> None:
    async def safe() -> bool:
        code, found = await program(host, "where", NAME, "--hosts", both)
        return (code, found["verdict"], found["host"]) == (SAFE, "runs", "a")

    await eventually(safe, 60.0, what="both hosts agree")


def _daemon(host: Host) -> int:
    assert host.process is not None
    return host.process.pid
