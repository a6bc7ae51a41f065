"""What strikes, and what repairs it again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from crash.bounds import ABSENCE_S, FULL_S, OUTAGE_S
from crash.cells import CUTS, Cell, Fault, Part
from crash.stage import Machine, Stage
from support.network import CLIENT, Direction

_DIRECTIONS = {Fault.CUT: Direction.BOTH, Fault.CUT_FORTH: Direction.FORTH, Fault.CUT_BACK: Direction.BACK}


@dataclass(frozen=True, slots=True)
class Actors:
    """Who plays in a cell."""

    stage: Stage
    source: Machine
    destination: Machine
    client: asyncio.subprocess.Process

    def machine(self, part: Part) -> Machine:
        """The host that a part belongs to."""
        return self.source if part.at_source else self.destination

    def pid(self, part: Part) -> int | None:
        """The process that a part is; None for a hypervisor that has ended by itself, as one without its sender does."""
        if part is Part.CLIENT:
            return self.client.pid
        machine = self.machine(part)
        if part in (Part.SOURCE_DAEMON, Part.DESTINATION_DAEMON):
            assert machine.host.process is not None
            return machine.host.process.pid
        pids = machine.host.hypervisors()
        assert len(pids) <= 1
        return pids[0] if pids else None

    def ends(self, part: Part) -> tuple[str, str]:
        """The machines that a cable joins."""
        places = {Part.CLIENT_SOURCE: (CLIENT, self.source.place), Part.CLIENT_DESTINATION: (CLIENT, self.destination.place)}
        return places.get(part, (self.source.place, self.destination.place))


@dataclass(frozen=True, slots=True)
class Repair:
    """What comes back by itself or because somebody brings it back, `after_s` seconds after it failed."""

    after_s: float
    work: Callable[[], Awaitable[None]]


async def strike(cell: Cell, actors: Actors) -> Repair | None:
    """It has failed. Answers what brings it back; None for what never comes back."""
    match cell.fault:
        case Fault.KILL:
            return await _kill(cell.part, actors)
        case Fault.STOP:
            return _stop(cell.part, actors)
        case Fault.DISK_FULL:
            return _fill_disk(actors.machine(cell.part))
        case Fault.POWER_OFF:
            return await _power_off(actors, actors.machine(cell.part))
    assert cell.fault in CUTS
    return _cut(_DIRECTIONS[cell.fault], actors.stage, actors.ends(cell.part))


async def _kill(part: Part, actors: Actors) -> Repair | None:
    machine = actors.machine(part)
    match part:
        case Part.CLIENT:
            actors.client.kill()
            await actors.client.wait()
            return None
        case Part.SOURCE_DAEMON | Part.DESTINATION_DAEMON:
            await machine.host.kill()
            return Repair(ABSENCE_S, machine.start)
    if (pid := actors.pid(part)) is not None:
        os.kill(pid, signal.SIGKILL)
    return None


def _stop(part: Part, actors: Actors) -> Repair | None:
    if (pid := actors.pid(part)) is None:
        return None
    os.kill(pid, signal.SIGSTOP)

    async def go_on() -> None:
        if os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            os.kill(pid, signal.SIGCONT)

    return Repair(OUTAGE_S, go_on)


def _cut(direction: Direction, stage: Stage, ends: tuple[str, str]) -> Repair:
    stage.net.cut(*ends, direction)

    async def restore() -> None:
        stage.net.restore(*ends)

    return Repair(OUTAGE_S, restore)


def _fill_disk(machine: Machine) -> Repair:
    machine.fill_disk()

    async def free() -> None:
        machine.free_disk()

    return Repair(FULL_S, free)


async def _power_off(actors: Actors, machine: Machine) -> Repair:
    """The cables go first: a dead machine says neither FIN nor RST. What lay in its memory is gone, its disk is not."""
    net = actors.stage.net
    links = [link.ends for link in net.links if machine.place in link.ends]
    for ends in links:
        net.cut(*ends)
    for pid in machine.host.hypervisors():
        os.kill(pid, signal.SIGKILL)
    await machine.host.kill()

    async def power_on() -> None:
        shutil.rmtree(machine.run_directory, ignore_errors=True)
        for ends in links:
            net.restore(*ends)
        await machine.start()

    return Repair(OUTAGE_S, power_on)
