"""What is told of a job follows from its records alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmferry.model import (
    DestinationState,
    JobChangeKind,
    JobStatus,
    JobStep,
    JobType,
    MigrationId,
    Phase,
    Side,
    SourceState,
    Statistics,
)
from vmferryd.jobs.changes import KEPT_OF_A_KIND, change_between, changed, event, from_journal, job_info, status
from vmferryd.jobs.journal import Record

Kind = JobChangeKind
RECORD = Record(MigrationId("id"), Side.SOURCE, SourceState.PERFORMING, "uuid", "web", 1_000.0)


@pytest.mark.parametrize(
    ("record", "closed", "wanted"),
    [
        (replace(RECORD, state=SourceState.BEGUN), False, JobStatus.ACTIVE),
        (RECORD, False, JobStatus.ACTIVE),
        (replace(RECORD, state=SourceState.RELEASED), False, JobStatus.MIGRATING),
        (replace(RECORD, state=SourceState.RELEASED, took_ms={Phase.PERFORM: 5}), False, JobStatus.HYPERVISOR_COMPLETED),
        (replace(RECORD, state=SourceState.SERVING), False, JobStatus.POSTCOPY),
        (replace(RECORD, state=SourceState.SERVING_FAILED), False, JobStatus.POSTCOPY_PAUSED),
        (replace(RECORD, state=SourceState.CONFIRMED), False, JobStatus.HYPERVISOR_COMPLETED),
        (replace(RECORD, state=SourceState.CONFIRMED), True, JobStatus.COMPLETED),
        (replace(RECORD, state=SourceState.CANCELLED, error_reason="TIMED_OUT"), True, JobStatus.FAILED),
        (replace(RECORD, state=SourceState.CANCELLED, error_reason="MIGRATION_CANCELLED"), True, JobStatus.CANCELED),
        (replace(RECORD, state=DestinationState.PREPARED), False, JobStatus.ACTIVE),
        (replace(RECORD, state=DestinationState.RECEIVED), False, JobStatus.HYPERVISOR_COMPLETED),
        (replace(RECORD, state=DestinationState.COMMITTED), True, JobStatus.COMPLETED),
        (replace(RECORD, state=DestinationState.ABORTED), True, JobStatus.FAILED),
    ],
)
def test_status(record: Record, closed: bool, wanted: JobStatus) -> None:
    """The status machine of specification 5.2; what only the hypervisor has done is not completed."""
    assert wanted is status(record, closed=closed)
    lasting = wanted not in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED)
    assert lasting is (wanted.type is JobType.UNBOUNDED)


@pytest.mark.parametrize(
    ("after", "wanted"),
    [
        (RECORD, None),
        (replace(RECORD, statistics=Statistics(elapsed_ms=5)), None),
        (replace(RECORD, statistics=Statistics(memory_iteration=1)), Kind.ITERATION),
        (replace(RECORD, phase=Phase.PERFORM), Kind.PHASE),
        (replace(RECORD, error="no"), Kind.ERROR),
        (replace(RECORD, state=SourceState.RELEASED, phase=Phase.PERFORM, error="no"), Kind.STATE),
    ],
)
def test_change_between(after: Record, wanted: JobChangeKind | None) -> None:
    """The weightiest change gives its name; figures alone are no change."""
    assert wanted is change_between(RECORD, after, closed=False)
    assert Kind.STARTED is change_between(None, after, closed=False)


def test_the_end_has_one_of_three_names() -> None:
    """Success, failure and a user's wish are told apart."""
    ends = [
        replace(RECORD, state=SourceState.CONFIRMED),
        replace(RECORD, state=SourceState.CANCELLED),
        replace(RECORD, state=SourceState.CANCELLED, error_reason="MIGRATION_CANCELLED"),
    ]
    assert [Kind.COMPLETED, Kind.FAILED, Kind.CANCELLED] == [change_between(RECORD, end, closed=True) for end in ends]


def test_old_rounds_are_dropped_and_nothing_else() -> None:
    """A transfer of very many rounds keeps the newest of them, and every other change."""
    record = changed(RECORD, Kind.STARTED, 1, 0.0)
    for number in range(2, 200):
        record = changed(record, Kind.ITERATION, number, 0.0)
    record = changed(record, Kind.STATE, 200, 0.0)
    kinds = [change.kind for change in record.changes]
    assert [Kind.STARTED, *[Kind.ITERATION] * KEPT_OF_A_KIND, Kind.STATE] == kinds
    assert 199 == record.changes[-2].sequence


def test_old_decisions_are_dropped_as_rounds_are() -> None:
    """And they say to whoever watches what they were."""
    record = changed(RECORD, Kind.STARTED, 1, 0.0)
    for number in range(2, 200):
        record = changed(record, Kind.DECISION, number, 0.0, f"pause limit {number} ms")
    assert len(record.changes) == 1 + KEPT_OF_A_KIND
    told = event(job_info(record, closed=False), record.changes[-1])
    assert (told.kind, told.reason) == (Kind.DECISION, "pause limit 199 ms")


def test_steps_are_kept_however_much_was_decided_after_them() -> None:
    """When a part of the transfer began is known to its end."""
    record = changed(RECORD, Kind.DECISION, 1, 0.0, "the disks first", JobStep.DISKS)
    for number in range(2, 200):
        record = changed(record, Kind.DECISION, number, 0.0, f"pause limit {number} ms")
    assert (record.changes[0].step, len(record.changes)) == (JobStep.DISKS, 1 + KEPT_OF_A_KIND)


def test_the_past_is_told_as_it_was() -> None:
    """A change that is replayed does not know the end, nor figures of later."""
    record = changed(replace(RECORD, state=SourceState.BEGUN), Kind.STARTED, 1, 1_000.0)
    record = replace(record, state=SourceState.CANCELLED, error="no", error_reason="TIMED_OUT", ended_s=1_009.0)
    record = changed(replace(record, statistics=Statistics(memory_iteration=3)), Kind.FAILED, 2, 1_009.0)
    job = job_info(record, closed=True)
    first, last = (event(job, change) for change in job.changes)
    assert (JobType.UNBOUNDED, "begun", "", None, 0) == (
        first.job.type,
        first.job.state,
        first.job.error,
        first.job.ended_s,
        first.job.statistics.memory_iteration,
    )
    assert (JobType.FAILED, "cancelled", "no", 1_009.0) == (last.job.type, last.job.state, last.job.error, last.job.ended_s)


def test_a_settled_record_of_an_earlier_daemon_has_its_end() -> None:
    """The end is told last and never written; whoever reads the journal knows it all the same, once."""
    record = replace(changed(RECORD, Kind.STATE, 7, 1.0), state=SourceState.CONFIRMED, ended_s=9.0)
    job = from_journal(record)
    assert [(7, Kind.STATE), (8, Kind.COMPLETED)] == [(change.sequence, change.kind) for change in job.changes]
    assert from_journal(replace(record, settled=False)).ended_s is None
