"""All that a migration obeys: the noun of what `migrate-tune` shows."""

from __future__ import annotations

from dataclasses import dataclass

UNLIMITED_MIB_PER_S = 8_796_093_022_207
"""libvirt's greatest bandwidth, and its word for no limit."""


@dataclass(frozen=True, slots=True)
class InEffect:
    """What the migration of a guest obeys, or the next one would. None: not known, or without a meaning.

    A bandwidth of 8796093022207 is unlimited; without a switch-over bandwidth the one that is measured counts.
    """

    max_downtime_ms: int | None
    bandwidth_mib_per_s: int
    postcopy_bandwidth_mib_per_s: int
    switchover_bandwidth_mib_per_s: int | None
    compression_cache_bytes: int | None
    auto_converge_initial_percent: int | None
    auto_converge_increment_percent: int | None
