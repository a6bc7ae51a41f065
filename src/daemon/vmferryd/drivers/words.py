"""What a transfer does, how much of a guest it has brought, and how its pages ended. Pure: what decides may know it."""

from __future__ import annotations

from enum import StrEnum


class TransferState(StrEnum):
    """What a guest's transfer does right now; NONE when there has been none."""

    NONE = "none"
    ACTIVE = "active"
    HELD = "held"
    COMPLETING = "completing"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    POSTCOPY_ACTIVE = "post-copy-active"
    POSTCOPY_PAUSED = "post-copy-paused"
    POSTCOPY_RECOVER = "post-copy-recover"

    @property
    def in_postcopy(self) -> bool:
        """The receiver may run with pages missing."""
        return self in (TransferState.POSTCOPY_ACTIVE, TransferState.POSTCOPY_PAUSED, TransferState.POSTCOPY_RECOVER)


class Extent(StrEnum):
    """How much of a guest has come to the receiver: all of it, or enough to run with pages missing."""

    WHOLE = "whole"
    RUNNABLE = "runnable"


class PagesEnd(StrEnum):
    """How the flow of missing pages ended.

    WHOLE: all are at the receiver. CUT: the hypervisors wait for a new way. GONE: this host's hypervisor died, or gave up.
    """

    WHOLE = "whole"
    CUT = "cut"
    GONE = "gone"


class EventKind(StrEnum):
    """What a guest reports by itself. Events only wake; a probe is the authority."""

    STOPPED = "stopped"
    RESUMED = "resumed"
    SHUT_DOWN = "shut-down"
    CRASHED = "crashed"
    IO_ERROR = "io-error"
    TRANSFER = "transfer"
    ITERATION = "iteration"
    PAUSE_LIMIT = "pause-limit"
    STUCK = "stuck"
    GONE = "gone"
