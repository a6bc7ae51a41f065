"""A job's figures ↔ protobuf: pure, both directions side by side."""

from __future__ import annotations

from typing import Any

from vmferry import wire
from vmferry.api.v1 import jobs_pb2
from vmferry.model import JobType
from vmferry.statistics import BY_NAME, Figure, JobStats, Kind


def stats_to_wire(stats: JobStats) -> jobs_pb2.GetJobStatsResponse:
    """The figures of a job."""
    return jobs_pb2.GetJobStatsResponse(
        type=wire.enum_to_wire(stats.type),
        statistics=[jobs_pb2.JobStatistic(**{"name": name, **_figure(name, value)}) for name, value in stats.figures.items()],
        job=wire.job_to_wire(stats.job) if stats.job is not None else None,
    )


def _figure(name: str, value: Figure) -> dict[str, Any]:
    return {_FIELDS[BY_NAME[name].kind]: value}


_FIELDS = {
    Kind.INT: "int_value",
    Kind.UNSIGNED: "unsigned_long_value",
    Kind.BOOLEAN: "boolean_value",
    Kind.STRING: "string_value",
}


def stats_from_wire(message: jobs_pb2.GetJobStatsResponse) -> JobStats:
    """The figures of a job. A figure that is newer than this client is taken as it comes."""
    return JobStats(
        wire.enum_from_wire(JobType, message.type),
        {row.name: getattr(row, row.WhichOneof("value") or "int_value") for row in message.statistics},
        wire.job_from_wire(message.job) if message.HasField("job") else None,
    )
