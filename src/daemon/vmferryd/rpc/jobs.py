"""JobService: running and past migrations of this host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias

from grpc import aio

from vmferry import statistics_wire, wire
from vmferry.api.v1 import jobs_pb2, jobs_pb2_grpc
from vmferry.errors import InvalidParameter, MigrationNotFound
from vmferry.model import JobInfo
from vmferry.statistics import JobStats, stats
from vmferryd.domains.registry import Domains
from vmferryd.jobs.board import Board
from vmferryd.phases.aborts import Aborts
from vmferryd.rpc.ids import migration_id

Context: TypeAlias = aio.ServicerContext[Any, Any]


class JobService(jobs_pb2_grpc.JobServiceServicer):
    """Docstrings are in jobs.proto."""

    def __init__(self, board: Board, domains: Domains, aborts: Aborts) -> None:
        self._board = board
        self._domains = domains
        self._aborts = aborts

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.GetJobResponse:
        """See jobs.proto."""
        if request.WhichOneof("which") == "domain":
            job = self._newest_of(request.domain)
        else:
            job = self._board.find(migration_id(request.migration_id))
        return jobs_pb2.GetJobResponse(job=wire.job_to_wire(job))

    def _newest_of(self, domain: str) -> JobInfo:
        for job in self._board.of(domain):
            return job
        raise MigrationNotFound(f"domain {domain!r} has had no migration on this host")

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        """See jobs.proto."""
        known = self._board.of(request.domain) if request.domain else self._board.all()
        chosen = [job for job in known if job.ended_s is None or not request.running_only]
        if request.limit:
            chosen = chosen[: request.limit]
        if not request.domain:
            chosen = [replace(job, changes=()) for job in chosen]
        return jobs_pb2.ListJobsResponse(jobs=[wire.job_to_wire(job) for job in chosen])

    async def GetJobStats(self, request: jobs_pb2.GetJobStatsRequest, context: Context) -> jobs_pb2.GetJobStatsResponse:
        """See jobs.proto."""
        if request.keep_completed and not request.completed:
            raise InvalidParameter("keep_completed has no meaning without completed", remedy="give both, or neither")
        return statistics_wire.stats_to_wire(self._stats(request))

    def _stats(self, request: jobs_pb2.GetJobStatsRequest) -> JobStats:
        if request.WhichOneof("which") != "domain":
            return stats(self._board.find(migration_id(request.migration_id)))
        known = self._board.of(request.domain)
        if not known:
            self._domains.find(request.domain)
        if not request.completed:
            return stats(next((job for job in known if job.ended_s is None), None))
        read = self._board.completed if request.keep_completed else self._board.take_completed
        return stats(read(request.domain))

    async def WatchJob(self, request: jobs_pb2.WatchJobRequest, context: Context) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        """See jobs.proto."""
        watch = self._board.watch(migration_id(request.migration_id), request.after_sequence)
        async with aclosing(watch) as events:  # type: ignore[type-var]
            async for event in events:
                yield jobs_pb2.WatchJobResponse(**wire.job_event_facts(event))

    async def WatchJobs(
        self, request: jobs_pb2.WatchJobsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.WatchJobsResponse]:
        """See jobs.proto."""
        async with aclosing(self._board.watch_all(request.after_sequence)) as events:  # type: ignore[type-var]
            await context.send_initial_metadata(())
            async for event in events:
                yield jobs_pb2.WatchJobsResponse(**wire.job_event_facts(event))

    async def AbortJob(self, request: jobs_pb2.AbortJobRequest, context: Context) -> jobs_pb2.AbortJobResponse:
        """See jobs.proto."""
        if request.migration_id:
            job = self._board.find(migration_id(request.migration_id))
        else:
            self._board.of(request.domain) or self._domains.find(request.domain)
            job = self._board.running(request.domain)
        end = self._aborts.pause if request.postcopy else self._aborts.ask if request.at_once else self._aborts.end
        return jobs_pb2.AbortJobResponse(outcome=wire.enum_to_wire(await end(job)))

    async def StartPostcopy(self, request: jobs_pb2.StartPostcopyRequest, context: Context) -> jobs_pb2.StartPostcopyResponse:
        """See jobs.proto."""
        await self._aborts.start_postcopy(self._domains.find(request.domain))
        return jobs_pb2.StartPostcopyResponse()
