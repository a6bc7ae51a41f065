"""The figures of a job under the names of libvirt's typed parameters (specification 5.3): one table. Pure.

Where vmferry measures better it answers under libvirt's name: `downtime` is how long the guest stood still, as the two
daemons measured it, each by differences of its own clock; only where that is not known it is the hypervisor's own figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from vmferry.model import JobInfo, JobType, Statistics

Figure = int | bool | str


class Kind(StrEnum):
    """The types of libvirt's typed parameters."""

    INT = "int"
    UNSIGNED = "unsigned"
    BOOLEAN = "boolean"
    STRING = "string"


@dataclass(frozen=True, slots=True)
class StatisticRow:
    """One figure. `read` answers None when it is not known, or has no meaning for that job."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    read: Callable[[JobInfo], Figure | None]


@dataclass(frozen=True, slots=True)
class JobStats:
    """The figures of one job, by name and in the order of the table. `job` is None when there is none."""

    type: JobType = JobType.NONE
    figures: Mapping[str, Figure] = field(default_factory=dict)
    job: JobInfo | None = None


def _memory(read: Callable[[Statistics], int]) -> Callable[[JobInfo], int | None]:
    return lambda job: read(job.statistics) if job.statistics.memory_total_bytes else None


def _disk(read: Callable[[Statistics], int]) -> Callable[[JobInfo], int | None]:
    return lambda job: read(job.statistics) if job.statistics.data_total_bytes else None


def _compression(read: Callable[[Statistics], int]) -> Callable[[JobInfo], int | None]:
    return lambda job: read(job.statistics) if job.statistics.compression_cache_bytes else None


def downtime_ms(job: JobInfo) -> int:
    """How long the guest stood still, or is expected to; 0 when that is not known."""
    figures = job.statistics
    if job.type is JobType.COMPLETED:
        return figures.guest_pause_ms or figures.downtime_ms
    return figures.guest_pause_ms or figures.expected_downtime_ms


def _net_elapsed_ms(job: JobInfo) -> int | None:
    is_known = job.type is JobType.COMPLETED and 0 < job.coordination_ms < job.elapsed_ms
    return job.elapsed_ms - job.coordination_ms if is_known else None


def _net_downtime_ms(job: JobInfo) -> int | None:
    own_ms = job.statistics.downtime_ms
    return own_ms if job.type is JobType.COMPLETED and 0 < own_ms < downtime_ms(job) else None


def _success(job: JobInfo) -> bool | None:
    return job.type is JobType.COMPLETED if job.ended_s is not None else None


_I, _U = Kind.INT, Kind.UNSIGNED

STATISTICS: tuple[StatisticRow, ...] = (
    StatisticRow("operation", _I, "", "what the job does, libvirt's number", lambda job: job.operation.number),
    StatisticRow("time_elapsed", _U, "ms", "since the job began, by its host's own clock", lambda job: job.elapsed_ms),
    StatisticRow(
        "time_elapsed_net", _U, "ms", "without what the coordinator and the way to it took afterwards", _net_elapsed_ms
    ),
    StatisticRow(
        "downtime",
        _U,
        "ms",
        "how long the guest stood still, as the daemons measured it; while it is not over, what is expected",
        lambda job: downtime_ms(job) or None,
    ),
    StatisticRow("downtime_net", _U, "ms", "without the daemons' part: the hypervisor's own figure", _net_downtime_ms),
    StatisticRow("setup_time", _U, "ms", "before the first page was sent", lambda job: job.statistics.setup_ms or None),
    StatisticRow("data_total", _U, "bytes", "memory and disks together", _disk(lambda s: s.data_total_bytes)),
    StatisticRow("data_processed", _U, "bytes", "memory and disks together", _disk(lambda s: s.data_processed_bytes)),
    StatisticRow("data_remaining", _U, "bytes", "memory and disks together", _disk(lambda s: s.data_remaining_bytes)),
    StatisticRow("memory_total", _U, "bytes", "the guest's memory", _memory(lambda s: s.memory_total_bytes)),
    StatisticRow(
        "memory_processed",
        _U,
        "bytes",
        "sent; pages that changed are sent again, so this can grow beyond the total",
        _memory(lambda s: s.memory_processed_bytes),
    ),
    StatisticRow(
        "memory_remaining",
        _U,
        "bytes",
        "still to be sent; grows again with each round",
        _memory(lambda s: s.memory_remaining_bytes),
    ),
    StatisticRow("memory_constant", _U, "pages", "all zeroes, sent as a mark", _memory(lambda s: s.memory_constant_pages)),
    StatisticRow("memory_normal", _U, "pages", "sent whole", _memory(lambda s: s.memory_normal_pages)),
    StatisticRow("memory_normal_bytes", _U, "bytes", "sent whole", _memory(lambda s: s.memory_normal_bytes)),
    StatisticRow("memory_bps", _U, "bytes/s", "how fast memory is sent", _memory(lambda s: s.memory_bytes_per_s)),
    StatisticRow(
        "memory_dirty_rate",
        _U,
        "pages/s",
        "how fast it changes",
        _memory(lambda s: s.memory_dirty_rate_pages_per_s),
    ),
    StatisticRow("memory_page_size", _U, "bytes", "one page", _memory(lambda s: s.memory_page_size_bytes)),
    StatisticRow("memory_iteration", _U, "", "the round of copying", _memory(lambda s: s.memory_iteration)),
    StatisticRow(
        "memory_postcopy_requests",
        _U,
        "",
        "pages the destination asked for",
        _memory(lambda s: s.memory_postcopy_requests),
    ),
    StatisticRow("disk_total", _U, "bytes", "disks that are copied", _disk(lambda s: s.disk_total_bytes)),
    StatisticRow("disk_processed", _U, "bytes", "of them sent", _disk(lambda s: s.disk_processed_bytes)),
    StatisticRow("disk_remaining", _U, "bytes", "of them left", _disk(lambda s: s.disk_remaining_bytes)),
    StatisticRow("disk_bps", _U, "bytes/s", "how fast disks are copied", _disk(lambda s: s.disk_bytes_per_s)),
    StatisticRow("compression_cache", _U, "bytes", "xbzrle's cache", _compression(lambda s: s.compression_cache_bytes)),
    StatisticRow("compression_bytes", _U, "bytes", "sent compressed", _compression(lambda s: s.compression_bytes)),
    StatisticRow("compression_pages", _U, "pages", "sent compressed", _compression(lambda s: s.compression_pages)),
    StatisticRow(
        "compression_cache_misses", _U, "pages", "not in the cache", _compression(lambda s: s.compression_cache_misses)
    ),
    StatisticRow(
        "compression_overflow",
        _U,
        "pages",
        "sent whole, for compressed they are longer",
        _compression(lambda s: s.compression_overflow),
    ),
    StatisticRow(
        "auto_converge_throttle",
        _I,
        "%",
        "how much the guest is slowed down; only when it is",
        lambda job: job.statistics.auto_converge_throttle_percent or None,
    ),
    StatisticRow("success", Kind.BOOLEAN, "", "whether it succeeded; only of a job that has ended", _success),
    StatisticRow("errmsg", Kind.STRING, "", "what went wrong; only of a job that failed", lambda job: job.error or None),
)
"""libvirt has the last two for backups only, and serves no figures of a job that failed."""

BY_NAME: Mapping[str, StatisticRow] = {row.name: row for row in STATISTICS}


def figures(job: JobInfo) -> Iterator[tuple[StatisticRow, Figure]]:
    """Every figure of the job that is known, in the order of the table."""
    for row in STATISTICS:
        value = row.read(job)
        if value is not None:
            yield row, value


def stats(job: JobInfo | None) -> JobStats:
    """The figures of a job; those of no job are none."""
    if job is None:
        return JobStats()
    return JobStats(job.type, {row.name: value for row, value in figures(job)}, job)


def as_markdown() -> str:
    """The table of the documentation."""
    lines = ["| name | type | unit | meaning |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.kind} | {row.unit} | {row.meaning} |" for row in STATISTICS]
    return "\n".join(lines) + "\n"
