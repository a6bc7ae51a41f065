"""A job's figures under libvirt's names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmferry.model import JobInfo, JobOperation, JobType, MigrationId, Phase, Side, Statistics
from vmferry.statistics import BY_NAME, STATISTICS, Kind, stats

RUNNING = JobInfo(
    MigrationId("id"),
    Side.SOURCE,
    JobOperation.MIGRATION_OUT,
    JobType.UNBOUNDED,
    "web",
    "uuid",
    "performing",
    Phase.PERFORM,
    0.0,
    elapsed_ms=1_000,
    statistics=Statistics(memory_total_bytes=8, disk_total_bytes=2, expected_downtime_ms=300),
)
DONE = replace(
    RUNNING,
    type=JobType.COMPLETED,
    ended_s=1.0,
    coordination_ms=200,
    statistics=Statistics(memory_total_bytes=8, downtime_ms=30, guest_pause_ms=50),
)


def test_names_are_libvirts() -> None:
    """Every name of specification 5.3 is there, once, but for those of backups."""
    spelled = """operation time_elapsed time_elapsed_net downtime downtime_net setup_time
        data_total data_processed data_remaining memory_total memory_processed memory_remaining memory_constant
        memory_normal memory_normal_bytes memory_bps memory_dirty_rate memory_page_size memory_iteration
        memory_postcopy_requests disk_total disk_processed disk_remaining disk_bps compression_cache compression_bytes
        compression_pages compression_cache_misses compression_overflow auto_converge_throttle success errmsg"""
    assert spelled.split() == [row.name for row in STATISTICS]
    assert len(BY_NAME) == len(STATISTICS)


@pytest.mark.parametrize("job", [RUNNING, DONE, replace(DONE, type=JobType.FAILED, error="no")])
def test_types(job: JobInfo) -> None:
    """Every figure has the type of its row."""
    types = {Kind.INT: int, Kind.UNSIGNED: int, Kind.BOOLEAN: bool, Kind.STRING: str}
    for name, value in stats(job).figures.items():
        assert type(value) is types[BY_NAME[name].kind], name


def test_totals_are_memory_and_disks() -> None:
    """data_ is memory_ and disk_ together."""
    figures = stats(RUNNING).figures
    assert 10 == figures["data_total"] == figures["memory_total"] + figures["disk_total"]


def test_downtime() -> None:
    """While it goes on it is what is expected; afterwards what the daemons measured, and else the hypervisor's own figure."""
    assert 300 == stats(RUNNING).figures["downtime"]
    assert (50, 30) == (stats(DONE).figures["downtime"], stats(DONE).figures["downtime_net"])
    unmeasured = replace(DONE, statistics=Statistics(downtime_ms=30))
    assert 30 == stats(unmeasured).figures["downtime"]
    assert "downtime_net" not in stats(unmeasured).figures


def test_net_time() -> None:
    """What passed between the hosts is left out where it is known; nothing is left out of what is not over."""
    assert 800 == stats(DONE).figures["time_elapsed_net"]
    for job in (
        replace(RUNNING, coordination_ms=200),
        replace(DONE, coordination_ms=0),
        replace(DONE, coordination_ms=2_000),
    ):
        assert "time_elapsed_net" not in stats(job).figures


def test_nothing() -> None:
    """No job has the type NONE and no figures."""
    assert (JobType.NONE, {}, None) == (stats(None).type, stats(None).figures, stats(None).job)
