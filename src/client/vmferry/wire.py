"""Model ↔ protobuf: pure, both directions side by side.

An enumeration of the model and its protobuf twin have the same names, up to the prefix; so one pair of functions serves them
all. A value that the other side does not know (a newer peer) becomes an error, never a default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from vmferry.api.v1 import domains_pb2, host_pb2, jobs_pb2, oversight_pb2, params_pb2, types_pb2
from vmferry.disks import DiskFigures, LockState
from vmferry.errors import InvalidParameter
from vmferry.findings import Weight
from vmferry.model import (
    ChangeFigures,
    DomainEvent,
    DomainEventDetail,
    DomainEventKind,
    DomainInfo,
    DomainState,
    DriverInfo,
    HostCapabilities,
    HostInfo,
    JobChange,
    JobChangeKind,
    JobEvent,
    JobInfo,
    JobOperation,
    JobStatus,
    JobStep,
    JobType,
    Keep,
    MigrationId,
    Outcome,
    Phase,
    Progress,
    Side,
    StateReason,
    Statistics,
    Verdict,
)
from vmferry.params import PARAMETERS, Kind, MigrationParams, read_typed, write_typed
from vmferry.wish import RunWish

E = TypeVar("E", bound=StrEnum)

_TWINS: dict[type[StrEnum], tuple[Any, str]] = {
    Side: (types_pb2.Side, "SIDE_"),
    Phase: (types_pb2.Phase, "PHASE_"),
    Verdict: (types_pb2.Verdict, "VERDICT_"),
    Outcome: (types_pb2.Outcome, "OUTCOME_"),
    Weight: (types_pb2.FindingWeight, "FINDING_WEIGHT_"),
    DomainState: (types_pb2.DomainState, "DOMAIN_STATE_"),
    DomainEventKind: (domains_pb2.DomainEventKind, "DOMAIN_EVENT_KIND_"),
    JobOperation: (jobs_pb2.JobOperation, "JOB_OPERATION_"),
    JobType: (jobs_pb2.JobType, "JOB_TYPE_"),
    RunWish: (types_pb2.RunWish, "RUN_WISH_"),
    Keep: (oversight_pb2.Keep, "KEEP_"),
    LockState: (oversight_pb2.ImageLockState, "IMAGE_LOCK_STATE_"),
    JobStatus: (jobs_pb2.JobStatus, "JOB_STATUS_"),
    JobChangeKind: (jobs_pb2.JobChangeKind, "JOB_CHANGE_KIND_"),
}


def enum_to_wire(value: StrEnum) -> Any:
    """The protobuf number of a model value."""
    twin, prefix = _TWINS[type(value)]
    return _named(twin).Value(prefix + value.name)


def enum_from_wire(kind: type[E], number: int) -> E:
    """The model value of a protobuf number.

    Raises:
        InvalidParameter: unspecified, or unknown to this side.
    """
    twin, prefix = _TWINS[kind]
    try:
        return kind[_named(twin).Name(number).removeprefix(prefix)]
    except (KeyError, ValueError):
        raise InvalidParameter(
            f"{number} is no {kind.__name__} that is known here",
            remedy=f"say one of {', '.join(kind)}",
        ) from None


def _named(twin: Any) -> EnumTypeWrapper:
    wrapper: EnumTypeWrapper = twin
    return wrapper


def wish_from_wire(number: int) -> RunWish:
    """The wish; a peer that knows of none has none.

    Raises:
        InvalidParameter: it is unknown to this side, and what is wished for must not be passed over.
    """
    return enum_from_wire(RunWish, number) if number else RunWish.NONE


_FIGURES = tuple(f.name for f in fields(Statistics) if f.name != "disks")


def statistics_to_wire(statistics: Statistics) -> types_pb2.Statistics:
    """Every figure; the two types have the same names."""
    message = types_pb2.Statistics(**{name: max(0, getattr(statistics, name)) for name in _FIGURES})
    for disk in statistics.disks:
        message.disks.add(target=disk.target, total_bytes=disk.total_bytes, processed_bytes=disk.processed_bytes)
    return message


def statistics_from_wire(message: types_pb2.Statistics) -> Statistics:
    """Every figure; the two types have the same names."""
    disks = tuple(DiskFigures(disk.target, disk.total_bytes, disk.processed_bytes) for disk in message.disks)
    return Statistics(**{name: getattr(message, name) for name in _FIGURES}, disks=disks)


def progress_to_wire(progress: Progress) -> types_pb2.Progress:
    """One step of progress."""
    return types_pb2.Progress(
        migration_id=progress.migration_id,
        phase=enum_to_wire(progress.phase),
        step=progress.step,
        statistics=statistics_to_wire(progress.statistics),
    )


def progress_from_wire(message: types_pb2.Progress) -> Progress:
    """One step of progress."""
    return Progress(
        migration_id=MigrationId(message.migration_id),
        phase=enum_from_wire(Phase, message.phase),
        step=message.step,
        statistics=statistics_from_wire(message.statistics),
    )


def domain_to_wire(domain: DomainInfo) -> types_pb2.Domain:
    """A domain."""
    return types_pb2.Domain(
        uuid=domain.uuid,
        name=domain.name,
        type=domain.domain_type,
        state=enum_to_wire(domain.state),
        reason=domain.reason.value,
        persistent=domain.persistent,
        memory_bytes=domain.memory_bytes,
        vcpus=domain.vcpus,
        id=domain.id,
        migration_id=domain.migration_id or "",
    )


def domain_from_wire(message: types_pb2.Domain) -> DomainInfo:
    """A domain. A reason that is newer than this client reads as unknown: it is for people only."""
    reasons = set(StateReason)
    return DomainInfo(
        uuid=message.uuid,
        name=message.name,
        domain_type=message.type,
        state=enum_from_wire(DomainState, message.state),
        reason=StateReason(message.reason) if message.reason in reasons else StateReason.UNKNOWN,
        persistent=message.persistent,
        memory_bytes=message.memory_bytes,
        vcpus=message.vcpus,
        id=message.id if message.HasField("id") else None,
        migration_id=MigrationId(message.migration_id) if message.migration_id else None,
    )


def domain_event_to_wire(event: DomainEvent) -> domains_pb2.WatchDomainsResponse:
    """An event, with how many were missed before it."""
    told = domains_pb2.DomainEvent(
        domain_name=event.domain_name,
        domain_uuid=event.domain_uuid,
        kind=enum_to_wire(event.kind),
        detail=event.detail.value,
        at_unix_ms=int(event.at_s * 1000),
        migration_id=event.migration_id or "",
    )
    return domains_pb2.WatchDomainsResponse(event=told, missed=event.missed)


def domain_event_from_wire(message: domains_pb2.WatchDomainsResponse) -> DomainEvent:
    """An event. A detail that is newer than this client reads as unknown: it is for people only."""
    event, details = message.event, set(DomainEventDetail)
    return DomainEvent(
        kind=enum_from_wire(DomainEventKind, event.kind),
        detail=DomainEventDetail(event.detail) if event.detail in details else DomainEventDetail.UNKNOWN,
        domain_name=event.domain_name,
        domain_uuid=event.domain_uuid,
        at_s=event.at_unix_ms / 1000,
        migration_id=MigrationId(event.migration_id) if event.migration_id else None,
        missed=message.missed,
    )


def job_to_wire(job: JobInfo) -> jobs_pb2.Job:
    """A job."""
    return jobs_pb2.Job(
        migration_id=job.migration_id,
        side=enum_to_wire(job.side),
        operation=enum_to_wire(job.operation),
        type=enum_to_wire(job.type),
        domain_name=job.domain_name,
        domain_uuid=job.domain_uuid,
        state=job.state,
        phase=enum_to_wire(job.phase),
        started_unix_ms=int(job.started_s * 1000),
        ended_unix_ms=int((job.ended_s or 0) * 1000),
        error=job.error,
        statistics=statistics_to_wire(job.statistics),
        status=enum_to_wire(job.status),
        elapsed_ms=job.elapsed_ms,
        error_reason=job.error_reason,
        peer_uri=job.peer_uri,
        phases=[jobs_pb2.PhaseTime(phase=enum_to_wire(phase), took_ms=took_ms) for phase, took_ms in job.took_ms.items()],
        changes=map(_change_to_wire, job.changes),
        coordination_ms=job.coordination_ms,
        data_channel=job.data_channel,
        warnings=job.warnings,
        flags=job.flags,
        settings=[jobs_pb2.JobSetting(name=name, value=value) for name, value in job.settings.items()],
    )


def job_from_wire(message: jobs_pb2.Job) -> JobInfo:
    """A job."""
    return JobInfo(
        migration_id=MigrationId(message.migration_id),
        side=enum_from_wire(Side, message.side),
        operation=enum_from_wire(JobOperation, message.operation),
        type=enum_from_wire(JobType, message.type),
        domain_name=message.domain_name,
        domain_uuid=message.domain_uuid,
        state=message.state,
        phase=enum_from_wire(Phase, message.phase),
        started_s=message.started_unix_ms / 1000,
        ended_s=message.ended_unix_ms / 1000 if message.ended_unix_ms else None,
        error=message.error,
        statistics=statistics_from_wire(message.statistics),
        status=enum_from_wire(JobStatus, message.status),
        elapsed_ms=message.elapsed_ms,
        error_reason=message.error_reason,
        peer_uri=message.peer_uri,
        took_ms={enum_from_wire(Phase, time.phase): time.took_ms for time in message.phases},
        changes=tuple(map(_change_from_wire, message.changes)),
        coordination_ms=message.coordination_ms,
        data_channel=message.data_channel,
        warnings=tuple(message.warnings),
        flags=message.flags,
        settings={setting.name: setting.value for setting in message.settings},
    )


def _change_to_wire(change: JobChange) -> jobs_pb2.JobChange:
    return jobs_pb2.JobChange(
        sequence=change.sequence,
        kind=enum_to_wire(change.kind),
        at_unix_ms=int(change.at_s * 1000),
        state=change.state,
        phase=enum_to_wire(change.phase),
        iteration=change.iteration,
        error=change.error,
        figures=jobs_pb2.ChangeFigures(**asdict(change.figures)) if change.figures else None,
        reason=change.reason,
        step=change.step,
    )


def _change_from_wire(message: jobs_pb2.JobChange) -> JobChange:
    return JobChange(
        sequence=message.sequence,
        kind=enum_from_wire(JobChangeKind, message.kind),
        at_s=message.at_unix_ms / 1000,
        state=message.state,
        phase=enum_from_wire(Phase, message.phase),
        iteration=message.iteration,
        error=message.error,
        figures=_figures_from_wire(message.figures) if message.HasField("figures") else None,
        reason=message.reason,
        step=JobStep(message.step) if message.step in set(JobStep) else JobStep.NONE,
    )


def _figures_from_wire(message: jobs_pb2.ChangeFigures) -> ChangeFigures:
    return ChangeFigures(**{name.name: getattr(message, name.name) for name in fields(ChangeFigures)})


def job_event_facts(event: JobEvent) -> dict[str, Any]:
    """The fields of an event, which the answers of both watches have."""
    return {
        "job": job_to_wire(event.job),
        "sequence": event.sequence,
        "kind": enum_to_wire(event.kind),
        "at_unix_ms": int(event.at_s * 1000),
        "reason": event.reason,
    }


def job_event_from_wire(message: jobs_pb2.WatchJobResponse | jobs_pb2.WatchJobsResponse) -> JobEvent:
    """An event of either watch."""
    kind = enum_from_wire(JobChangeKind, message.kind)
    return JobEvent(message.sequence, kind, message.at_unix_ms / 1000, job_from_wire(message.job), message.reason)


def host_from_wire(message: host_pb2.GetVersionResponse) -> HostInfo:
    """Who answers."""
    return HostInfo(**{each.name: getattr(message, each.name) for each in fields(HostInfo)})


def host_to_wire(host: HostInfo) -> host_pb2.GetVersionResponse:
    """Who answers."""
    return host_pb2.GetVersionResponse(**{each.name: getattr(host, each.name) for each in fields(HostInfo)})


def capabilities_from_wire(message: host_pb2.GetCapabilitiesResponse) -> HostCapabilities:
    """What a host can do."""
    return HostCapabilities(tuple(_driver_from_wire(driver) for driver in message.drivers), tuple(message.features))


def _driver_from_wire(message: host_pb2.DriverCapabilities) -> DriverInfo:
    return DriverInfo(
        name=message.name,
        version=message.version,
        domain_types=tuple(message.domain_types),
        features=tuple(message.features),
        machines=tuple(message.machines),
        unavailable=message.unavailable,
    )


def capabilities_to_wire(capabilities: HostCapabilities) -> host_pb2.GetCapabilitiesResponse:
    """What a host can do; the driver's two types have the same names."""
    drivers = [
        host_pb2.DriverCapabilities(**{f.name: getattr(driver, f.name) for f in fields(DriverInfo)})
        for driver in capabilities.drivers
    ]
    return host_pb2.GetCapabilitiesResponse(drivers=drivers, features=capabilities.features)


def params_to_wire(params: MigrationParams) -> list[params_pb2.TypedParam]:
    """The typed spelling of what is set."""
    return [_typed(name, value) for name, value in write_typed(params)]


def _typed(name: str, value: str | int) -> params_pb2.TypedParam:
    if isinstance(value, str):
        return params_pb2.TypedParam(name=name, string_value=value)
    if name in _INTS:
        return params_pb2.TypedParam(name=name, int_value=value)
    return params_pb2.TypedParam(name=name, unsigned_long_value=value)


def params_from_wire(messages: Iterable[params_pb2.TypedParam]) -> MigrationParams:
    """What the typed spelling says.

    Raises:
        VmferryError: unknown names, wrong types or ranges; all findings at once.
    """
    return read_typed((message.name, _value(message)) for message in messages)


def _value(message: params_pb2.TypedParam) -> str | int:
    chosen = message.WhichOneof("value")
    if chosen is None:
        raise InvalidParameter(f"parameter {message.name} has no value", remedy="give a string or a number")
    value: str | int = getattr(message, chosen)
    return value


_INTS = frozenset(row.name for row in PARAMETERS if row.kind is Kind.INT)
