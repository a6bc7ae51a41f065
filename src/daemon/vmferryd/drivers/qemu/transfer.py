"""What QEMU says of a transfer, and when a running guest should be stopped for the rest. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vmferry.model import Statistics
from vmferryd.drivers.base import RunState, TransferState
from vmferryd.drivers.pause import Decision, PausePolicy, RoundEnd, decide
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.gate import CLOSED_DOWNTIME_MS, Gate

_BYTES_PER_MBPS = 125_000

_TRANSFER_STATES = {
    "none": TransferState.NONE,
    "setup": TransferState.ACTIVE,
    "wait-unplug": TransferState.ACTIVE,
    "active": TransferState.ACTIVE,
    "cancelling": TransferState.ACTIVE,
    "pre-switchover": TransferState.HELD,
    "device": TransferState.COMPLETING,
    "completed": TransferState.COMPLETED,
    "cancelled": TransferState.CANCELLED,
    "failed": TransferState.FAILED,
    "postcopy-active": TransferState.POSTCOPY_ACTIVE,
    "postcopy-paused": TransferState.POSTCOPY_PAUSED,
    "postcopy-recover-setup": TransferState.POSTCOPY_RECOVER,
    "postcopy-recover": TransferState.POSTCOPY_RECOVER,
}

_RUN_STATES = {
    "running": RunState.RUNNING,
    "colo": RunState.RUNNING,
    "paused": RunState.PAUSED,
    "prelaunch": RunState.PAUSED,
    "debug": RunState.PAUSED,
    "save-vm": RunState.PAUSED,
    "restore-vm": RunState.PAUSED,
    "suspended": RunState.PAUSED,
    "watchdog": RunState.PAUSED,
    "inmigrate": RunState.INCOMING,
    "finish-migrate": RunState.HELD,
    "shutdown": RunState.SHUT_DOWN,
    "guest-panicked": RunState.CRASHED,
    "internal-error": RunState.CRASHED,
    "io-error": RunState.IO_ERROR,
}


@dataclass(frozen=True, slots=True)
class TransferLook:
    """One answer to `query-migrate`."""

    state: TransferState
    status: str
    passes: int
    remaining_bytes: int
    bandwidth_bytes_per_s: float
    error: str
    statistics: Statistics | None
    blockers: tuple[str, ...] = ()

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> TransferLook:
        """The look that an answer is; `statistics` is None when QEMU gives no figures."""
        status = answer.get("status", "none")
        ram = answer.get("ram") or {}
        total_ms = answer.get("total-time", 0)
        average = ram.get("transferred", 0) * 1000 / total_ms if total_ms else 0.0
        return cls(
            state=_TRANSFER_STATES.get(status, TransferState.ACTIVE),
            status=status,
            passes=ram.get("dirty-sync-count", 0),
            remaining_bytes=ram.get("remaining", 0),
            bandwidth_bytes_per_s=ram.get("mbps", 0.0) * _BYTES_PER_MBPS or average,
            error=answer.get("error-desc", ""),
            statistics=_statistics(answer) if ram else None,
            blockers=tuple(answer.get("blocked-reasons", ())),
        )


def run_state(status: str, transfer: TransferState) -> RunState:
    """What the guest does, from its own status and its transfer's state.

    QEMU's `postmigrate` alone does not say whether the guest went over: a transfer that fails or is cancelled after the
    guest was stopped ends there as well.
    """
    if status == "postmigrate":
        return RunState.GONE_OVER if transfer is TransferState.COMPLETED else RunState.PAUSED
    return _RUN_STATES.get(status, RunState.PAUSED)


@dataclass(frozen=True, slots=True)
class Round:
    """The round of copying that is going on: its number, and what was left at its beginning and at the one before."""

    number: int = 0
    remaining_bytes: int = 0
    previous_bytes: int | None = None

    def after(self, look: TransferLook) -> Round:
        """The round that `look` belongs to."""
        if look.passes == self.number:
            return self
        previous = self.remaining_bytes if self.number > 1 else None
        return Round(look.passes, look.remaining_bytes, previous)


@dataclass(frozen=True, slots=True)
class Aim:
    """What the sender's user wants: a pause of at most `downtime_ms`, and at most this rate (None: any).

    If `steady`, no shorter pause is tried first. `switchover_bytes_per_s` is what the user believes the rest to be sent at,
    in place of what was measured. QEMU's own parameter for that (8.2) is left alone: it is the driver who stops the guest,
    and behind a gate QEMU would only look for new dirty pages the more often.
    """

    downtime_ms: int
    bandwidth_bytes_per_s: int | None = None
    steady: bool = False
    switchover_bytes_per_s: int | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast QEMU may send now; None: as fast as the user allows.

    A transfer behind a gate that has nothing left to send looks for new dirty pages again and again, thousands of times a
    second, and each look stops the main loop. One that goes on like this is slowed down: QEMU then sends what it finds until
    its slot's share is used up, sleeps until the slot ends, looks once, and answers commands meanwhile.
    `bandwidth_bytes_per_s` is what was measured while nothing held it back, `passes` QEMU's count of rounds by then.
    """

    bandwidth_bytes_per_s: float = 0.0
    limit_bytes_per_s: int | None = None
    passes: int = 0

    @property
    def is_slow(self) -> bool:
        """The last stretch of a round is being sent."""
        return self.limit_bytes_per_s is not None

    def next(self, look: TransferLook, aim: Aim, gate: Gate, config: QemuConfig) -> Pace:
        """The pace after `look`.

        A QEMU that looks only when it is told to is slowed down when it has sent everything, and so looks a single time. Any
        other is stopped as a rule before it has gone round often; only one that is not, because even little takes too long,
        is slowed down. And one that has a limit anyway, ahead of the end: it sleeps in each slot, and who has slowed it down
        knows for how long.
        """
        measured = self.bandwidth_bytes_per_s if self.is_slow else look.bandwidth_bytes_per_s
        hurries = look.passes - self.passes > config.hurried_rounds
        rest = look.remaining_bytes
        if gate is Gate.ACKNOWLEDGEMENT and aim.bandwidth_bytes_per_s:
            is_near = rest <= _near_bytes(measured, config)
        else:
            is_near = not rest and (self.is_slow or gate is Gate.BITMAP)
        if not look.passes or not (is_near or hurries):
            return Pace(measured, None, look.passes)
        if self.is_slow:
            return replace(self, passes=look.passes)
        limit = max(config.slowest_bytes_per_s, int(rest / config.slot_s))
        return Pace(measured, min(limit, aim.bandwidth_bytes_per_s or limit), look.passes)


def quiet_s(look: TransferLook, config: QemuConfig) -> float:
    """How long a transfer that reports nothing may be left alone after `look`, in seconds.

    While QEMU sends, a look costs it and the daemon CPU that others need. So there are few of them while much is left,
    and many near the end of a round: each time half of what it still takes until then is waited for.
    """
    rate = look.bandwidth_bytes_per_s
    if look.state is not TransferState.ACTIVE or rate <= 0:
        return config.eager_poll_s
    half_s = (look.remaining_bytes - _near_bytes(rate, config)) / rate / 2
    return max(config.eager_poll_s, min(config.poll_s, half_s))


def _near_bytes(bytes_per_s: float, config: QemuConfig) -> float:
    """With less than this left the end of a round is near."""
    return max(config.idle_remaining_bytes, bytes_per_s * config.near_end_s)


def after_round(last: Round, look: TransferLook, aim: Aim, limit_ms: int, config: QemuConfig) -> Decision | None:
    """What the round that ended before `look` says of the pause, under a limit of `limit_ms`; None when none has ended.

    Asked with the round before the look. Only the beginning of a round says how much is really left, for during a
    round the guest goes on writing.
    """
    if look.state is not TransferState.ACTIVE or look.passes < 2 or look.passes == last.number:
        return None
    now = last.after(look)
    # A guest that has little to send shows a low bandwidth, whatever the channel could carry.
    sure_bytes = config.idle_remaining_bytes
    for rate in (aim.bandwidth_bytes_per_s, aim.switchover_bytes_per_s):
        if rate is not None:
            sure_bytes = min(sure_bytes, rate * aim.downtime_ms // 1000)
    first_ms = aim.downtime_ms if aim.steady else config.eager_downtime_ms
    policy = PausePolicy(first_ms, config.stalled_ratio, sure_bytes)
    # The round that is beginning is named by QEMU's count; what is left is what the one before it left.
    believed = aim.switchover_bytes_per_s or look.bandwidth_bytes_per_s
    seen = RoundEnd(now.number - 1, now.remaining_bytes, now.previous_bytes, believed)
    return decide(limit_ms, seen, aim.downtime_ms, policy)


def _estimate_ms(expected_downtime_ms: int) -> int:
    """QEMU's estimate; 0 while it only repeats the limit that keeps a gate shut."""
    return expected_downtime_ms if expected_downtime_ms > CLOSED_DOWNTIME_MS else 0


def _statistics(answer: Mapping[str, Any]) -> Statistics:
    ram, disk, cache = answer["ram"], answer.get("disk") or {}, answer.get("xbzrle-cache") or {}
    return Statistics(
        elapsed_ms=answer.get("total-time", 0),
        setup_ms=answer.get("setup-time", 0),
        downtime_ms=answer.get("downtime", 0) if answer.get("status") == "completed" else 0,
        expected_downtime_ms=_estimate_ms(answer.get("expected-downtime", 0)),
        memory_total_bytes=ram["total"],
        memory_processed_bytes=ram["transferred"],
        memory_remaining_bytes=ram["remaining"],
        memory_constant_pages=ram["duplicate"],
        memory_normal_pages=ram["normal"],
        memory_normal_bytes=ram["normal-bytes"],
        memory_bytes_per_s=int(ram["mbps"] * _BYTES_PER_MBPS),
        memory_dirty_rate_pages_per_s=ram["dirty-pages-rate"],
        memory_page_size_bytes=ram["page-size"],
        memory_iteration=ram["dirty-sync-count"],
        memory_postcopy_requests=ram["postcopy-requests"],
        disk_total_bytes=disk.get("total", 0),
        disk_processed_bytes=disk.get("transferred", 0),
        disk_remaining_bytes=disk.get("remaining", 0),
        compression_cache_bytes=cache.get("cache-size", 0),
        compression_bytes=cache.get("bytes", 0),
        compression_pages=cache.get("pages", 0),
        compression_cache_misses=cache.get("cache-miss", 0),
        compression_overflow=cache.get("overflow", 0),
        auto_converge_throttle_percent=answer.get("cpu-throttle-percentage", 0),
    )
