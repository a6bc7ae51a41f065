"""A simulated hypervisor process with its guest: what lives on when the daemon does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vmferry.errors import DriverLost, DriverRefused
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import EventKind, GuestEvent, GuestPlan, Listener, RunState, Tuning
from vmferryd.drivers.memory.disks import Export, Mirrors
from vmferryd.drivers.memory.execution import NS_PER_S, Cpu
from vmferryd.drivers.memory.pacing import DEFAULT_DOWNTIME_MS
from vmferryd.drivers.memory.pages import PAGE_BYTES, GuestMemory, Layout
from vmferryd.drivers.memory.stream import MachineState
from vmferryd.drivers.memory.watch import Watch

if TYPE_CHECKING:
    from vmferryd.drivers.memory.host import MemoryHost
    from vmferryd.drivers.memory.receiver import Receiver
    from vmferryd.drivers.memory.sender import Sender

_WORDS_OF_RESUME = {
    RunState.HELD: "its transfer is held or being completed",
    RunState.INCOMING: "its state has not arrived",
    RunState.SHUT_DOWN: "it has shut down",
    RunState.CRASHED: "it has crashed",
}
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Program:
    """What a guest does with its time: the driver's defaults where the definition is silent."""

    resident_pages: int = 256
    working_set_pages: int = 64
    dirty_rate_pages_per_s: int = 0
    boot_time_ms: int = 0
    seed: int | None = None

    def begin(self, definition: DomainDefinition, life: str) -> MachineState:
        """The state of a machine that has just been powered on."""
        asked = definition.simulation
        total = definition.memory_bytes // PAGE_BYTES
        asked_set = asked.working_set_pages if asked else None
        working_set = min(total, self.working_set_pages if asked_set is None else asked_set)
        resident = min(total, max(working_set, self.resident_pages))
        seed = definition.uuid.int % 2**64 if self.seed is None else self.seed
        rate = asked.dirty_rate_pages_per_s if asked else None
        boot_ms = asked.boot_time_ms if asked else None
        return MachineState(
            life=life,
            ran_ns=0,
            writes=0,
            layout=Layout(seed, total, resident, working_set),
            dirty_rate_pages_per_s=self.dirty_rate_pages_per_s if rate is None else rate,
            boot_time_ms=self.boot_time_ms if boot_ms is None else boot_ms,
        )


class SimulatedGuest:
    """The process. Every verb is immediate; what takes time is done by `Sender` and `Receiver`."""

    def __init__(self, host: MemoryHost, plan: GuestPlan, state: MachineState, run_state: RunState) -> None:
        self.host = host
        self.plan = plan
        self.run_state = run_state
        self.detail = ""
        self.obeys_shutdown = True
        self.blockers: tuple[str, ...] = ()
        self.dirty_rate_pages_per_s = state.dirty_rate_pages_per_s
        self.boot_time_ms = state.boot_time_ms
        self.memory = GuestMemory(state.layout, powered_on=run_state is not RunState.INCOMING)
        self.cpu = Cpu(host.clock, host.log, host.mark, state.life)
        self.sender: Sender | None = None
        self.receiver: Receiver | None = None
        self.images: dict[str, Path] = {}
        self.mirrors = Mirrors(self)
        self.exports: list[Export] = []
        self.watch = Watch()
        self.max_downtime_ms = DEFAULT_DOWNTIME_MS
        self.postcopy_bandwidth_bytes_per_s = 0
        self._kept: tuple[int, int] | None = None
        self._listeners: list[Listener] = []

    @property
    def domain_uuid(self) -> str:
        """The domain that this guest is an execution of."""
        return self.plan.domain_uuid

    @property
    def gone(self) -> bool:
        """The process does not exist any more."""
        return self.run_state is RunState.GONE

    @property
    def beat(self) -> int:
        """The number of the last beat of the guest's heart; it moves only while the CPUs run."""
        return self.cpu.beat

    def memory_digest(self) -> str:
        """A fingerprint of the memory as it is now."""
        self.sync()
        return self.memory.digest()

    def memory_damage(self) -> tuple[int, ...]:
        """The pages that do not hold what the guest's own writes left in them."""
        self.sync()
        return self.memory.damage()

    def sync(self) -> None:
        """The memory is as the program has left it by now."""
        self.memory.write_until(self.cpu.ran_ns * self.dirty_rate_pages_per_s // NS_PER_S)

    def state(self) -> MachineState:
        """All of the guest that is not in its pages."""
        return MachineState(
            life=self.cpu.life,
            ran_ns=self.cpu.ran_ns,
            writes=self.memory.writes,
            layout=self.memory.layout,
            dirty_rate_pages_per_s=self.dirty_rate_pages_per_s,
            boot_time_ms=self.boot_time_ms,
        )

    def adopt(self, state: MachineState, missing: Iterable[int] = ()) -> None:
        """The state has arrived, but for the pages that are `missing`; the CPUs stand still."""
        self.memory.adopt(state.layout, state.writes, missing)
        self.cpu.adopt(state.life, state.ran_ns)
        self.dirty_rate_pages_per_s = state.dirty_rate_pages_per_s
        self.boot_time_ms = state.boot_time_ms
        self.become(RunState.PAUSED)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """`listener` hears every event, until the returned function is called."""
        entry: Listener = lambda event: listener(event)  # noqa: E731, PLW0108 - a listener may subscribe twice
        self._listeners.append(entry)

        def leave() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)

        return leave

    def emit(self, kind: EventKind, detail: str = "") -> None:
        """Every listener has heard of it, and every waiter looks again."""
        event = GuestEvent(kind, self.host.clock.monotonic(), detail)
        for listener in tuple(self._listeners):
            listener(event)
        self.watch.notify()

    def become(self, run_state: RunState) -> bool:
        """The guest is in a state in which its CPUs stand still. Answers whether they ran before."""
        ran = self.cpu.running
        self.cpu.stop()
        self.sync()
        self.run_state = run_state
        if ran:
            self.emit(EventKind.STOPPED)
        self.watch.notify()
        return ran

    def run(self) -> None:
        """The CPUs run."""
        self.run_state = RunState.RUNNING
        self.cpu.run()
        self.emit(EventKind.RESUMED)

    def pause(self) -> None:
        """See `Guest.pause`."""
        self.demand_life()
        if self.sender is not None:
            self.sender.owes_run = False
        if self.run_state is RunState.RUNNING:
            self.become(RunState.PAUSED)

    def tuning(self) -> Tuning:
        """See `Guest.tuning`."""
        if self.sender is None or not self.sender.going_on:
            return Tuning(self.max_downtime_ms, postcopy_bandwidth_bytes_per_s=self.postcopy_bandwidth_bytes_per_s)
        return self.sender.tuning

    def tune(self, change: Tuning) -> None:
        """See `Guest.tune`."""
        if change.xbzrle_cache_bytes is not None:
            raise DriverRefused("Simulated guests are sent without xbzrle")
        if self.sender is not None and self.sender.going_on:
            self.sender.tune(change)
            return
        if change.max_downtime_ms is not None:
            self.max_downtime_ms = change.max_downtime_ms
        if change.postcopy_bandwidth_bytes_per_s is not None:
            self.postcopy_bandwidth_bytes_per_s = change.postcopy_bandwidth_bytes_per_s

    def begin_attempt(self) -> None:
        """What is tuned from now on is one attempt's to send the guest."""
        self._kept = self._kept or (self.max_downtime_ms, self.postcopy_bandwidth_bytes_per_s)

    def end_attempt(self) -> None:
        """What held before the attempt holds again."""
        if self._kept is not None:
            self.max_downtime_ms, self.postcopy_bandwidth_bytes_per_s = self._kept
            self._kept = None

    def resume(self) -> None:
        """See `Guest.resume`."""
        self.demand_life()
        if self.run_state in _WORDS_OF_RESUME:
            raise DriverRefused(f"The guest cannot run: {_WORDS_OF_RESUME[self.run_state]}")
        if self.sender is not None:
            self.sender.owes_run = False
        if self.run_state is not RunState.RUNNING:
            self.run()

    def shutdown(self) -> None:
        """See `Guest.shutdown`. A guest that is still booting, or stands still, does not notice."""
        self.demand_life()
        booted = self.cpu.ran_ns >= self.boot_time_ms * NS_PER_MS
        if self.run_state is RunState.RUNNING and booted and self.obeys_shutdown:
            self._give_up(RunState.SHUT_DOWN, EventKind.SHUT_DOWN, "the guest shut down")

    def crash(self, detail: str = "the guest panicked") -> None:
        """The guest has crashed; its process is still there."""
        if not self.gone:
            self._give_up(RunState.CRASHED, EventKind.CRASHED, detail)

    def fail_io(self, detail: str = "no space left on device") -> None:
        """A disk has failed, and so the CPUs stand still."""
        if self.run_state is RunState.RUNNING:
            self.detail = detail
            self.become(RunState.IO_ERROR)
            self.emit(EventKind.IO_ERROR, detail)

    def kill(self, detail: str = "killed") -> None:
        """The process is gone, and its channels are cut."""
        if self.gone:
            return
        self.detail = detail
        self.cpu.stop()
        self.run_state = RunState.GONE
        self.fail_transfer(detail)
        self.close_exports()
        self.host.forget(self)
        self.emit(EventKind.GONE, detail)

    def fail_transfer(self, detail: str) -> None:
        """The transfer that goes on, if any, has failed, and its channel is cut."""
        for transfer in (self.sender, self.receiver):
            if transfer is not None:
                transfer.fail(detail)
        self.mirrors.fail(detail)

    def close_exports(self) -> None:
        """Nobody writes to a disk of the guest from outside."""
        for export in self.exports:
            export.close()

    async def ended(self) -> None:
        """Nothing of the guest's transfers, which have ended, is left on the host."""
        for transfer in (self.sender, self.receiver):
            if transfer is not None:
                await transfer.ended()
        for export in self.exports:
            await export.ended()

    def demand_life(self) -> None:
        """The process exists.

        Raises:
            DriverLost: it does not.
        """
        if self.gone:
            raise DriverLost("The guest's hypervisor is gone", detail=self.detail)

    def _give_up(self, run_state: RunState, kind: EventKind, detail: str) -> None:
        self.detail = detail
        self.fail_transfer(detail)
        ran = self.cpu.running
        self.cpu.stop()
        self.sync()
        self.run_state = run_state
        # As QEMU reports it: what has happened first, then that the CPUs stand still.
        self.emit(kind, detail)
        if ran:
            self.emit(EventKind.STOPPED)
