"""Post-copy on real QEMU whose main loop waits for a page that does not come."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from contract.harness import ONLY_QEMU
from contract.stage import MEMORY_MIB, Stage
from contract.test_postcopy import UNLIMITED, able, cut, older_than, running_there
from vmferry.errors import DriverLost
from vmferryd.drivers.base import Guest, PagesEnd, RunState, TransferState
from vmferryd.drivers.qemu.guest import QemuGuest

pytestmark = [ONLY_QEMU, pytest.mark.usefixtures("able")]

__all__ = ["able"]


async def blocked(guest: Guest, dump: Path) -> None:
    """The main loop reads all of the guest's memory, and waits for the first page that is missing."""
    assert isinstance(guest, QemuGuest)
    everything = {"val": 0, "size": MEMORY_MIB << 20, "filename": str(dump)}
    with pytest.raises(DriverLost):
        await guest.execute("pmemsave", everything, timeout_s=guest.config.statistics_timeout_s)


async def attached(stage: Stage, guest: Guest) -> Guest:
    """The guest, as this daemon has it."""
    found = await stage.harness.driver.attach(guest.plan)
    assert found is not None
    return found


async def whole_again(stage: Stage, source: Guest, destination: Guest) -> None:
    """Over a new way all pages come, and none of them is damaged."""
    patience_s = stage.harness.patience_s
    near, far = socket.socketpair()
    async with asyncio.timeout(patience_s):
        await source.outgoing().send_again(near)
        await destination.incoming().receive_again(far)
        await source.tune(UNLIMITED)
        assert await source.outgoing().served() is PagesEnd.WHOLE
        assert await destination.incoming().pulled() is PagesEnd.WHOLE
    await stage.runs(destination)
    assert await stage.harness.damage(destination) == ""


async def test_new_daemons_bring_new_ways_while_the_main_loop_waits(stage: Stage, tmp_path: Path) -> None:
    """They cannot agree on a session with QEMU: what the first one agreed upon has to do, also after a way that broke.

    Of the cut nothing is left to be read: QEMU is asked itself.
    """
    migration = await running_there(stage)
    await cut(migration)
    await blocked(migration.destination, tmp_path / "dump")
    await stage.harness.restart()
    destination = await attached(stage, migration.destination)
    probe = await destination.probe()
    assert (RunState.RUNNING, TransferState.POSTCOPY_PAUSED) == (probe.run_state, probe.transfer_state)
    assert await destination.incoming().pulled() is PagesEnd.CUT
    if not await older_than(stage, 8, 2):  # such a QEMU waits for ever for the answer of a way that breaks
        near, far = socket.socketpair()
        await destination.incoming().receive_again(far)
        near.close()
        await stage.harness.restart()
        destination = await attached(stage, migration.destination)
    await whole_again(stage, await attached(stage, migration.source), destination)
