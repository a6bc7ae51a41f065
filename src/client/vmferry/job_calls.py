"""What can be asked of a daemon about jobs: the part of `vmferry.client.Connection` that speaks to JobService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from grpc import aio

from vmferry import wire
from vmferry.api.v1 import jobs_pb2, jobs_pb2_grpc
from vmferry.calls import Caller, translated
from vmferry.errors import FateUnknown, PeerUnreachable
from vmferry.model import JobEvent, JobInfo, MigrationId, Outcome

if TYPE_CHECKING:
    from vmferry.api.v1.jobs_pb2_grpc import JobServiceAsyncStub
    from vmferry.statistics import JobStats


class JobCalls(Caller):
    """Jobs of one daemon."""

    @cached_property
    def _jobs(self) -> JobServiceAsyncStub:
        return jobs_pb2_grpc.JobServiceStub(self.channel)

    async def job(self, migration_id: MigrationId) -> JobInfo:
        """One migration as this host knows it."""
        return await self._job(jobs_pb2.GetJobRequest(migration_id=migration_id))

    async def newest_job(self, domain: str) -> JobInfo:
        """The newest migration of a domain as this host knows it."""
        return await self._job(jobs_pb2.GetJobRequest(domain=domain))

    async def _job(self, request: jobs_pb2.GetJobRequest) -> JobInfo:
        return wire.job_from_wire((await self._ask(self._jobs.GetJob(request, timeout=self.bounds.call_s))).job)

    async def jobs(self, domain: str = "", *, limit: int = 0) -> list[JobInfo]:
        """The newest `limit` migrations that this host remembers, newest first; all with 0. Of one domain if it is named."""
        request = jobs_pb2.ListJobsRequest(domain=domain, limit=limit)
        reply = await self._ask(self._jobs.ListJobs(request, timeout=self.bounds.call_s))
        return [wire.job_from_wire(job) for job in reply.jobs]

    # -- figures under libvirt's names --------------------------------------------------------------------------------

    async def job_stats(self, domain: str) -> JobStats:
        """The figures of the job that the domain has now."""
        return await self._stats(jobs_pb2.GetJobStatsRequest(domain=domain))

    async def completed_stats(self, domain: str) -> JobStats:
        """The figures of the domain's newest job that has ended. They are answered once, as libvirt does."""
        return await self._stats(jobs_pb2.GetJobStatsRequest(domain=domain, completed=True))

    async def kept_stats(self, domain: str) -> JobStats:
        """The same, which are answered again the next time."""
        return await self._stats(jobs_pb2.GetJobStatsRequest(domain=domain, completed=True, keep_completed=True))

    async def stats_of(self, migration_id: MigrationId) -> JobStats:
        """The figures of one migration, whether it runs or has ended."""
        return await self._stats(jobs_pb2.GetJobStatsRequest(migration_id=migration_id))

    async def _stats(self, request: jobs_pb2.GetJobStatsRequest) -> JobStats:
        from vmferry import statistics_wire

        return statistics_wire.stats_from_wire(await self._ask(self._jobs.GetJobStats(request, timeout=self.bounds.call_s)))

    # -- watching -----------------------------------------------------------------------------------------------------

    async def watch(self, migration_id: MigrationId, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """Every change of the job after the one of that number, and the progress between them, until it has ended.

        Whoever lost the connection goes on with the `sequence` of the last event, and misses no change.
        """
        call = self._jobs.WatchJob(jobs_pb2.WatchJobRequest(migration_id=migration_id, after_sequence=after))
        async for event in self._told(call):
            yield event

    async def watch_jobs(self, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """The same for all jobs of the host, and for those to come. With 0: what runs now, then what happens."""
        async for event in self._told(self._jobs.WatchJobs(jobs_pb2.WatchJobsRequest(after_sequence=after))):
            yield event

    async def _told(self, call: aio.UnaryStreamCall[Any, Any]) -> AsyncIterator[JobEvent]:
        try:
            async for event in call:
                yield wire.job_event_from_wire(event)
        except aio.AioRpcError as error:
            raise translated(error, PeerUnreachable, str(self.uri)) from None
        finally:
            call.cancel()

    # -- ending -------------------------------------------------------------------------------------------------------

    async def abort_job(self, migration_id: MigrationId) -> Outcome:
        """The migration has ended if it still could; answers what holds. May be called again, and answers the same.

        Raises:
            InDoubt: its last part was sent, and the destination does not say whether it took the guest.
        """
        return await self._abort(jobs_pb2.AbortJobRequest(migration_id=migration_id))

    async def abort_job_of(self, domain: str) -> Outcome:
        """The same for the migration that the domain has now.

        Raises:
            InvalidState: it has none.
        """
        return await self._abort(jobs_pb2.AbortJobRequest(domain=domain))

    async def ask_job_to_end(self, migration_id: MigrationId) -> Outcome:
        """The same, without waiting for the effect: PENDING, and `watch` tells the end."""
        return await self._abort(jobs_pb2.AbortJobRequest(migration_id=migration_id, at_once=True))

    async def pause_postcopy(self, migration_id: MigrationId) -> Outcome:
        """The flow of missing pages is paused on both hosts, until the migration is taken up again.

        Raises:
            InvalidState: it is not in post-copy, or this is not its source.
        """
        return await self._abort(jobs_pb2.AbortJobRequest(migration_id=migration_id, postcopy=True))

    async def start_postcopy(self, domain: str) -> None:
        """The guest that is being sent runs at the destination as soon as it can, and its pages follow. May be called again.

        Raises:
            InvalidState: it is not being sent, or was not begun for post-copy.
        """
        request = jobs_pb2.StartPostcopyRequest(domain=domain)
        await self._ask(self._jobs.StartPostcopy(request, timeout=self.bounds.call_s), FateUnknown)

    async def _abort(self, request: jobs_pb2.AbortJobRequest) -> Outcome:
        reply = await self._ask(self._jobs.AbortJob(request, timeout=self.bounds.call_s), FateUnknown)
        return wire.enum_from_wire(Outcome, reply.outcome)
