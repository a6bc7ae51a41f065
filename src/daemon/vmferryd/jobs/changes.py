"""What is told of a job when its record changes, and what a record says to others. Pure."""

from __future__ import annotations

from dataclasses import replace

from vmferry.model import (
    DestinationState,
    JobChange,
    JobChangeKind,
    JobEvent,
    JobInfo,
    JobOperation,
    JobStatus,
    JobStep,
    JobType,
    Phase,
    Side,
    SourceState,
    Statistics,
)
from vmferryd.jobs.journal import Record

KEPT_OF_A_KIND = 32
"""So many of the newest rounds, and of the newest decisions, are kept with a job.

There are few other changes, nor many steps, and all are kept.
"""

_MANY = (JobChangeKind.ITERATION, JobChangeKind.DECISION)

_ENDS = {
    JobStatus.COMPLETED: JobChangeKind.COMPLETED,
    JobStatus.FAILED: JobChangeKind.FAILED,
    JobStatus.CANCELED: JobChangeKind.CANCELLED,
}


def status(record: Record, *, closed: bool) -> JobStatus:
    """What the job does, of the status machine of specification 5.2.

    A decided migration whose effects are not done yet is not completed. `PAUSED` lasts as long as one write to the journal,
    for a transfer that is held is released by the next record; so nobody ever sees it.
    """
    if not closed:
        return _lasting(record)
    if record.state in (SourceState.CONFIRMED, DestinationState.COMMITTED):
        return JobStatus.COMPLETED
    return JobStatus.CANCELED if record.error_reason == "MIGRATION_CANCELLED" else JobStatus.FAILED


def _lasting(record: Record) -> JobStatus:
    match record.state:
        case SourceState.BEGUN | SourceState.PERFORMING | DestinationState.PREPARED:
            return JobStatus.ACTIVE
        case SourceState.RELEASED if Phase.PERFORM not in record.took_ms:
            return JobStatus.MIGRATING
        case SourceState.SERVING | DestinationState.RUNNABLE | DestinationState.POSTCOPY:
            return JobStatus.POSTCOPY
        case SourceState.SERVING_FAILED | DestinationState.POSTCOPY_FAILED:
            return JobStatus.POSTCOPY_PAUSED
        case _:
            return JobStatus.HYPERVISOR_COMPLETED


def change_between(before: Record | None, after: Record, *, closed: bool) -> JobChangeKind | None:
    """What is to be told of `after`; None when nothing but figures has changed."""
    if closed:
        return _ENDS[status(after, closed=True)]
    if before is None:
        return JobChangeKind.STARTED
    if after.state != before.state:
        return JobChangeKind.STATE
    if after.phase != before.phase:
        return JobChangeKind.PHASE
    if after.error != before.error:
        return JobChangeKind.ERROR
    is_further = after.statistics.memory_iteration > before.statistics.memory_iteration
    return JobChangeKind.ITERATION if is_further else None


def changed(
    record: Record, kind: JobChangeKind, sequence: int, at_s: float, reason: str = "", step: JobStep = JobStep.NONE
) -> Record:
    """The record with one more change; `reason` and `step` are a decision's."""
    figures = record.statistics
    change = JobChange(
        sequence,
        kind,
        at_s,
        record.state.value,
        record.phase,
        figures.memory_iteration,
        record.error,
        figures.at_change,
        reason,
        step,
    )
    return replace(record, changes=_bounded((*record.changes, change)))


def _bounded(changes: tuple[JobChange, ...]) -> tuple[JobChange, ...]:
    dropped = frozenset(
        sequence
        for kind in _MANY
        for sequence in [c.sequence for c in changes if c.kind is kind and not c.step][:-KEPT_OF_A_KIND]
    )
    return tuple(change for change in changes if change.sequence not in dropped) if dropped else changes


def job_info(record: Record, *, closed: bool, elapsed_ms: int | None = None) -> JobInfo:
    """What others may know of a record. `closed`: its effects are done, and its domain is free."""
    found = status(record, closed=closed)
    return JobInfo(
        migration_id=record.migration_id,
        side=record.side,
        operation=JobOperation.MIGRATION_OUT if record.side is Side.SOURCE else JobOperation.MIGRATION_IN,
        type=found.type,
        domain_name=record.domain_name,
        domain_uuid=record.domain_uuid,
        state=record.state.value,
        phase=record.phase,
        started_s=record.started_s,
        ended_s=record.ended_s if closed else None,
        error=record.error,
        statistics=record.statistics,
        status=found,
        elapsed_ms=record.elapsed_ms if elapsed_ms is None else elapsed_ms,
        error_reason=record.error_reason,
        peer_uri=record.peer_uri,
        took_ms=record.took_ms,
        changes=record.changes,
        coordination_ms=record.coordination_ms,
        data_channel=record.data_channel,
        warnings=record.warnings,
        flags=record.flags,
        settings=record.settings,
    )


def from_journal(record: Record) -> JobInfo:
    """What an earlier daemon left. The end of a settled record is the last thing that it would have told."""
    closed = record.settled and record.state.final
    if closed and not any(change.kind.is_end for change in record.changes):
        sequence = max((change.sequence for change in record.changes), default=0) + 1
        record = changed(record, _ENDS[status(record, closed=True)], sequence, record.ended_s or record.started_s)
    return job_info(record, closed=closed)


def event(job: JobInfo, change: JobChange) -> JobEvent:
    """`change` as it is told now. Only the newest one comes with figures; what is known by now is not put into the past."""
    if change is job.changes[-1]:
        return JobEvent(change.sequence, change.kind, change.at_s, replace(job, changes=()), change.reason)
    then = replace(
        job,
        type=JobType.UNBOUNDED,
        status=JobStatus.ACTIVE,
        state=change.state,
        phase=change.phase,
        ended_s=None,
        error=change.error,
        error_reason=job.error_reason if change.error else "",
        statistics=Statistics(memory_iteration=change.iteration),
        elapsed_ms=max(0, round((change.at_s - job.started_s) * 1000)),
        took_ms={},
        changes=(),
    )
    return JobEvent(change.sequence, change.kind, change.at_s, then, change.reason)
