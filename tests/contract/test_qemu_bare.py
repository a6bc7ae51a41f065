"""Real QEMU sends a guest to a QEMU that no driver knows, started from the command line that the driver gives."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.harness import ONLY_QEMU
from contract.stage import DIRTY, FAST, Stage
from support.bare import bare_qemu
from support.waiting import eventually
from vmferry.errors import TransferFailed
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import BareReceiver, Guest, SendSettings, StartMode
from vmferryd.drivers.fate import Fate

pytestmark = ONLY_QEMU


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the bare QEMU is started, and listens. A UNIX socket's path has to be short."""
    with tempfile.TemporaryDirectory(prefix="vmf") as directory:
        yield Path(directory)


async def started(stage: Stage) -> tuple[DomainDefinition, Guest]:
    """A guest that runs, and its definition."""
    definition = stage.harness.definition("guest", dirty=DIRTY)
    guest = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    await stage.runs(guest)
    return definition, guest


def connected(place: Path) -> socket.socket:
    """A channel to the QEMU that listens there."""
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(str(place / "in"))
    return channel


@pytest.mark.parametrize("settings", [FAST, SendSettings(live=False)], ids=["live", "not live"])
@pytest.mark.parametrize("on_arrival", StartMode)
async def test_the_receiver_decides_whether_the_guest_runs(
    stage: Stage, place: Path, settings: SendSettings, on_arrival: StartMode
) -> None:
    """The printed line receives the guest, which runs there or stands still as the line says, and here no more."""
    definition, guest = await started(stage)
    receiver = BareReceiver(f"unix:{place}/in", on_arrival=on_arrival)
    async with bare_qemu(await stage.harness.driver.receiver(definition, receiver), place) as bare:
        outgoing = guest.outgoing()
        await outgoing.send(connected(place), settings)
        await outgoing.held()
        await outgoing.let_go()
        assert await outgoing.fate() is Fate.ARRIVED
        await eventually(lambda: bare.status == on_arrival.value)
        assert "" == bare.log
    await stage.stands_still(guest)


async def test_a_receiver_without_the_gate_takes_the_guest_all_the_same(stage: Stage, place: Path) -> None:
    """The node that the line ends with spares the receiver a complaint, and nothing else."""
    definition, guest = await started(stage)
    words = await stage.harness.driver.receiver(definition, BareReceiver(f"unix:{place}/in"))
    assert "-blockdev" == words[-2]
    async with bare_qemu(words[:-2], place) as bare:
        outgoing = guest.outgoing()
        await outgoing.send(connected(place), FAST)
        await outgoing.held()
        await outgoing.let_go()
        await eventually(lambda: bare.status == "running")


async def test_a_receiver_killed_while_held(stage: Stage, place: Path) -> None:
    """It may have had everything: nothing is proved, and the guest stands still here until somebody who knows resumes it."""
    definition, guest = await started(stage)
    async with bare_qemu(await stage.harness.driver.receiver(definition, BareReceiver(f"unix:{place}/in")), place) as bare:
        outgoing = guest.outgoing()
        await outgoing.send(connected(place), FAST)
        await outgoing.held()
        await bare.kill()
        with pytest.raises(TransferFailed):
            await outgoing.let_go()
        assert await outgoing.fate() is Fate.UNKNOWN
    await stage.stands_still(guest)
    await outgoing.cancel()
    await guest.resume()
    await stage.runs(guest)
