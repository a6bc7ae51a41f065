"""JobService: running and past migrations of this host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

from grpc import aio

from vmferry import wire
from vmferry.api.v1 import jobs_pb2, jobs_pb2_grpc
from vmferry.errors import MigrationNotFound
from vmferry.model import JobInfo, Side
from vmferryd.jobs.board import Board
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.source_phases import SourcePhases
from vmferryd.rpc.ids import migration_id

Context: TypeAlias = aio.ServicerContext[Any, Any]


class JobService(jobs_pb2_grpc.JobServiceServicer):
    """Docstrings are in jobs.proto."""

    def __init__(self, board: Board, source: SourcePhases, destination: DestinationPhases) -> None:
        self._board = board
        self._source = source
        self._destination = destination

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.GetJobResponse:
        """See jobs.proto."""
        if request.WhichOneof("which") == "domain":
            job = self._newest_of(request.domain)
        else:
            job = self._board.find(migration_id(request.migration_id))
        return jobs_pb2.GetJobResponse(job=wire.job_to_wire(job))

    def _newest_of(self, domain: str) -> JobInfo:
        for job in self._board.all():
            if domain in (job.domain_name, job.domain_uuid):
                return job
        raise MigrationNotFound(f"domain {domain!r} has had no migration on this host")

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        """See jobs.proto."""
        jobs = [job for job in self._board.all() if job.ended_s is None or not request.running_only]
        return jobs_pb2.ListJobsResponse(jobs=[wire.job_to_wire(job) for job in jobs])

    async def WatchJob(self, request: jobs_pb2.WatchJobRequest, context: Context) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        """See jobs.proto."""
        async with aclosing(self._board.watch(migration_id(request.migration_id))) as changes:  # type: ignore[type-var]
            async for job in changes:
                yield jobs_pb2.WatchJobResponse(job=wire.job_to_wire(job))

    async def AbortJob(self, request: jobs_pb2.AbortJobRequest, context: Context) -> jobs_pb2.AbortJobResponse:
        """See jobs.proto."""
        job = self._board.find(migration_id(request.migration_id))
        why = "a user asked for the end of the migration"
        outcome = None
        if job.side is Side.SOURCE:
            outcome = await self._source.abort(job.migration_id, why)
        if outcome is None:
            outcome = await self._destination.abort(job.migration_id, why)
        return jobs_pb2.AbortJobResponse(outcome=wire.enum_to_wire(outcome))
