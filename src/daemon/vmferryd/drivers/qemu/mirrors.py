"""Copies of a running guest's disks: at the source a mirror for each disk, at the destination an export that takes it.

QEMU's own lists of jobs and nodes are the authority, and everything made here has a name of its own in them: so whoever comes
later, another daemon too, finds what is left and takes it away. The guest's image is never changed by a mirror; one that is
cancelled when it is ready, while the CPUs stand still, leaves both images the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmferry.disks import DiskFigures
from vmferry.errors import DriverRefused, TransferFailed
from vmferry.model import Statistics
from vmferryd.drivers.base import SendSettings
from vmferryd.drivers.copies import CopyMode, DiskCopy, disk_channel
from vmferryd.drivers.qemu.disks import format_node_of

if TYPE_CHECKING:
    from vmferryd.drivers.qemu.guest import QemuGuest

_PREFIX = "ferry-"
_SERVER = "disks"
_MARK = "copying"
_ENDED = frozenset({"concluded", "null", "aborting"})


@dataclass(frozen=True, slots=True)
class MirrorLook:
    """One row of `query-jobs` that is a mirror's."""

    target: str
    status: str
    done_bytes: int
    total_bytes: int
    error: str

    @property
    def is_ready(self) -> bool:
        """Both images are the same but for what is being written now."""
        return self.status in {"ready", "standby"}

    @property
    def has_ended(self) -> bool:
        """Nothing is copied any more."""
        return self.status in _ENDED


def looks_of(jobs: Iterable[Mapping[str, Any]]) -> tuple[MirrorLook, ...]:
    """The mirrors among QEMU's jobs."""
    return tuple(
        MirrorLook(
            target=job["id"].removeprefix(_PREFIX),
            status=job["status"],
            done_bytes=job["current-progress"],
            total_bytes=job["total-progress"],
            error=job.get("error", ""),
        )
        for job in jobs
        if job["type"] == "mirror" and job["id"].startswith(_PREFIX)
    )


class Mirrors:
    """The source's copies of one guest."""

    def __init__(self, guest: QemuGuest) -> None:
        self._guest = guest
        self._last: tuple[MirrorLook, ...] = ()
        self._begun_s: float | None = None

    @property
    def _mark(self) -> Path:
        """A file that is there while there may be mirrors."""
        return self._guest.plan.directory / _MARK

    def socket(self, target: str) -> Path:
        """Where QEMU looks for the disk's export."""
        return self._guest.plan.directory / f"{_SERVER}-{target}"

    async def copy(self, copies: Sequence[DiskCopy], settings: SendSettings) -> None:
        """Every disk is copied but for what the guest goes on writing.

        Raises:
            DriverRefused, TransferFailed: one cannot be; `cancel` is owed.
        """
        if not copies:
            return
        self._mark.touch()
        self._begun_s = self._guest.clock.monotonic()
        known = {look.target for look in await self.looks()}
        for copy in copies:
            if copy.target not in known:
                await self._begin(copy, settings)
        while not all(look.is_ready for look in await self.count()):
            await self.check()
            await self._guest.clock.sleep(self._guest.config.poll_s)

    async def check(self) -> None:
        """No copy has failed.

        Raises:
            TransferFailed: one has, in QEMU's words.
        """
        for look in await self.looks():
            if look.error or look.has_ended:
                raise _failed(look)

    async def count(self) -> tuple[MirrorLook, ...]:
        """How far the copies are, which is also kept."""
        looks = await self.looks()
        if looks:
            self._last = looks
        return looks

    def added_to(self, figures: Statistics) -> Statistics:
        """`figures` with those of the disks, the newest that are known."""
        total = sum(look.total_bytes for look in self._last)
        done = sum(look.done_bytes for look in self._last)
        if not total:
            return figures
        disks = tuple(DiskFigures(look.target, look.total_bytes, look.done_bytes) for look in self._last)
        sums = {"disk_total_bytes": total, "disk_processed_bytes": done, "disk_remaining_bytes": total - done}
        return replace(figures, **sums, disks=disks, disk_bytes_per_s=self._bytes_per_s(done))

    def _bytes_per_s(self, done_bytes: int) -> int:
        """How fast the disks have been copied until now; 0 when that is over, or was begun by an earlier daemon."""
        if self._begun_s is None or all(look.is_ready or look.has_ended for look in self._last):
            return 0
        return round(done_bytes / max(self._guest.clock.monotonic() - self._begun_s, 0.001))

    async def _begin(self, copy: DiskCopy, settings: SendSettings) -> None:
        name = _PREFIX + copy.target
        zeroes = copy.target in settings.detect_zeroes
        node = {
            "driver": "nbd",
            "node-name": name,
            "server": {"type": "unix", "path": str(self.socket(copy.target))},
            "export": copy.target,
            "detect-zeroes": "unmap" if zeroes else "off",
            "discard": "unmap" if zeroes else "ignore",
        }
        await self._guest.execute("blockdev-add", node)
        mirror = {
            "job-id": name,
            "device": format_node_of(copy.target),
            "target": name,
            "sync": copy.extent,
            "speed": settings.max_bandwidth_bytes_per_s or 0,
            "copy-mode": "write-blocking" if settings.copy_mode is CopyMode.SYNCHRONOUS else "background",
            "auto-dismiss": False,
        }
        await self._guest.execute("blockdev-mirror", mirror)

    async def looks(self) -> tuple[MirrorLook, ...]:
        """Every mirror as it is now."""
        if not self._mark.exists():
            return ()
        return looks_of(await self._guest.execute("query-jobs"))

    async def pace(self, bytes_per_s: int) -> None:
        """Each mirror obeys this bound; 0 is none."""
        for look in await self.looks():
            if not look.has_ended:
                with contextlib.suppress(DriverRefused):  # it may have ended meanwhile
                    await self._guest.execute("block-job-set-speed", {"device": _PREFIX + look.target, "speed": bytes_per_s})

    async def finish(self) -> None:
        """With CPUs that stand still: both images of every disk are the same, and nothing connects them any more.

        Raises:
            TransferFailed: a copy is not whole; `cancel` is owed.
        """
        if not self._mark.exists():
            return
        looks = await self.count()
        for look in looks:
            if look.error or not (look.is_ready or look.has_ended):
                raise _failed(look)
            if look.is_ready:
                await self._end(look.target, by_force=False)
        await self._concluded(looks)
        for look in await self.count():
            if look.error:
                raise _failed(look)
        await self._remove()

    async def cancel(self) -> None:
        """Nothing is copied, and nothing is left of the copying; the guest writes to its own images alone."""
        if not self._mark.exists():
            return
        looks = await self.looks()
        for look in looks:
            if not look.has_ended:
                await self._end(look.target, by_force=True)
        await self._concluded(looks)
        await self._remove()

    async def _end(self, target: str, *, by_force: bool) -> None:
        with contextlib.suppress(DriverRefused):  # it may have ended meanwhile, which the next look shows
            await self._guest.execute("block-job-cancel", {"device": _PREFIX + target, "force": by_force})

    async def _concluded(self, looks: tuple[MirrorLook, ...]) -> None:
        """All of them have ended.

        Raises:
            TransferFailed: one does not come to its end.
        """
        clock, config = self._guest.clock, self._guest.config
        deadline_s = clock.monotonic() + config.cancel_timeout_s
        while not all(look.has_ended for look in looks):
            if clock.monotonic() >= deadline_s:
                raise TransferFailed(f"the copying of the disks did not end within {config.cancel_timeout_s:g} s")
            await clock.sleep(config.eager_poll_s)
            looks = await self.looks()

    async def _remove(self) -> None:
        for look in await self.looks():
            with contextlib.suppress(DriverRefused):
                await self._guest.execute("job-dismiss", {"id": _PREFIX + look.target})
        for node in await self._guest.execute("query-named-block-nodes", {"flat": True}):
            if node["node-name"].startswith(_PREFIX):
                await self._guest.execute("blockdev-del", {"node-name": node["node-name"]})
        self._mark.unlink(missing_ok=True)


def _failed(look: MirrorLook) -> TransferFailed:
    return TransferFailed(f"disk {look.target} could not be copied", detail=look.error or f"its job is {look.status}")


class Exports:
    """The destination's images, which the source's mirrors write to while the guest waits for its state."""

    def __init__(self, guest: QemuGuest, targets: tuple[str, ...] = ()) -> None:
        self._guest = guest
        self._targets = targets

    @property
    def landings(self) -> Mapping[str, Path]:
        """The channels of the disks, and where they lead."""
        return {disk_channel(target): self._socket for target in self._targets}

    @property
    def _socket(self) -> Path:
        return self._guest.plan.directory / _SERVER

    async def open(self) -> None:
        """Every disk can be written to from outside, and only by who reaches the guest's own folder.

        Raises:
            DriverRefused: QEMU cannot write to an image; somebody else may hold it.
        """
        if not self._targets:
            return
        known = {export["id"] for export in await self._guest.execute("query-block-exports")}
        if not known:
            address = {"type": "unix", "data": {"path": str(self._socket)}}
            with contextlib.suppress(DriverRefused):  # it listens already; if not, no export can be added
                await self._guest.execute("nbd-server-start", {"addr": address})
        for target in self._targets:
            if _PREFIX + target not in known:
                export = {"id": _PREFIX + target, "node-name": format_node_of(target), "name": target}
                await self._guest.execute("block-export-add", {"type": "nbd", "writable": True, **export})

    async def close(self) -> None:
        """Nobody writes to the disks from outside, and all that was written is theirs."""
        if self._targets:
            with contextlib.suppress(DriverRefused):  # it was stopped before
                await self._guest.execute("nbd-server-stop")
            self._socket.unlink(missing_ok=True)
