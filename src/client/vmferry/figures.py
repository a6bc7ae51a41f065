"""What is measured of a transfer. Pure; `vmferry.model` has these nouns too, beside those that they belong to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from vmferry.disks import DiskFigures


@dataclass(frozen=True, slots=True)
class ChangeFigures:
    """The figures of a transfer at one change, as far as they are kept. Memory and disks together."""

    sent_bytes: int = 0
    remaining_bytes: int = 0
    bytes_per_s: int = 0
    dirty_bytes_per_s: int = 0
    throttle_percent: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is known of a transfer at one moment (specification 5.3).

    `downtime_ms` is the hypervisor's own figure; the pause that the guest really had is `guest_pause_ms`, measured by the
    daemons, where it is known. Figures that are not known are 0.
    """

    elapsed_ms: int = 0
    setup_ms: int = 0
    downtime_ms: int = 0
    expected_downtime_ms: int = 0
    guest_pause_ms: int = 0
    memory_total_bytes: int = 0
    memory_processed_bytes: int = 0
    memory_remaining_bytes: int = 0
    memory_constant_pages: int = 0
    memory_normal_pages: int = 0
    memory_normal_bytes: int = 0
    memory_bytes_per_s: int = 0
    memory_dirty_rate_pages_per_s: int = 0
    memory_page_size_bytes: int = 0
    memory_iteration: int = 0
    memory_postcopy_requests: int = 0
    disk_total_bytes: int = 0
    disk_processed_bytes: int = 0
    disk_remaining_bytes: int = 0
    disk_bytes_per_s: int = 0
    compression_cache_bytes: int = 0
    compression_bytes: int = 0
    compression_pages: int = 0
    compression_cache_misses: int = 0
    compression_overflow: int = 0
    auto_converge_throttle_percent: int = 0
    disks: tuple[DiskFigures, ...] = ()

    @property
    def data_total_bytes(self) -> int:
        """Memory and disks together."""
        return self.memory_total_bytes + self.disk_total_bytes

    @property
    def data_processed_bytes(self) -> int:
        """Memory and disks together."""
        return self.memory_processed_bytes + self.disk_processed_bytes

    @property
    def data_remaining_bytes(self) -> int:
        """Memory and disks together."""
        return self.memory_remaining_bytes + self.disk_remaining_bytes

    @property
    def at_change(self) -> ChangeFigures | None:
        """What is kept of them with a change."""
        if not self.data_total_bytes:
            return None
        return ChangeFigures(
            sent_bytes=self.data_processed_bytes,
            remaining_bytes=self.data_remaining_bytes,
            bytes_per_s=self.memory_bytes_per_s + self.disk_bytes_per_s,
            dirty_bytes_per_s=self.memory_dirty_rate_pages_per_s * self.memory_page_size_bytes,
            throttle_percent=self.auto_converge_throttle_percent,
        )

    def measured(self, *, guest_pause_ms: int) -> Self:
        """The same figures with the pause that the daemons measured."""
        return replace(self, guest_pause_ms=guest_pause_ms)
