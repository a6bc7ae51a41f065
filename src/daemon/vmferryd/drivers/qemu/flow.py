"""What both ends of a transfer do with QEMU: switch its capabilities, hand it a channel, look at it again and again.

`query-migrate` is the authority; events only wake, and a slow poll stands in for an event that was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from vmferry.errors import DriverLost, DriverRefused
from vmferryd.drivers.base import PagesEnd, TransferState
from vmferryd.drivers.qemu.transfer import TransferLook

if TYPE_CHECKING:
    from vmferryd.drivers.qemu.guest import QemuGuest

T = TypeVar("T")
CHANNEL = "migration"
COMMON = frozenset({"events", "return-path", "pause-before-switchover", "late-block-activate"})
ENDED = frozenset({TransferState.NONE, TransferState.COMPLETED, TransferState.CANCELLED, TransferState.FAILED})


async def set_capabilities(guest: QemuGuest, wanted: frozenset[str] | set[str]) -> None:
    """Of QEMU's migration capabilities exactly `wanted` are on, so far as it has them."""
    rows = await guest.execute("query-migrate-capabilities")
    names = [row["capability"] for row in rows]
    chosen = [{"capability": name, "state": name in wanted} for name in names]
    await guest.execute("migrate-set-capabilities", {"capabilities": chosen})


def looks(guest: QemuGuest, *, patience: Callable[[TransferLook], float] | None = None) -> AsyncIterator[TransferLook]:
    """A look now, and one after every event or a while; see `answers`.

    `patience` is how long that while is after a look, in seconds: for a transfer of which QEMU reports nothing.
    """

    async def look() -> TransferLook:
        return TransferLook.of(await guest.execute("query-migrate"))

    return answers(guest, look, patience=patience)


async def answers(
    guest: QemuGuest, ask: Callable[[], Awaitable[T]], *, patience: Callable[[T], float] | None = None
) -> AsyncIterator[T]:
    """An answer now, and one after every event or a while; an unanswered question is asked again while QEMU lives."""
    woken = asyncio.Event()
    with guest.waking(woken.set):
        while True:
            woken.clear()
            poll_s = guest.config.poll_s
            try:
                answer = await ask()
                poll_s = poll_s if patience is None else patience(answer)
                yield answer
            except DriverLost:
                # While the last part is sent QEMU answers nothing, and a slow channel can make that long.
                if not await guest.may_answer():
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_s):
                    await woken.wait()


async def hand_over(guest: QemuGuest, channel: socket.socket, command: str, arguments: Mapping[str, Any]) -> None:
    """`command` was obeyed with `channel`, which QEMU has a copy of; its URI names it.

    Raises:
        DriverRefused: QEMU has nothing of it.
    """
    monitor = await guest.monitor()
    await monitor.hand_over(channel, CHANNEL)
    # QEMU has made it blocking, for both of us, and so a handshake with a silent peer would stop its main loop. After the
    # handshake it chooses by itself again.
    channel.setblocking(False)  # noqa: FBT003 - the standard library's own spelling
    try:
        await monitor.execute(command, {"uri": f"fd:{CHANNEL}", **arguments})
    except DriverRefused:
        with contextlib.suppress(DriverRefused):
            await monitor.execute("closefd", {"fdname": CHANNEL})
        raise


async def pages_end(guest: QemuGuest) -> tuple[PagesEnd, TransferLook | None]:
    """How the flow of pages ended at this end, and the look that says so.

    Raises:
        DriverLost: QEMU does not answer, and may live.
    """
    looking = asyncio.ensure_future(_seen_end(guest))
    hearing = asyncio.ensure_future(guest.heard_cut())
    try:
        await asyncio.wait([looking, hearing], return_when=asyncio.FIRST_COMPLETED)
        return await looking if looking.done() else (PagesEnd.CUT, None)
    except DriverLost:
        if guest.process.is_alive() and not await guest.process.wait(guest.config.settle_timeout_s):
            raise
        return PagesEnd.GONE, None
    finally:
        for task in (looking, hearing):
            task.cancel()
        await asyncio.gather(looking, hearing, return_exceptions=True)


async def _seen_end(guest: QemuGuest) -> tuple[PagesEnd, TransferLook | None]:
    async for look in looks(guest):
        if look.state is TransferState.COMPLETED:
            return PagesEnd.WHOLE, look
        if look.state is TransferState.POSTCOPY_PAUSED:
            return PagesEnd.CUT, look
        if look.state in ENDED:
            break
    return PagesEnd.GONE, None


async def cut_pages(guest: QemuGuest) -> None:
    """The flow of pages is cut, if it went on. QEMU 7.2 pauses only what is active; what is being recovered is yanked."""
    try:
        look = TransferLook.of(await guest.execute("query-migrate", timeout_s=guest.config.yank_after_s))
    except DriverLost:
        # Its main loop waits for a page: what is out of band is answered all the same, and pauses only what is active.
        with contextlib.suppress(DriverRefused):
            await guest.execute_urgently("migrate-pause", {})
        return
    if not look.state.in_postcopy and look.state is not TransferState.COMPLETED:
        raise DriverRefused(f"no pages flow, for the transfer is {look.status}")
    with contextlib.suppress(DriverRefused):
        if look.state is TransferState.POSTCOPY_ACTIVE:
            await guest.execute_urgently("migrate-pause", {})
        elif look.state is TransferState.POSTCOPY_RECOVER:
            await guest.execute_urgently("yank", {"instances": [{"type": "migration"}]})
    try:
        async with asyncio.timeout(guest.config.cancel_timeout_s):
            await pages_end(guest)
    except TimeoutError:
        raise DriverLost("the flow of pages did not end in time") from None
