"""When a guest that is being sent is stopped, and what is reported on the way there: a script in QEMU's place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from vmferryd.clock import SystemClock
from vmferryd.drivers.base import EventKind
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.gate import Gate
from vmferryd.drivers.qemu.guest import QemuGuest
from vmferryd.drivers.qemu.migration import QemuOutgoingGuest
from vmferryd.drivers.qemu.record import TransferRecord

MIB = 1 << 20


class Script:
    """A QEMU whose rounds leave what the script says, at 100 MB/s; it holds as soon as it was stopped."""

    def __init__(self, directory: Path, left: list[int]) -> None:
        self.plan = SimpleNamespace(directory=directory)
        self.config = QemuConfig(poll_s=0.001)
        self.clock = SystemClock()
        self.deciding = asyncio.Lock()
        self.handshake = None
        self.heard: list[tuple[EventKind, str]] = []
        self.stopped_in_round = 0
        self._left = left
        self._round = 0

    async def execute(self, command: str, _arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a command."""
        if command == "stop":
            self.stopped_in_round = self._round
        return self._figures() if command == "query-migrate" else {}

    def _figures(self) -> dict[str, Any]:
        if not self.stopped_in_round:
            self._round = min(self._round + 1, len(self._left))
        zeros = dict.fromkeys(("transferred", "duplicate", "normal", "normal-bytes", "postcopy-requests"), 0)
        figures = {"total": 512 * MIB, "mbps": 800.0, "dirty-pages-rate": 0, "page-size": 4096}
        rest = {"remaining": self._left[self._round - 1], "dirty-sync-count": self._round}
        return {"status": "pre-switchover" if self.stopped_in_round else "active", "ram": zeros | figures | rest}

    def report(self, kind: EventKind, detail: str) -> None:
        """What listeners hear."""
        self.heard.append((kind, detail))

    @contextmanager
    def waking(self, _waker: Callable[[], None]) -> Iterator[None]:
        """Nothing wakes: whoever looks polls."""
        yield


async def held(directory: Path, left: list[int], **wanted: Any) -> Script:
    """The script when the transfer is held."""
    script = Script(directory, left)
    TransferRecord(**{"ran": True, "gate": Gate.NONE, "downtime_ms": 300} | wanted).write(directory)
    async with asyncio.timeout(10):
        await QemuOutgoingGuest(cast("QemuGuest", script)).held()
    return script


async def test_a_guest_that_calms_down_is_stopped_for_a_short_pause(tmp_path: Path) -> None:
    """Its longest pause would have allowed for more, earlier."""
    script = await held(tmp_path, [512 * MIB, 29 * MIB, 10 * MIB, MIB])
    assert [detail for _, detail in script.heard] == ["round 3 left 1.0 MiB of 10.0: it fits into a pause of 20 ms"]


async def test_a_pause_that_is_fixed_is_taken_as_soon_as_it_fits(tmp_path: Path) -> None:
    """No shorter one is tried, though the guest calms down."""
    script = await held(tmp_path, [512 * MIB, 29 * MIB, 10 * MIB, MIB], steady=True)
    assert script.heard == [(EventKind.PAUSE_LIMIT, "round 2 left 10.0 MiB of 29.0: it fits into a pause of 300 ms")]


async def test_the_limit_grows_in_steps_and_each_is_reported(tmp_path: Path) -> None:
    """Until the rest fits, which is reported with the step that made it fit."""
    script = await held(tmp_path, [512 * MIB, *[7 * MIB] * 6])
    told = [detail.partition("pause limit ")[2] for kind, detail in script.heard if kind is EventKind.PAUSE_LIMIT]
    assert told == ["20 → 40 ms", "40 → 80 ms"]
    assert script.stopped_in_round


async def test_a_transfer_without_an_end_says_so_once(tmp_path: Path) -> None:
    """However many rounds do not fit; when the guest calms down it is stopped after all."""
    script = await held(tmp_path, [512 * MIB, *[200 * MIB] * 9, 20_000])
    assert [kind for kind, _ in script.heard].count(EventKind.STUCK) == 1
    assert script.heard[-1] == (EventKind.PAUSE_LIMIT, "round 10 left 0.0 MiB of 200.0: it fits into a pause of 300 ms")
