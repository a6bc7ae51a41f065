"""The guests that are moved, the ways to move them, and what one move shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from support.guest.build import GuestSettings

DEFAULT_LIMIT_MS = 300
"""QEMU's own."""


class Way(StrEnum):
    """How a guest is moved. The `_FIXED` ways have QEMU's own default as a fixed limit of the pause, as raw QEMU has."""

    RAW = "raw QEMU"
    DIRECT = "direct"
    DIRECT_FIXED = "direct, fixed limit"
    DIRECT_TLS = "direct, TLS"
    TUNNEL = "tunnel"
    TUNNEL_FIXED = "tunnel, fixed limit"
    TUNNEL_TLS = "tunnel, TLS"
    VIRSH = "libvirt"
    VIRSH_TUNNEL = "libvirt, tunnel"

    @property
    def is_fixed(self) -> bool:
        """The limit of the pause is the one that raw QEMU has."""
        return self in (Way.RAW, Way.DIRECT_FIXED, Way.TUNNEL_FIXED)

    @property
    def is_tunnelled(self) -> bool:
        """The data goes through the daemons."""
        return self in (Way.TUNNEL, Way.TUNNEL_FIXED, Way.TUNNEL_TLS, Way.VIRSH_TUNNEL)

    @property
    def is_encrypted(self) -> bool:
        """The daemons speak TLS, and so do the hypervisors."""
        return self in (Way.DIRECT_TLS, Way.TUNNEL_TLS)

    @property
    def is_libvirts(self) -> bool:
        """`virsh migrate` moves it."""
        return self in (Way.VIRSH, Way.VIRSH_TUNNEL)


class Mood(StrEnum):
    """What the guest does meanwhile."""

    IDLE = "idle"
    DIRTYING = "dirtying"


@dataclass(frozen=True, slots=True)
class GuestKind:
    """A guest of `memory_mib`, all of it filled with what cannot be compressed."""

    memory_mib: int
    mood: Mood

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.memory_mib} MiB, {self.mood}"

    @property
    def settings(self) -> GuestSettings:
        """An idle guest beats and does nothing else; one that dirties rewrites 50 MiB/s and checks what it has."""
        if self.mood is Mood.IDLE:
            return GuestSettings(dirty_mib_s=0, verify_percent=0)
        return GuestSettings(dirty_mib_s=50, workset_mib=64)


@dataclass(frozen=True, slots=True)
class Move:
    """One move. CPU seconds are those of the daemons and of the program `vmferry`, none of them QEMU's.

    `wall_ms` is from when the move was ordered to when whoever ordered it knows that the guest runs, the start of the
    destination's QEMU included; `total_ms` is QEMU's own total time, `pause_ms` the guest's, from its beats.
    """

    guest: str
    way: str
    round: int
    wall_ms: float
    total_ms: float
    pause_ms: float
    transferred_bytes: int
    source_cpu_s: float = 0.0
    destination_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    load: float = 0.0
    faults: Sequence[str] = ()

    @property
    def bytes_per_s(self) -> float:
        """Of QEMU's own total time."""
        return self.transferred_bytes * 1000 / self.total_ms if self.total_ms else 0.0

    @property
    def overhead_ms(self) -> float:
        """Everything outside QEMU's own total time."""
        return self.wall_ms - self.total_ms
