"""What a host can see of a guest, without I/O: the material that `whereabouts` judges."""

from __future__ import annotations

from dataclasses import dataclass

from vmferry.disks import LockState as LockState  # noqa: PLC0414 - beside what it is said of
from vmferry.model import DomainInfo, MigrationId, Resolution, Side


@dataclass(frozen=True, slots=True)
class RecordEvidence:
    """One side's record of one migration. `state` is the journal's word; times are seconds since the epoch.

    A direct migration has no `peer_uri`, and `receiver_uri` is where a hypervisor without a daemon receives the guest.
    """

    migration_id: MigrationId
    side: Side
    state: str
    settled: bool
    domain_name: str
    domain_uuid: str
    peer_uri: str
    started_s: float
    ended_s: float | None = None
    error: str = ""
    resolution: Resolution | None = None
    receiver_uri: str = ""


@dataclass(frozen=True, slots=True)
class CopyEvidence:
    """A guest's execution on a host. `run_state` and `transfer_state` are the driver's words; `unknown` when it is silent.

    A copy that is not `managed` was started by somebody else, or lost by the daemon. `process_id` is None when it is no
    process.
    """

    driver: str
    run_state: str
    transfer_state: str = "none"
    detail: str = ""
    process_id: int | None = None
    managed: bool = True


@dataclass(frozen=True, slots=True)
class ImageEvidence:
    """A disk's image and its locks. `holders` are processes of the host that looked, where they can be told."""

    path: str
    state: LockState
    holders: tuple[int, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HostEvidence:
    """All that one host can see of a guest. `problems` is what it could not look at, and why.

    `machine` is the same for all daemons of one machine, which see each other's processes; empty when it is not known.
    """

    host_name: str
    host_uuid: str
    domain: DomainInfo | None = None
    records: tuple[RecordEvidence, ...] = ()
    copies: tuple[CopyEvidence, ...] = ()
    images: tuple[ImageEvidence, ...] = ()
    problems: tuple[str, ...] = ()
    machine: str = ""
