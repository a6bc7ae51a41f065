"""Model ↔ protobuf: every field, every value, and nothing that is not known."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry import wire
from vmferry.api.v1 import jobs_pb2, params_pb2, types_pb2
from vmferry.disks import DiskFigures
from vmferry.errors import InvalidParameter, VmferryError
from vmferry.model import (
    ChangeFigures,
    DomainInfo,
    DomainState,
    JobChange,
    JobChangeKind,
    JobInfo,
    JobOperation,
    JobStatus,
    JobStep,
    JobType,
    MigrationId,
    Outcome,
    Phase,
    Progress,
    Side,
    StateReason,
    Statistics,
    Verdict,
)
from vmferry.params import MigrationParams

ENUMS = [Side, Phase, Verdict, Outcome, DomainState, JobOperation, JobType, JobStatus, JobChangeKind]
texts = st.text(st.characters(codec="utf-8"), max_size=10)
ids = texts.map(MigrationId)
small = st.integers(0, 2**31 - 1)
sizes = st.integers(0, 2**64 - 1)
disks = st.lists(st.builds(DiskFigures, texts, sizes, sizes), max_size=3).map(tuple)
figures = {f.name: small if f.name.endswith("percent") else sizes for f in fields(Statistics)}
statistics = st.builds(Statistics, **figures | {"disks": disks})
milliseconds = st.integers(1, 2**40).map(lambda number: number / 1000)


@pytest.mark.parametrize("kind", ENUMS)
def test_enums(kind) -> None:
    """Every value has its twin, both ways; the twin has no other ones but the unspecified."""
    assert list(kind) == [wire.enum_from_wire(kind, wire.enum_to_wire(value)) for value in kind]
    twin, _ = wire._TWINS[kind]
    assert len(kind) + 1 == len(twin.keys())
    for number in (0, 99):
        with pytest.raises(InvalidParameter, match=kind.__name__):
            wire.enum_from_wire(kind, number)


@given(statistics)
def test_statistics(given_statistics: Statistics) -> None:
    """Every figure comes back."""
    assert given_statistics == wire.statistics_from_wire(wire.statistics_to_wire(given_statistics))


def test_every_figure_is_in_the_contract() -> None:
    """The two types of statistics have the same names."""
    assert {f.name for f in fields(Statistics)} == set(types_pb2.Statistics.DESCRIPTOR.fields_by_name)


def test_negative_figures_are_nothing() -> None:
    """A figure that a hypervisor reports below zero travels as unknown."""
    assert 0 == wire.statistics_to_wire(Statistics(downtime_ms=-1)).downtime_ms


@given(st.builds(Progress, ids, st.sampled_from(Phase), texts, statistics))
def test_progress(progress: Progress) -> None:
    """A step of progress comes back."""
    assert progress == wire.progress_from_wire(wire.progress_to_wire(progress))


@given(
    st.builds(
        DomainInfo,
        uuid=texts,
        name=texts,
        domain_type=texts,
        state=st.sampled_from(DomainState),
        reason=st.sampled_from(StateReason),
        persistent=st.booleans(),
        memory_bytes=st.integers(0, 2**64 - 1),
        vcpus=small,
        id=st.none() | small,
        migration_id=st.none() | ids.filter(bool),
    )
)
def test_domain(domain: DomainInfo) -> None:
    """A domain comes back."""
    assert domain == wire.domain_from_wire(wire.domain_to_wire(domain))


def test_newer_reason() -> None:
    """A reason that only a newer daemon knows reads as unknown."""
    message = types_pb2.Domain(state=types_pb2.DOMAIN_STATE_RUNNING, reason="teleported")
    assert StateReason.UNKNOWN is wire.domain_from_wire(message).reason


def test_newer_step() -> None:
    """A step that only a newer daemon knows is none, and the rest of its job is read."""
    change = jobs_pb2.JobChange(kind=jobs_pb2.JOB_CHANGE_KIND_DECISION, phase=types_pb2.PHASE_PERFORM, step="walk")
    job = jobs_pb2.Job(
        side=types_pb2.SIDE_SOURCE,
        operation=jobs_pb2.JOB_OPERATION_MIGRATION_OUT,
        type=jobs_pb2.JOB_TYPE_UNBOUNDED,
        phase=types_pb2.PHASE_PERFORM,
        status=jobs_pb2.JOB_STATUS_ACTIVE,
        changes=[change],
    )
    assert [JobStep.NONE] == [change.step for change in wire.job_from_wire(job).changes]


counts = st.integers(0, 2**63 - 1)
job_changes = st.builds(
    JobChange,
    sequence=counts,
    kind=st.sampled_from(JobChangeKind),
    at_s=st.integers(0, 10**9).map(float),
    state=texts,
    phase=st.sampled_from(Phase),
    iteration=counts,
    reason=texts,
    step=st.sampled_from(JobStep),
    error=texts,
    figures=st.none()
    | st.builds(
        ChangeFigures,
        sent_bytes=counts,
        remaining_bytes=counts,
        bytes_per_s=counts,
        dirty_bytes_per_s=counts,
        throttle_percent=st.integers(0, 99),
    ),
)


@given(
    st.builds(
        JobInfo,
        migration_id=ids,
        side=st.sampled_from(Side),
        operation=st.sampled_from(JobOperation),
        type=st.sampled_from(JobType),
        domain_name=texts,
        domain_uuid=texts,
        state=texts,
        phase=st.sampled_from(Phase),
        started_s=milliseconds,
        ended_s=st.none() | milliseconds,
        error=texts,
        statistics=statistics,
        status=st.sampled_from(JobStatus),
        elapsed_ms=counts,
        error_reason=texts,
        peer_uri=texts,
        took_ms=st.dictionaries(st.sampled_from(Phase), counts),
        changes=st.lists(job_changes, max_size=3).map(tuple),
        coordination_ms=counts,
        data_channel=texts,
        warnings=st.lists(texts, max_size=3).map(tuple),
        flags=counts,
        settings=st.dictionaries(texts, texts, max_size=3),
    )
)
def test_job(job: JobInfo) -> None:
    """A job comes back, its times to the millisecond."""
    back = wire.job_from_wire(jobs_pb2.Job.FromString(wire.job_to_wire(job).SerializeToString()))
    for f in fields(JobInfo):
        expected, actual = getattr(job, f.name), getattr(back, f.name)
        assert expected == (pytest.approx(actual, abs=0.0015) if isinstance(expected, float) else actual), f.name


def test_params() -> None:
    """Parameters come back from their typed spelling, each with libvirt's type."""
    params = MigrationParams(destination_name="x", bandwidth_mib_per_s=3, auto_converge_initial_percent=20)
    messages = wire.params_to_wire(params)
    assert params == wire.params_from_wire(messages)
    assert {"string_value", "int_value", "unsigned_long_value"} == {m.WhichOneof("value") for m in messages}


def test_params_that_say_nothing() -> None:
    """A parameter without a value, or without a known name, is refused."""
    with pytest.raises(InvalidParameter, match="no value"):
        wire.params_from_wire([params_pb2.TypedParam(name="bandwidth")])
    with pytest.raises(VmferryError):
        wire.params_from_wire([params_pb2.TypedParam(name="bogus", int_value=1)])
