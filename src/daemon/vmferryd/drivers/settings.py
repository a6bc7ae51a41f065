"""How a guest is sent and received, as drivers take it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vmferryd.drivers.copies import CopyMode

MEMORY = "memory"
"""The name of the channels that `Parallel` asks for."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """Memory travels over several connections. Both hypervisors need the same; `compression` is a method, or nothing."""

    connections: int = 2
    compression: str = ""
    level: int | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """The hypervisors encrypt between each other, and each proves itself with a certificate of `directory`.

    The files are those that `vmferry.pki` makes. `hostname` is what the receiver's certificate must name; a receiver has
    none.
    """

    directory: Path
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class SendSettings:
    """How a guest is to be sent. None means what the guest keeps (see `Tuning`), or the hypervisor's default.

    A bandwidth of None is unlimited, but for that after the switch to post-copy: there 0 is. With `steady_downtime` no pause
    shorter than `max_downtime_ms` is tried first.
    `switchover_bandwidth_bytes_per_s` is what the rest of a guest is believed to be sent at, in place of what was measured.
    `detect_zeroes` are the targets of disks whose zeroes are recognised while they are copied.
    """

    live: bool = True
    max_bandwidth_bytes_per_s: int | None = None
    switchover_bandwidth_bytes_per_s: int | None = None
    max_downtime_ms: int | None = None
    steady_downtime: bool = False
    auto_converge: bool = False
    auto_converge_initial_percent: int | None = None
    auto_converge_increment_percent: int | None = None
    xbzrle: bool = False
    xbzrle_cache_bytes: int | None = None
    detect_zeroes: frozenset[str] = frozenset()
    postcopy: bool = False
    postcopy_bandwidth_bytes_per_s: int | None = None
    copy_mode: CopyMode = CopyMode.BACKGROUND
    parallel: Parallel | None = None
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a transfer obeys. None: not known, or in a change: left as it is.

    A bandwidth of 0 is unlimited; a `switchover_bandwidth_bytes_per_s` of 0 is the one that is measured.
    """

    max_downtime_ms: int | None = None
    max_bandwidth_bytes_per_s: int | None = None
    xbzrle_cache_bytes: int | None = None
    postcopy_bandwidth_bytes_per_s: int | None = None
    switchover_bandwidth_bytes_per_s: int | None = None
    auto_converge_initial_percent: int | None = None
    auto_converge_increment_percent: int | None = None


def tuned(settings: SendSettings, change: Tuning) -> SendSettings:
    """The settings of a transfer that has not begun yet, as `change` will have them."""
    given = {name: value for name, value in asdict(change).items() if value is not None}
    if "max_bandwidth_bytes_per_s" in given:
        given["max_bandwidth_bytes_per_s"] = change.max_bandwidth_bytes_per_s or None
    if "switchover_bandwidth_bytes_per_s" in given:
        given["switchover_bandwidth_bytes_per_s"] = change.switchover_bandwidth_bytes_per_s or None
    return replace(settings, **given)


@dataclass(frozen=True, slots=True)
class ReceiveSettings:
    """How a guest is to be received: what the sender's settings demand of the receiver.

    `disks` are the targets of those whose contents come with the guest: each can be written to from outside, through the
    channel that `copies.disk_channel` names, until the guest's state is loaded.
    """

    xbzrle: bool = False
    xbzrle_cache_bytes: int | None = None
    postcopy: bool = False
    disks: tuple[str, ...] = ()
    parallel: Parallel | None = None
    tls: Tls | None = None
