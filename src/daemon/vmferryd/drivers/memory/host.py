"""The machine that simulated guests run on. It outlives every driver object that is put over it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import shutil
import socket
import tempfile
import uuid
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from vmferryd.clock import Clock
from vmferryd.drivers.base import GuestPlan
from vmferryd.drivers.memory.execution import ExecutionLog
from vmferryd.drivers.memory.faults import FaultPlan
from vmferryd.drivers.memory.guest import Program, SimulatedGuest

GUEST_FACT = "guest"
"""The fact in a plan that names its guest."""


class MemoryHost:
    """Guests, channels and fault switches of one machine.

    A guest costs nothing while nobody looks at it: its execution is worked out from the clock. Only a transfer has a task.
    Those tasks stand for processes of their own, so they belong to the machine: no task group of the daemon ends them, and
    their context is the one in which the machine was made.

    Args:
        clock: the time that guests and transfers go by.
        mark: names the machine in plans and in the execution log; by default unlike any other. Two machines with the
            same mark, one after the other, would take each other's plans for their own.
        line_bytes_per_s: what the machine's network carries for each transfer; None is unlimited.
        program: what guests do whose definition does not say it.
        log: where execution is written down; hosts with one clock may share it.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        mark: str = "",
        line_bytes_per_s: int | None = None,
        program: Program | None = None,
        log: ExecutionLog | None = None,
    ) -> None:
        self.clock = clock
        self.mark = mark or uuid.uuid4().hex[:12]
        self.line_bytes_per_s = line_bytes_per_s
        self.program = program or Program()
        self.log = log or ExecutionLog()
        self.faults = FaultPlan()
        self.guests: dict[str, SimulatedGuest] = {}
        self.channels: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._context = contextvars.copy_context()

    @functools.cached_property
    def folder(self) -> Path:
        """Where the sockets of disks are; it goes with the machine."""
        path = tempfile.mkdtemp(prefix="vmf-disks-")
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return Path(path)

    def new_name(self) -> str:
        """A name that no guest here has or had."""
        return f"{self.mark}-{next(self._numbers)}"

    def find(self, plan: GuestPlan) -> SimulatedGuest | None:
        """The guest that was started from this plan, if it lives."""
        return self.guests.get(plan.facts.get(GUEST_FACT, ""))

    def of_domain(self, domain_uuid: str) -> list[SimulatedGuest]:
        """The living guests of that domain."""
        return [guest for guest in self.guests.values() if guest.domain_uuid == domain_uuid]

    def add(self, guest: SimulatedGuest) -> None:
        """The guest lives here."""
        self.guests[guest.plan.facts[GUEST_FACT]] = guest

    def forget(self, guest: SimulatedGuest) -> None:
        """The guest lives here no more."""
        self.guests.pop(guest.plan.facts[GUEST_FACT], None)

    def crash(self, domain_uuid: str) -> None:
        """Every guest of that domain has panicked; its process is still there."""
        for guest in self.of_domain(domain_uuid):
            guest.crash()

    def kill(self, domain_uuid: str) -> None:
        """Every hypervisor of that domain is gone, as by `kill -9`."""
        for guest in self.of_domain(domain_uuid):
            guest.kill()

    def leftovers(self) -> list[str]:
        """What is on the machine: guests and open channels, one line for each."""
        guests = [f"guest {name} is {guest.run_state}" for name, guest in self.guests.items()]
        return guests + [f"channel {channel.fileno()} is open" for channel in self.channels]

    def spawn(self, work: Coroutine[Any, Any, None], then: Callable[[asyncio.Task[None]], None]) -> asyncio.Task[None]:
        """`work` goes on by itself; the host keeps hold of it until it ends, and `then` is called."""
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._tasks.add(task)
        for called in (self._tasks.discard, then):
            task.add_done_callback(called, context=self._context)
        return task

    async def power_off(self) -> None:
        """No guest, no channel and no task is left."""
        for guest in tuple(self.guests.values()):
            guest.kill("the machine was powered off")
        self.faults.clear()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
            await asyncio.sleep(0)
