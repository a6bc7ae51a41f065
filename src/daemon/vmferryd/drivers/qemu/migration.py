"""Sending and receiving a guest's state.

`query-migrate` is the authority; events only wake, and a slow poll stands in for an event that was missed. Who stops the
CPUs, and why it must not be QEMU, is told in `gate`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmferry.errors import DriverLost, DriverRefused, TransferFailed, TransferStopped
from vmferry.model import Statistics
from vmferryd.drivers.base import EventKind, Extent, PagesEnd, SendSettings, TransferState
from vmferryd.drivers.copies import DiskCopy
from vmferryd.drivers.fate import Fate
from vmferryd.drivers.pause import Move
from vmferryd.drivers.qemu import encryption, parallel
from vmferryd.drivers.qemu import gate as gates
from vmferryd.drivers.qemu import record as records
from vmferryd.drivers.qemu.flow import COMMON, ENDED, cut_pages, hand_over, looks, pages_end, set_capabilities
from vmferryd.drivers.qemu.gate import Gate
from vmferryd.drivers.qemu.mirrors import Mirrors
from vmferryd.drivers.qemu.record import TransferRecord
from vmferryd.drivers.qemu.sink import pay_all_pages
from vmferryd.drivers.qemu.transfer import Aim, Pace, Round, TransferLook, after_round, quiet_s
from vmferryd.drivers.qemu.tuning import UNLIMITED_BYTES_PER_S

if TYPE_CHECKING:
    from vmferryd.drivers.qemu.guest import QemuGuest

_REMEMBERED = (
    "max-bandwidth",
    "downtime-limit",
    "cpu-throttle-initial",
    "cpu-throttle-increment",
    "xbzrle-cache-size",
    "max-postcopy-bandwidth",
    *parallel.PARAMETERS,
)

_SHAKING_HANDS = frozenset({"setup", "postcopy-paused", "postcopy-recover-setup"})
"""What QEMU says of a transfer while it shakes hands, and perhaps a little longer."""


class QemuOutgoingGuest:
    """A guest that is being sent. Implements `OutgoingGuest`."""

    def __init__(self, guest: QemuGuest) -> None:
        self._guest = guest
        self._directory = guest.plan.directory
        self._last = Statistics()
        self._mirrors = Mirrors(guest)
        self._pause_ms = 0
        self._stuck_at_ms = 0
        self._stands = False
        self._is_held = False

    def disk_socket(self, target: str) -> Path:
        """See `OutgoingGuest`."""
        return self._mirrors.socket(target)

    async def begin(self) -> None:
        """See `OutgoingGuest`."""
        async with self._guest.deciding:
            records.keep(self._directory, await self._parameters())

    async def copy_disks(self, copies: Sequence[DiskCopy], settings: SendSettings) -> None:
        """See `OutgoingGuest`."""
        await self._mirrors.copy(copies, settings)

    async def send(self, channel: socket.socket | Path, settings: SendSettings) -> None:
        """See `OutgoingGuest`. A refused channel stays the caller's."""
        async with self._guest.deciding:  # whoever pauses the guest meanwhile is not forgotten
            await self._send(channel, settings)
        if isinstance(channel, socket.socket):
            channel.close()  # noqa: ASYNC240 - a socket
        elif settings.tls is not None:
            await self._shaken_hands()

    async def _send(self, channel: socket.socket | Path, settings: SendSettings) -> None:
        look = await self._look()
        if look.state not in ENDED:
            raise DriverRefused(f"a transfer of this guest is going on already ({look.status})")
        runs = (await self._guest.execute("query-status"))["running"]
        parameters = records.kept(self._directory) or await self._parameters()
        kept_ms = parameters.get("downtime-limit") or self._guest.config.default_downtime_ms
        record = TransferRecord(
            ran=runs,
            gate=await self._gate() if runs and settings.live else Gate.NONE,
            sealed=not runs,
            downtime_ms=settings.max_downtime_ms or kept_ms,
            steady=settings.steady_downtime,
            bandwidth_bytes_per_s=settings.max_bandwidth_bytes_per_s,
            switchover_bytes_per_s=settings.switchover_bandwidth_bytes_per_s,
            emulated=not (await self._guest.execute("query-kvm"))["enabled"],
            postcopy=settings.postcopy,
            parameters=parameters,
        )
        record.write(self._directory)
        try:
            await self._prepare(record, settings)
            if runs and not settings.live:
                await self._guest.execute("stop")
                record.changed(self._directory, sealed=True)
            if isinstance(channel, Path):
                await self._guest.execute("migrate", {"uri": parallel.uri(channel)})
            else:
                if settings.tls is not None:
                    encryption.handshake_begins(self._guest, channel)
                await hand_over(self._guest, channel, "migrate", {})
        except DriverRefused:
            encryption.handshake_is_over(self._guest)
            await self._undo(record)
            raise

    async def _shaken_hands(self) -> None:
        """QEMU is done with the handshake, for better or worse.

        Where it made the connection itself its main loop stands still until then, and with it sooner or later the guest.

        Raises:
            TransferFailed: it takes too long; whoever carries the connection has to end it.
        """
        bound_s = self._guest.config.handshake_timeout_s
        try:
            async with asyncio.timeout(bound_s):
                async for look in self._looks():
                    if look.status not in _SHAKING_HANDS:
                        return
        except TimeoutError:
            encryption.break_off(self._guest)
            raise TransferFailed(f"the other hypervisor did not end the handshake within {bound_s:g} s") from None

    async def held(self) -> None:
        """See `OutgoingGuest`."""
        last, pace, self._pause_ms, self._stands, self._is_held = Round(), Pace(), 0, False, False
        async for look in self._looks():
            match look.state:
                case TransferState.HELD:
                    record = self._record()
                    if not record.sealed and record.gate is not Gate.NONE:
                        # The gate lets QEMU complete only after the CPUs were stopped, by us or by whoever else.
                        record.changed(self._directory, sealed=True)
                    await self._mirrors.finish()
                    self._is_held = True
                    return
                case TransferState.COMPLETING | TransferState.COMPLETED:
                    return
                case TransferState.ACTIVE:
                    await self._mirrors.check()
                    if self._record().postcopy_asked:
                        await self._switch(look)
                    elif not self._record().sealed:
                        pace = await self._advance(last, pace, look)
                    last = last.after(look)
                case _:
                    raise _failed(look)

    async def _advance(self, last: Round, pace: Pace, look: TransferLook) -> Pace:
        """The guest has been stopped if that was due; else the transfer goes on at the pace that is answered."""
        record, config = self._record(), self._guest.config
        aim = Aim(record.downtime_ms, record.bandwidth_bytes_per_s, record.steady, record.switchover_bytes_per_s)
        following = pace.next(look, aim, record.gate, config)
        measured = replace(look, bandwidth_bytes_per_s=following.bandwidth_bytes_per_s)
        if self._is_stop_due(last, measured, aim):
            if pace.is_slow:
                await self._wait_for_the_end_of_a_slot(record)
            await self._seal()
        elif record.gate is not Gate.NONE and following.is_slow != pace.is_slow:
            allowed = following.limit_bytes_per_s or record.bandwidth_bytes_per_s or UNLIMITED_BYTES_PER_S
            limits = gates.while_running(record.gate, looking=following.is_slow)
            await self._set_parameters({"max-bandwidth": allowed} | limits)
        return following

    def _is_stop_due(self, last: Round, look: TransferLook, aim: Aim) -> bool:
        """Whether the guest should be stopped now. What the round has changed is reported, a transfer without an end once."""
        decision = after_round(last, look, aim, self._pause_ms, self._guest.config)
        if decision is None:
            return False
        self._pause_ms = decision.limit_ms
        if decision.move is Move.STUCK and self._stuck_at_ms != aim.downtime_ms:
            self._stuck_at_ms = aim.downtime_ms
            self._guest.report(EventKind.STUCK, decision.reason)
        elif decision.move in (Move.RAISE, Move.STOP):
            self._guest.report(EventKind.PAUSE_LIMIT, decision.reason)
        return decision.move is Move.STOP

    async def _wait_for_the_end_of_a_slot(self, record: TransferRecord) -> None:
        """QEMU's slot is about to end, which is the time to stop the CPUs: until its end a stopped guest would only wait.

        The look that found the stop due came right after a slot had begun. Emulated CPUs are stopped a slot later, in one in
        which QEMU does not look for dirty pages at all: what they write right after such a look would be lost.
        """
        config, slots = self._guest.config, 1
        if record.emulated and record.gate is Gate.BITMAP:
            await self._set_parameters(gates.while_running(record.gate, looking=False))
            slots = 2
        await self._guest.clock.sleep(slots * config.slot_s - config.stop_ahead_s)

    async def start_postcopy(self) -> None:
        """See `OutgoingGuest`. Whoever waits in `held` does it, at the next look."""
        async with self._guest.deciding:
            look, record = await self._look(), TransferRecord.read(self._directory)
            if record is None or not record.postcopy or look.state in ENDED:
                raise DriverRefused(f"no transfer for post-copy goes on ({look.status})")
            if look.state is TransferState.ACTIVE:
                record.changed(self._directory, postcopy_asked=True)

    async def _switch(self, look: TransferLook) -> None:
        """The CPUs stand still, and QEMU goes on to post-copy: in this order, or QEMU would be the one who stops them."""
        if look.status != "active":
            return
        async with self._guest.deciding:
            if (await self._look()).state is not TransferState.ACTIVE:
                return
            await self._guest.execute("stop")
            full = {"max-bandwidth": self._record().bandwidth_bytes_per_s or UNLIMITED_BYTES_PER_S}
            await self._set_parameters(full)
            self._record().changed(self._directory, sealed=True)
            await self._guest.execute("migrate-start-postcopy")

    async def let_go(self) -> Extent:
        """See `OutgoingGuest`. QEMU never starts the CPUs by itself afterwards, whatever becomes of the channel."""
        async with self._guest.deciding:
            await self._continue()
        self._stands = False  # from now on the destination is waited for
        async for seen in self._looks():
            if seen.state.in_postcopy:
                return Extent.RUNNABLE
            if seen.state is TransferState.COMPLETED:
                await self._settle_figures(seen)
                break
            if seen.state in ENDED:
                raise _failed(seen)
        return Extent.WHOLE

    async def served(self) -> PagesEnd:
        """See `OutgoingGuest`."""
        end, look = await pages_end(self._guest)
        if look is not None and end is PagesEnd.WHOLE:
            await self._settle_figures(look)
        return end

    async def cut(self) -> None:
        """See `OutgoingGuest`."""
        await cut_pages(self._guest)

    async def send_again(self, channel: socket.socket) -> None:
        """See `OutgoingGuest`."""
        async with self._guest.deciding:
            encryption.handshake_begins(self._guest, channel)
            try:
                await hand_over(self._guest, channel, "migrate", {"resume": True})
            except DriverRefused:
                encryption.handshake_is_over(self._guest)
                raise
        channel.close()
        # A second way beside one on which QEMU still shakes hands would end the QEMU that has the missing pages.
        await self._shaken_hands()
        encryption.handshake_is_over(self._guest)

    async def cancel(self) -> None:
        """See `OutgoingGuest`."""
        try:
            if TransferRecord.read(self._directory) is not None:
                await self._cancel()
            await self._put_back()
            await self._mirrors.cancel()  # last: the CPUs need not wait for the end of a copy
        except DriverLost:
            # A guest that is gone sends nothing any more.
            if self._guest.process.is_alive() and not await self._guest.process.wait(self._guest.config.poll_s):
                raise

    async def fate(self) -> Fate:
        """See `OutgoingGuest`. That QEMU was told to go on is on record before it is told."""
        look, record = await self._look(), TransferRecord.read(self._directory)
        if look.state is TransferState.COMPLETED:
            return Fate.ARRIVED
        if record is not None and not record.let_go and look.state is not TransferState.COMPLETING:
            return Fate.KEPT
        return Fate.UNKNOWN if record is None or look.state in ENDED else Fate.ON_ITS_WAY

    async def statistics(self) -> Statistics:
        """See `OutgoingGuest`."""
        with contextlib.suppress(DriverLost, DriverRefused):
            timeout_s = self._guest.config.statistics_timeout_s
            look = TransferLook.of(await self._guest.execute("query-migrate", timeout_s=timeout_s))
            self._last = look.statistics or self._last
            await self._mirrors.count()
        return self._mirrors.added_to(self._last)

    async def _gate(self) -> Gate:
        capabilities = self._guest.capabilities
        gate = Gate.NONE if capabilities is None else gates.best_gate(capabilities)
        if gate is Gate.NONE:
            raise DriverRefused(
                "this QEMU cannot be kept from switching a running guest over by itself",
                remedy="Send the guest without the live flag, or use QEMU up to 7.2, or from 8.1 on.",
            )
        return gate

    async def _parameters(self) -> dict[str, Any]:
        answer = await self._guest.execute("query-migrate-parameters")
        return {name: answer[name] for name in _REMEMBERED if name in answer}

    async def _prepare(self, record: TransferRecord, settings: SendSettings) -> None:
        wanted = (COMMON | record.gate.source_capabilities) - record.gate.source_hindrances
        wanted |= {"auto-converge"} if settings.auto_converge else set()
        wanted |= {"xbzrle"} if settings.xbzrle else set()
        wanted |= {"postcopy-ram"} if settings.postcopy else set()
        await set_capabilities(self._guest, wanted | parallel.capabilities(settings.parallel))
        secret = await encryption.put_up(self._guest, settings.tls, encryption.Endpoint.CLIENT)
        chosen = {
            **secret,
            **parallel.parameters(settings.parallel),
            "max-postcopy-bandwidth": settings.postcopy_bandwidth_bytes_per_s if settings.postcopy else None,
            "max-bandwidth": settings.max_bandwidth_bytes_per_s or UNLIMITED_BYTES_PER_S,
            "downtime-limit": record.downtime_ms,
            "cpu-throttle-initial": settings.auto_converge_initial_percent,
            "cpu-throttle-increment": settings.auto_converge_increment_percent,
            "xbzrle-cache-size": settings.xbzrle_cache_bytes,
        }
        await self._set_parameters(chosen | gates.while_running(record.gate, looking=False))
        await gates.put_up_at_source(await self._guest.monitor(), record.gate)

    async def _undo(self, record: TransferRecord) -> None:
        """Everything is as it was before `send`."""
        await self._restore(record)
        if record.ran:
            await self._guest.start_cpus()
        TransferRecord.remove(self._directory)

    async def _restore(self, record: TransferRecord) -> None:
        await self._set_parameters(record.parameters)
        await encryption.take_down(self._guest)
        await gates.take_down(await self._guest.monitor())

    async def _set_parameters(self, parameters: Mapping[str, Any]) -> None:
        chosen = {name: value for name, value in parameters.items() if value is not None}
        if chosen:
            await self._guest.execute("migrate-set-parameters", chosen)

    async def _seal(self) -> None:
        """The CPUs stand still by our doing, and the gate is open; nothing has happened if the transfer has ended."""
        async with self._guest.deciding:
            if (await self._look()).state is not TransferState.ACTIVE:
                return
            await self._guest.execute("stop")
            self._stands = True
            record = self._record()
            opened = {"downtime-limit": gates.OPEN_DOWNTIME_MS} if record.gate is not Gate.NONE else {}
            full = {"max-bandwidth": record.bandwidth_bytes_per_s or UNLIMITED_BYTES_PER_S}
            await self._set_parameters(full | opened)
            self._record().changed(self._directory, sealed=True)  # it may have been tuned meanwhile

    async def _continue(self) -> None:
        """QEMU has been told to send the last part, now or before, and that is on record."""
        record = self._record()
        if record.let_go or not self._is_held:
            look = await self._look()
            if look.state is not TransferState.HELD:
                if record.let_go:
                    return
                raise DriverRefused(f"the last part was not sent, for the transfer is {look.status}", detail=look.error)
        if not record.sealed:
            raise DriverRefused(
                "QEMU stopped the guest itself, and would start it by itself if the channel broke",
                remedy="Cancel the transfer, and send the guest paused or with a QEMU that can be held.",
            )
        told = record.changed(self._directory, let_go=True)
        try:
            await self._guest.execute("migrate-continue", {"state": "pre-switchover"})
        except DriverRefused:
            told.changed(self._directory, let_go=record.let_go)
            raise

    async def _cancel(self) -> None:
        look = await self._interrupt()
        async with self._guest.deciding:
            record = self._record()
            await self._restore(record)
            record.changed(self._directory, parameters={})  # what is set from now on is not taken back by another `cancel`
            status = (await self._guest.execute("query-status"))["status"]
            stands = status not in {"running", "io-error"}  # who stopped for a failed disk waits until somebody heals it
            if stands and not record.let_go and record.ran and look.state is not TransferState.COMPLETED:
                await self._guest.start_cpus()

    async def _put_back(self) -> None:
        """What was tuned since `begin` holds no more."""
        async with self._guest.deciding:
            parameters = records.kept(self._directory)
            if parameters is not None:
                await self._set_parameters(parameters)
                records.forget(self._directory)

    async def _interrupt(self) -> TransferLook:
        """The transfer has ended, in whatever way; the look says which."""
        config = self._guest.config
        try:
            look = TransferLook.of(await self._guest.execute("query-migrate", timeout_s=config.yank_after_s))
            if look.state.in_postcopy:
                await cut_pages(self._guest)
                await pay_all_pages(self._guest)
            elif look.state not in ENDED:
                await self._guest.execute("migrate_cancel", timeout_s=config.yank_after_s)
                encryption.break_off(self._guest)
        except DriverLost:
            encryption.break_off(self._guest)
            # In the last stage QEMU sends with its main loop locked: a channel that takes no bytes blocks the monitor.
            await self._yank()
        try:
            async with asyncio.timeout(config.cancel_timeout_s):
                async for seen in self._looks():
                    if seen.state in ENDED:
                        return seen
        except TimeoutError as error:
            raise DriverLost(f"the transfer did not end within {config.cancel_timeout_s:g} s") from error
        raise AssertionError("looks never end by themselves")

    async def _yank(self) -> None:
        with contextlib.suppress(DriverRefused):
            await self._guest.execute_urgently("yank", {"instances": [{"type": "migration"}]})

    async def _settle_figures(self, look: TransferLook) -> None:
        """The figures are the final ones; right after the end QEMU may still say that no time has passed."""
        clock, config = self._guest.clock, self._guest.config
        deadline_s = clock.monotonic() + config.settle_timeout_s
        while look.statistics is not None and not look.statistics.elapsed_ms and clock.monotonic() < deadline_s:
            await clock.sleep(config.connect_poll_s)
            look = await self._look()
        self._last = look.statistics or self._last

    async def _look(self) -> TransferLook:
        look = TransferLook.of(await self._guest.execute("query-migrate"))
        self._last = look.statistics or self._last
        return look

    async def _looks(self) -> AsyncIterator[TransferLook]:
        said, passes = "", 0
        is_silent = "events" in self._record().gate.source_hindrances
        config = self._guest.config
        patience = (lambda look: config.paused_poll_s if self._stands else quiet_s(look, config)) if is_silent else None
        async for look in looks(self._guest, patience=patience):
            self._last = look.statistics or self._last
            if is_silent and look.status != said:
                self._guest.report(EventKind.TRANSFER, look.status)
            if is_silent and look.passes > passes:
                self._guest.report(EventKind.ITERATION, str(look.passes))
            if look.status not in _SHAKING_HANDS:
                encryption.handshake_is_over(self._guest)
            said, passes = look.status, max(passes, look.passes)
            yield look

    def _record(self) -> TransferRecord:
        record = TransferRecord.read(self._directory)
        if record is None:
            raise DriverRefused("no transfer of this guest was begun")
        return record


def _failed(look: TransferLook) -> TransferFailed:
    if "ertificate" in look.error:  # what the receiver saw is only that the handshake broke off
        return TransferStopped(
            "the destination's hypervisor did not prove to be the one that is meant",
            remedy="give both hosts certificates of one authority, and tls.destination the name in the destination's",
            detail=look.error,
        )
    words = "was cancelled" if look.state is TransferState.CANCELLED else "failed"
    return TransferFailed(f"the transfer {words}", detail=look.error or look.status)
