"""A live QEMU guest: its verbs, its events, its end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vmferry.errors import DriverLost, DriverRefused
from vmferryd.clock import Clock
from vmferryd.drivers.base import EventKind, GuestEvent, GuestPlan, GuestProbe, Listener, RunState, TransferState, Tuning
from vmferryd.drivers.qemu import encryption
from vmferryd.drivers.qemu import tuning as tunings
from vmferryd.drivers.qemu.capabilities import MONITOR_NAME, QemuCapabilities
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.incoming import QemuIncomingGuest
from vmferryd.drivers.qemu.migration import QemuOutgoingGuest
from vmferryd.drivers.qemu.monitor import Monitor
from vmferryd.drivers.qemu.process import QemuProcess
from vmferryd.drivers.qemu.record import TransferRecord
from vmferryd.drivers.qemu.relay import listening
from vmferryd.drivers.qemu.standing import StandingMonitor
from vmferryd.drivers.qemu.transfer import TransferLook, run_state

_EVENTS = {
    "STOP": EventKind.STOPPED,
    "RESUME": EventKind.RESUMED,
    "SHUTDOWN": EventKind.SHUT_DOWN,
    "GUEST_PANICKED": EventKind.CRASHED,
    "MIGRATION": EventKind.TRANSFER,
    "MIGRATION_PASS": EventKind.ITERATION,
}
_DETAILS = {EventKind.SHUT_DOWN: "reason", EventKind.TRANSFER: "status", EventKind.ITERATION: "pass"}
_BUSY = frozenset({TransferState.ACTIVE, TransferState.HELD, TransferState.COMPLETING})
_GONE = GuestProbe(RunState.GONE, TransferState.NONE)


class QemuGuest:
    """One QEMU process and its monitor. Implements `Guest`."""

    def __init__(self, plan: GuestPlan, process: QemuProcess, config: QemuConfig, clock: Clock) -> None:
        self.process = process
        self.capabilities: QemuCapabilities | None = None
        # Whoever reads what the transfer does in order to stop, start or let go the guest does so in one step.
        self.deciding = asyncio.Lock()
        self._plan = plan
        self._config = config
        self._clock = clock
        self._monitor: Monitor | None = None
        self._standing: StandingMonitor | None = None
        self._connecting = asyncio.Lock()
        self._listeners: list[Listener] = []
        self._wakers: list[Callable[[], None]] = []
        self._last_iteration_s = float("-inf")
        self._silent_until_s = float("-inf")
        self._closed = False
        self.handshake: socket.socket | None = None
        """The channel on which QEMU shakes hands, as long as it does: see `encryption`."""
        self.has_arrived = False
        """Its state has just been loaded, and it was not sent since: its CPUs may run."""
        self.said = ""
        """The transfer's status as QEMU last reported it by itself."""

    @property
    def plan(self) -> GuestPlan:
        """See `Guest`."""
        return self._plan

    @property
    def is_closed(self) -> bool:
        """The handle is of no use any more."""
        return self._closed

    @property
    def config(self) -> QemuConfig:
        """The driver's bounds."""
        return self._config

    @property
    def clock(self) -> Clock:
        """The driver's clock."""
        return self._clock

    async def connect(self, starting_s: float | None = None) -> None:
        """The monitor is open, or will be when QEMU has the page that it waits for; the process's end will be reported.

        A process that was just started may take `starting_s`.

        Raises:
            DriverLost: the process ended, or its monitor does not answer.
        """
        self._stand()
        try:
            await self.monitor(starting_s)
            self._stand()  # a QEMU that was starting has its pipes only now
        except DriverLost:
            if not await self._waits_for_a_way():
                raise
        self.process.watch(self._on_end)

    async def monitor(self, starting_s: float | None = None) -> Monitor:
        """The open monitor; one that was lost is opened again.

        Raises:
            DriverLost: the process ended, or its monitor does not answer.
        """
        async with self._connecting:
            if self._closed:
                raise DriverLost("the guest's handle is closed")
            if self._monitor is None or not self._monitor.is_open:
                self._monitor = await self._opened(starting_s)
            return self._monitor

    async def _opened(self, starting_s: float | None) -> Monitor:
        """A new session. While the guest waits for pages each attempt is short, and not every caller makes one."""
        if self._monitor is not None:
            await self._monitor.close()
        config = replace(self._config, monitor_timeout_s=self._config.yank_after_s) if self.is_cut else self._config
        if self.is_cut and self._clock.monotonic() < self._silent_until_s:
            raise DriverLost("QEMU's monitor does not answer, for a device waits for a page")
        path, is_alive = self._plan.directory / MONITOR_NAME, self.process.is_alive
        try:
            return await Monitor.open(
                path, config, self._clock, handler=self._on_event, is_alive=is_alive, starting_s=starting_s
            )
        except DriverLost:
            self._silent_until_s = self._clock.monotonic() + config.yank_after_s
            raise

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """See `Monitor.execute`. Without `timeout_s` nothing is waited for while a device waits for a page that is lost."""
        monitor = await self.monitor()
        return await self._answer(lambda: monitor.execute(command, arguments, timeout_s=timeout_s), command, timeout_s)

    async def ask(self, *commands: str, timeout_s: float | None = None) -> list[Any]:
        """See `Monitor.ask`; waits as `execute` does."""
        monitor = await self.monitor()
        answers: list[Any] = await self._answer(
            lambda: monitor.ask(*commands, timeout_s=timeout_s), " and ".join(commands), timeout_s
        )
        return answers

    async def _answer(self, asking: Callable[[], Coroutine[Any, Any, Any]], command: str, timeout_s: float | None) -> Any:
        if timeout_s is not None or not self.said.startswith("postcopy"):
            return await asking()
        answer = asyncio.ensure_future(asking())
        cut = asyncio.ensure_future(self.heard_cut())
        try:
            await asyncio.wait([answer, cut], return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return await answer
            raise DriverLost(f"QEMU does not answer {command}, for a device waits for a page")
        finally:
            answer.cancel()
            cut.cancel()
            await asyncio.gather(answer, cut, return_exceptions=True)

    async def execute_urgently(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """See `Monitor.execute_urgently`; also answered when no monitor can be opened, if that was agreed upon before."""
        if self._standing is not None and not self._has_session and await self._standing.is_agreed():
            return await self._standing.execute_urgently(command, arguments)
        return await (await self.monitor()).execute_urgently(command, arguments)

    async def agree_for_good(self) -> None:
        """QEMU answers what is urgent to any later daemon, even while its main loop waits.

        Raises:
            DriverRefused, DriverLost: it does not.
        """
        if self._standing is not None:
            await self._standing.agree()

    async def may_answer(self) -> bool:
        """QEMU lives, and has a session with this daemon; or it will have one as soon as a page comes that it waits for."""
        if not self.process.is_alive():
            return False
        if self._standing is not None and self.said.startswith("postcopy"):
            return True
        return (await self.monitor()).is_open

    @property
    def is_cut(self) -> bool:
        """QEMU has said last that the way of its missing pages is cut."""
        return self.said == "postcopy-paused"

    async def heard_cut(self) -> None:
        """QEMU has said that the pages were cut off, and a while has passed in which it did not say otherwise.

        Its main loop stands still if a device waits for a page that is missing, and with it all that is asked; what it
        reports by itself still comes.
        """
        woken = asyncio.Event()
        with self.waking(woken.set):
            while True:
                woken.clear()
                if self.is_cut:
                    await self._clock.sleep(self._config.yank_after_s)
                    if self.is_cut:
                        return
                await woken.wait()

    @property
    def _has_session(self) -> bool:
        return self._monitor is not None and self._monitor.is_open

    def _stand(self) -> None:
        if self._standing is None:
            self._standing = StandingMonitor.open(self._plan.directory, self._config, self._on_lasting_event)

    async def _waits_for_a_way(self) -> bool:
        """QEMU, whose monitor does not answer, waits for a new way of its missing pages, and says so out of band."""
        if self._standing is None or not await self._standing.is_agreed():
            return False
        try:
            await listening(self)
        except (DriverLost, DriverRefused):
            return False
        self.said = "postcopy-paused"
        return True

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `Guest`."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    @contextlib.contextmanager
    def waking(self, waker: Callable[[], None]) -> Any:
        """`waker` is called at every event within the context, however many there are."""
        self._wakers.append(waker)
        try:
            yield
        finally:
            self._wakers.remove(waker)

    async def probe(self) -> GuestProbe:
        """See `Guest`."""
        # A device that touches a page which is missing stops the main loop, and with it every answer, until the page comes.
        is_cut = self.is_cut
        bound_s = self._config.yank_after_s if is_cut else None
        try:
            status, migration = await self.ask("query-status", "query-migrate", timeout_s=bound_s)
        except DriverLost:
            if is_cut and await self.may_answer():
                return GuestProbe(RunState.RUNNING, TransferState.POSTCOPY_PAUSED, "a device waits for a page")
            if await self._has_ended():
                return GuestProbe(RunState.GONE, TransferState.NONE, self.last_words())
            raise
        look = TransferLook.of(migration)
        return GuestProbe(run_state(status["status"], look.state), look.state, look.error, look.blockers)

    async def devices(self) -> Mapping[str, str]:
        """See `Guest`."""
        allotted = {}
        for backend in await self.execute("query-chardev"):
            if backend["filename"].startswith("pty:"):
                allotted[backend["label"].removeprefix("char")] = backend["filename"].removeprefix("pty:")
        with contextlib.suppress(DriverRefused):
            vnc = await self.execute("query-vnc")
            if vnc.get("enabled") and vnc.get("family") in {"ipv4", "ipv6"}:
                allotted["vnc"] = vnc["service"]
        return allotted

    async def pause(self) -> None:
        """See `Guest`."""
        async with self.deciding:
            await self.execute("stop")
            record = TransferRecord.read(self._plan.directory)
            if record is not None:
                record.changed(self._plan.directory, ran=False)

    async def tuning(self) -> Tuning:
        """See `Guest`."""
        return await tunings.tuning(self)

    async def tune(self, change: Tuning) -> None:
        """See `Guest`."""
        await tunings.tune(self, change)

    async def resume(self) -> None:
        """See `Guest`.

        Raises:
            DriverRefused: a transfer is going on; CPUs that it found standing still must not run before it has ended.
        """
        if self.has_arrived:
            await self.start_cpus()
            return
        answer, migration = await self.ask("query-status", "query-migrate")
        status, state = answer["status"], TransferLook.of(migration).state
        if status == "running":
            return
        # QEMU would accept `cont` from a guest that waits for its state, and start its CPUs on arrival.
        gone_over = state.in_postcopy and status == "finish-migrate"
        if state in _BUSY or gone_over or status == "inmigrate":
            raise DriverRefused("the guest is being sent or received", remedy="Wait for the end, or cancel it.")
        await self.start_cpus()

    async def start_cpus(self) -> None:
        """The CPUs run. QEMU refuses for a moment after a transfer's end, until it has settled its own state.

        Raises:
            DriverRefused: QEMU does not start them; the disks may be held by somebody else.
        """
        deadline_s = self._clock.monotonic() + self._config.settle_timeout_s
        while True:
            try:
                await self.execute("cont")
            except DriverRefused:
                settling = (await self.execute("query-status"))["status"] == "finish-migrate"
                if not settling or self._clock.monotonic() >= deadline_s:
                    raise
                await self._clock.sleep(self._config.poll_s)
            else:
                break
        self.has_arrived = False

    async def shutdown(self) -> None:
        """See `Guest`."""
        await self.execute("system_powerdown")

    async def destroy(self) -> None:
        """See `Guest`. QEMU is asked to quit, so that it writes back what it caches; one that does not is killed."""
        if self.process.is_alive():
            with contextlib.suppress(DriverLost, DriverRefused):
                await self.execute("quit", timeout_s=self._config.stop_timeout_s)
                await self.process.wait(self._config.stop_timeout_s)
        await self.process.kill(self._config.stop_timeout_s)
        await self.close()
        remove_directory(self._plan.directory)

    def outgoing(self) -> QemuOutgoingGuest:
        """See `Guest`."""
        self.has_arrived = False
        return QemuOutgoingGuest(self)

    def incoming(self) -> QemuIncomingGuest:
        """See `Guest`."""
        return QemuIncomingGuest(self)

    async def close(self) -> None:
        """See `Guest`."""
        self._closed = True
        encryption.handshake_is_over(self)
        if self._monitor is not None:
            await self._monitor.close()
        if self._standing is not None:
            self._standing.close()
        self.process.close()

    def last_words(self) -> str:
        """The end of what QEMU wrote."""
        return self.process.last_words(self._config.log_tail_bytes)

    async def _has_ended(self) -> bool:
        """Whether the process is gone; a monitor that was just lost may be ahead of the process's end."""
        return not self.process.is_alive() or await self.process.wait(self._config.settle_timeout_s)

    def _on_lasting_event(self, name: str, data: Mapping[str, Any]) -> None:
        """What is said in both sessions counts once. Only what the transfer does is of use when there is no monitor."""
        if name == "MIGRATION" and not self._has_session:
            self._on_event(name, data)

    def _on_event(self, name: str, data: Mapping[str, Any]) -> None:
        kind = _EVENTS.get(name)
        if kind is EventKind.TRANSFER:
            self.said = str(data.get("status", ""))
        if name == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            kind = EventKind.IO_ERROR
        if kind is not None:
            self.report(kind, str(data.get(_DETAILS.get(kind, ""), "")))

    def _on_end(self) -> None:
        self.report(EventKind.GONE, self.last_words())

    def report(self, kind: EventKind, detail: str) -> None:
        """Every listener has heard it."""
        for waker in tuple(self._wakers):
            waker()
        now_s = self._clock.monotonic()
        if kind is EventKind.ITERATION:
            # A guest that waits for its switch-over reports thousands of rounds a second.
            if now_s - self._last_iteration_s < self._config.iteration_event_s:
                return
            self._last_iteration_s = now_s
        event = GuestEvent(kind, now_s, detail)
        for listener in tuple(self._listeners):
            listener(event)


def remove_directory(directory: Path) -> None:
    """The folder is gone with everything in it; also when it never was."""
    shutil.rmtree(directory, ignore_errors=True)
