"""One simulated machine: guests and disk that outlive its daemons, and a supervisor that starts the daemon anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from simulation.disk import Disk
from simulation.loop import Life, Process, VirtualLoop
from simulation.network import Network
from simulation.rpc import Faces
from simulation.sockets import PipeEnd, pair
from vmferry.protocol import ProtocolVersion
from vmferryd import app
from vmferryd.config import Config, load
from vmferryd.drivers.memory import ExecutionLog, FaultKind, MemoryDriver, MemoryHost, Program
from vmferryd.drivers.memory.faults import Verb

PROGRAM = Program(resident_pages=24, working_set_pages=8)
SLOWEST_VERB_S = 0.02
SUPERVISED_S = 1.0
"""How soon a daemon that ended by itself is started anew."""


class LoopClock:
    """The loop's time as a `Clock`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._loop.time()

    def wall(self) -> float:
        """See `Clock`."""
        return 1_700_000_000.0 + self._loop.time()

    async def sleep(self, duration_s: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(duration_s)


@dataclass(frozen=True, slots=True)
class Ground:
    """What all machines of a run stand on."""

    loop: VirtualLoop
    network: Network
    log: ExecutionLog
    directory: Path
    rng: Random


class Host:
    """A machine. `daemon` is there while one runs."""

    def __init__(self, name: str, number: int, ground: Ground, announced: frozenset[ProtocolVersion]) -> None:
        self.name = name
        self.loop = ground.loop
        self.network = ground.network
        self.faces = Faces(ground.network)
        self.rng = ground.rng
        self.clock = LoopClock(ground.loop)
        state_directory = ground.directory / name
        self.disk = Disk(state_directory / "journal.sqlite", ground.rng, lambda _: None)
        self.machine: MemoryHost = ground.loop.world.context.run(
            lambda: MemoryHost(self.clock, mark=name, log=ground.log, program=PROGRAM)
        )
        self.machine.faults.pace = self._pace
        self.config: Config = load(
            None,
            {
                "listen": f"vmferry+tcp://{name}:16533",
                "insecure": True,
                "state_directory": state_directory,
                "run_directory": state_directory / "run",
                "host_name": name,
                "host_uuid": UUID(int=number),
                "announce": {"protocols": announced},
                "data": {"native": False},
            },
        )
        self.process: Process | None = None
        self.daemon: app.Daemon | None = None
        self.wanted = False
        self.over = False
        self.started = 0
        self.pipes: list[PipeEnd] = []
        self.failed_starts: list[str] = []
        self._stop: asyncio.Event | None = None

    # -- the daemon -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A daemon is about to run, and is started anew whenever it ends by itself."""
        if self.over:
            return
        self.wanted = True
        if self.process is not None and self.process.life is not Life.DEAD:
            return
        self.started += 1
        self.process = self.loop.process(f"{self.name}{self.started}", self.name)
        self._stop = asyncio.Event()
        task = self.process.spawn(self._serve(self.process, self._stop), "serve")
        task.add_done_callback(self._ended, context=self.loop.world.context)

    async def _serve(self, process: Process, stop: asyncio.Event) -> None:
        surroundings = app.Surroundings(
            clock=self.clock,
            drivers={"test": lambda _: MemoryDriver(self.machine)},
            disk=self.disk.worker,
            dial=self.faces.dial,
            server=self.faces.server,
            channel_pair=self._pair,  # type: ignore[arg-type]
        )
        async with app.running_over(surroundings, self.config) as daemon:
            self.daemon = daemon
            await stop.wait()
            self.daemon = None

    def _pair(self) -> tuple[PipeEnd, PipeEnd]:
        ends = pair(self.loop.current())
        self.pipes += ends
        return ends

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.failed_starts.append(f"{type(error).__name__}: {error}")
        left = [left.get_name() for left in self.process.pending()] if self.process is not None else []
        if left:
            self.loop.failures.append(f"{self.name} has ended and left tasks: {left}")
        self._gone()
        if self.wanted:
            self.network.later(SUPERVISED_S, lambda: self.start() if self.wanted else None)

    def kill(self) -> None:
        """As `kill -9`: the daemon is gone, and nothing of it goes on."""
        self.wanted = False
        if self.process is not None and self.process.life is not Life.DEAD:
            self._gone()
            self.disk.killed()

    def stop(self) -> None:
        """As SIGTERM: the daemon ends by itself."""
        self.wanted = False
        if self._stop is not None:
            self._stop.set()

    def stop_for_good(self) -> None:
        """As SIGTERM, and no supervisor starts it again, also not one whose moment is still to come."""
        self.over = True
        self.stop()

    def _gone(self) -> None:
        process = self.process
        assert process is not None
        process.kill()
        self.daemon = None
        self.network.died(process)
        for guest in self.machine.guests.values():
            guest._listeners.clear()  # a monitor's connection ends with its daemon; nobody dead is told anything
        for end in self.pipes:
            if end.owner is process and end not in self.machine.channels:
                end.close()
        self.pipes = [end for end in self.pipes if not end.closed]

    def freeze(self) -> None:
        """As SIGSTOP."""
        if self.process is not None:
            self.process.freeze()
            self.network.froze(self.process)

    def thaw(self) -> None:
        """As SIGCONT."""
        if self.process is not None:
            self.process.thaw()
            self.network.look_again()

    # -- the hypervisors --------------------------------------------------------------------------------------------

    async def _pace(self, verb: Verb) -> None:
        if (chance := self.rng.random()) > 0.5:
            await asyncio.sleep((chance - 0.5) ** 3 * SLOWEST_VERB_S * 8)

    def on_verb(self, choose: Callable[[Verb, str], FaultKind | None]) -> None:
        """`choose` is asked at every verb and moment."""
        self.machine.faults.choose = choose
