"""The nouns of vmferry, without I/O.

Both halves, the client and the daemon, speak in these words. Nothing here knows gRPC, QEMU, a file or a socket; whatever
needs protobuf lives in `wire`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from vmferry.figures import ChangeFigures as ChangeFigures  # noqa: PLC0414 - everybody finds all nouns here
from vmferry.figures import Statistics as Statistics  # noqa: PLC0414 - everybody finds all nouns here

MigrationId = NewType("MigrationId", str)
"""A UUID in its canonical text form: one attempt to move one domain. Made by Begin, carried by every later call."""


def new_migration_id() -> MigrationId:
    """A fresh migration id."""
    return MigrationId(str(uuid.uuid4()))


class Side(StrEnum):
    """Which of the two hosts of a migration."""

    SOURCE = "source"
    DESTINATION = "destination"

    @property
    def other(self) -> Side:
        """The opposite side."""
        return Side.DESTINATION if self is Side.SOURCE else Side.SOURCE


class Phase(StrEnum):
    """The phases of a migration, in the order of protocol 3 (specification 1.5)."""

    BEGIN = "begin"
    PREPARE = "prepare"
    PERFORM = "perform"
    FINISH = "finish"
    CONFIRM = "confirm"

    @property
    def side(self) -> Side:
        """The host that runs this phase."""
        return Side.DESTINATION if self in (Phase.PREPARE, Phase.FINISH) else Side.SOURCE


class Verdict(StrEnum):
    """What the coordinator asks a closing phase to do. It is a wish: only the destination's record decides."""

    COMMIT = "commit"
    ROLL_BACK = "roll-back"


class Outcome(StrEnum):
    """What the destination's journal says of a migration (handover rule 4).

    POSTCOPY is a commit of a guest that runs there and still needs pages of the source (handover rule 7).
    """

    COMMITTED = "committed"
    ABORTED = "aborted"
    PENDING = "pending"
    POSTCOPY = "post-copy"

    @property
    def at_destination(self) -> bool:
        """The guest lives at the destination, and there is no way back."""
        return self in (Outcome.COMMITTED, Outcome.POSTCOPY)


class GuestLocation(StrEnum):
    """Where the guest is: the first question of whoever reads an error."""

    SOURCE = "source"
    DESTINATION = "destination"
    IN_DOUBT = "in-doubt"
    NOWHERE = "nowhere"


class SourceState(StrEnum):
    """The source's journal records. In SERVING the guest lives at the destination, and this copy is kept for its pages."""

    BEGUN = "begun"
    PERFORMING = "performing"
    RELEASED = "released"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    SERVING = "serving"
    SERVING_FAILED = "serving-failed"

    @property
    def final(self) -> bool:
        """No further change is possible."""
        return self in (SourceState.CONFIRMED, SourceState.CANCELLED)


class DestinationState(StrEnum):
    """The destination's journal records.

    RUNNABLE is RECEIVED with pages missing; in the two of post-copy the guest lives here with pages missing.
    """

    PREPARED = "prepared"
    RECEIVED = "received"
    COMMITTED = "committed"
    ABORTED = "aborted"
    RUNNABLE = "runnable"
    POSTCOPY = "post-copy"
    POSTCOPY_FAILED = "post-copy-failed"

    @property
    def final(self) -> bool:
        """No further change is possible."""
        return self in (DestinationState.COMMITTED, DestinationState.ABORTED)

    @property
    def outcome(self) -> Outcome:
        """What this record answers to `Outcome`."""
        match self:
            case DestinationState.COMMITTED:
                return Outcome.COMMITTED
            case DestinationState.ABORTED:
                return Outcome.ABORTED
            case DestinationState.POSTCOPY | DestinationState.POSTCOPY_FAILED:
                return Outcome.POSTCOPY
            case _:
                return Outcome.PENDING


class Keep(StrEnum):
    """Which copy of a guest an operator keeps, as seen from the host that is told (handover rule 6)."""

    HERE = "here"
    THERE = "there"


@dataclass(frozen=True, slots=True)
class Resolution:
    """What an operator decided about a migration in doubt, as the journal keeps it.

    `who` is the operator as the daemon knows them, `at_s` seconds since the epoch, `peer_said` what the other host answered
    when it was decided; empty when it was silent. `agreed` is None until the other host has been heard again, and then says
    whether its journal agrees.
    """

    keep: Keep
    who: str
    why: str
    at_s: float
    peer_said: str = ""
    agreed: bool | None = None


class DomainState(StrEnum):
    """A domain's state, under libvirt's names (specification 1.14)."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    SHUTOFF = "shutoff"
    CRASHED = "crashed"

    @property
    def active(self) -> bool:
        """A hypervisor process (or its simulation) exists."""
        return self in (DomainState.RUNNING, DomainState.PAUSED, DomainState.SHUTDOWN)


class StateReason(StrEnum):
    """Why a domain is in its state, under libvirt's names."""

    UNKNOWN = "unknown"
    BOOTED = "booted"
    MIGRATED = "migrated"
    UNPAUSED = "unpaused"
    MIGRATION_CANCELED = "migration-canceled"
    POSTCOPY = "post-copy"
    POSTCOPY_FAILED = "post-copy-failed"
    USER = "user"
    MIGRATION = "migration"
    IN_DOUBT = "in-doubt"
    IO_ERROR = "io-error"
    STARTING_UP = "starting-up"
    SHUTDOWN = "shutdown"
    DESTROYED = "destroyed"
    CRASHED = "crashed"
    FAILED = "failed"
    DAEMON = "daemon"


class DomainEventKind(StrEnum):
    """What happened to a domain, under libvirt's names (specification 1.14)."""

    DEFINED = "defined"
    UNDEFINED = "undefined"
    STARTED = "started"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    STOPPED = "stopped"


class DomainEventDetail(StrEnum):
    """How or why it happened, under libvirt's names."""

    UNKNOWN = "unknown"
    ADDED = "added"
    UPDATED = "updated"
    REMOVED = "removed"
    BOOTED = "booted"
    MIGRATED = "migrated"
    PAUSED = "paused"
    UNPAUSED = "unpaused"
    IO_ERROR = "io-error"
    POSTCOPY = "post-copy"
    POSTCOPY_FAILED = "post-copy-failed"
    SHUTDOWN = "shutdown"
    DESTROYED = "destroyed"
    CRASHED = "crashed"
    FAILED = "failed"


class JobOperation(StrEnum):
    """What a job does, under libvirt's names and in the order of its numbers. vmferry has the two migrations only."""

    UNKNOWN = "unknown"
    START = "start"
    SAVE = "save"
    RESTORE = "restore"
    MIGRATION_IN = "migration-in"
    MIGRATION_OUT = "migration-out"
    SNAPSHOT = "snapshot"
    SNAPSHOT_REVERT = "snapshot-revert"
    DUMP = "dump"
    BACKUP = "backup"
    SNAPSHOT_DELETE = "snapshot-delete"

    @property
    def number(self) -> int:
        """Libvirt's number."""
        return list(JobOperation).index(self)


class JobType(StrEnum):
    """The public state of a job, under libvirt's names and in the order of its numbers (specification 5.2)."""

    NONE = "none"
    BOUNDED = "bounded"
    UNBOUNDED = "unbounded"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def number(self) -> int:
        """Libvirt's number."""
        return list(JobType).index(self)


class JobStatus(StrEnum):
    """What a job does right now, as libvirt's daemon sees it: the status machine of specification 5.2."""

    NONE = "none"
    ACTIVE = "active"
    MIGRATING = "migrating"
    PAUSED = "paused"
    POSTCOPY = "postcopy"
    POSTCOPY_PAUSED = "postcopy-paused"
    HYPERVISOR_COMPLETED = "hypervisor-completed"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def type(self) -> JobType:
        """The public type. What only the hypervisor has done is not completed: the hosts are not."""
        match self:
            case JobStatus.NONE:
                return JobType.NONE
            case JobStatus.COMPLETED:
                return JobType.COMPLETED
            case JobStatus.FAILED:
                return JobType.FAILED
            case JobStatus.CANCELED:
                return JobType.CANCELLED
            case _:
                return JobType.UNBOUNDED


class JobChangeKind(StrEnum):
    """What has changed about a job. PROGRESS, when only figures have, is told and not kept."""

    STARTED = "started"
    PHASE = "phase"
    STATE = "state"
    ITERATION = "iteration"
    ERROR = "error"
    DECISION = "decision"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PROGRESS = "progress"

    @property
    def is_end(self) -> bool:
        """Nothing follows it."""
        return self in (JobChangeKind.COMPLETED, JobChangeKind.FAILED, JobChangeKind.CANCELLED)


class JobStep(StrEnum):
    """What begins with a change, although the record stays what it is: the parts of a transfer that come one by one."""

    NONE = ""
    DISKS = "disks"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class JobChange:
    """One change of a job, `at_s` seconds since the epoch by its host's clock.

    `sequence` grows from change to change over all jobs of the host, through restarts of its daemon. The rest is what the
    job was right after it; `figures` is None while nothing is known of the transfer. `reason` and `step` are a decision's:
    what was decided, and why, and what began with it.
    """

    sequence: int
    kind: JobChangeKind
    at_s: float
    state: str
    phase: Phase
    iteration: int = 0
    error: str = ""
    figures: ChangeFigures | None = None
    reason: str = ""
    step: JobStep = JobStep.NONE


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of a migration's progress: the phase, what happens in it in a few words, and the figures."""

    migration_id: MigrationId
    phase: Phase
    step: str = ""
    statistics: Statistics = field(default_factory=Statistics)


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """What a daemon knows of one domain. Sizes in bytes; `id` is None for a domain that is not active."""

    uuid: str
    name: str
    domain_type: str
    state: DomainState
    reason: StateReason
    persistent: bool
    memory_bytes: int
    vcpus: int
    id: int | None = None
    migration_id: MigrationId | None = None


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """Something that happened to a domain, `at_s` seconds since the epoch by its host's clock.

    `missed` is how many events before this one were lost, because whoever watches was too slow for them.
    """

    kind: DomainEventKind
    detail: DomainEventDetail
    domain_name: str
    domain_uuid: str
    at_s: float
    migration_id: MigrationId | None = None
    missed: int = 0


@dataclass(frozen=True, slots=True)
class JobInfo:
    """One migration as one host knows it. `state` is the journal record's word; times are seconds since the epoch.

    It has ended when `ended_s` is set; its domain is free by then. `elapsed_ms` is measured by a clock that never goes
    backwards. `took_ms` has the phases of both hosts, as far as this one knows of them, and `coordination_ms` what passed
    between them after the transfer. `changes` are the oldest first.
    `data_channel` says in words which way the guest's data goes, once the source knows; `warnings` are for the user.
    `flags` and `settings` are what it was asked for with: libvirt's numbers, and typed parameters under libvirt's names.
    """

    migration_id: MigrationId
    side: Side
    operation: JobOperation
    type: JobType
    domain_name: str
    domain_uuid: str
    state: str
    phase: Phase
    started_s: float
    ended_s: float | None = None
    error: str = ""
    statistics: Statistics = field(default_factory=Statistics)
    status: JobStatus = JobStatus.NONE
    elapsed_ms: int = 0
    error_reason: str = ""
    peer_uri: str = ""
    took_ms: Mapping[Phase, int] = field(default_factory=dict)
    changes: tuple[JobChange, ...] = ()
    coordination_ms: int = 0
    data_channel: str = ""
    warnings: tuple[str, ...] = ()
    flags: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A change of a job as it is told: the job right after it, and what was known of it then.

    For PROGRESS, `sequence` is that of the change before it; `reason` is a DECISION's.
    """

    sequence: int
    kind: JobChangeKind
    at_s: float
    job: JobInfo
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HostInfo:
    """Who answers: vmferry's version there, the host's name and UUID, its clock, and when its certificate ends (0: none)."""

    version: str
    host_name: str
    host_uuid: str
    wall_clock_s: float = 0.0
    certificate_ends_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """A driver of a host. `unavailable` says why it does not work there; empty when it does."""

    name: str
    version: str = ""
    domain_types: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    unavailable: str = ""


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """What a host can do: its drivers, and the numbers of the features that its daemon announces."""

    drivers: tuple[DriverInfo, ...]
    features: tuple[int, ...]
