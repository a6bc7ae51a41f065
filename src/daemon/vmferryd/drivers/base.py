"""What a hypervisor driver is.

Vocabulary
----------

guest
    A domain's execution: a QEMU process, or its simulation. A guest outlives the daemon that started it.
plan
    Where a guest will live, decided before anything exists: a `GuestPlan` is plain data. It is written to the journal
    first, then the guest is started from it; so whatever a crash leaves behind can be found, adopted, or removed.
channel
    A connected stream socket that carries a migration's bytes in both directions. What is at its other end (a tunnel
    through the daemons, or the peer's hypervisor itself) is not the driver's business. A driver that accepts a channel
    owns it.
held
    The source has sent all but the last part, and its CPUs stand still. Without the last part the destination cannot run.
let go
    The last part is sent. From here the source cannot decide alone (handover rule 2).
received
    The destination has loaded the whole state; its CPUs have not started.
post-copy
    The receiver's CPUs run while pages are missing; it fetches them from the sender. What is sent last then makes the guest
    *runnable*, not whole. A *cut* of the way leaves both hypervisors waiting for a new one, and neither copy alone is whole.
bare
    A hypervisor that listens for a guest without a daemon. Its command line says whether it starts the CPUs by itself.

Rules
-----

* Mechanism only: no phases, protocol numbers, retries, journal or peers.
* A handle exists only where its verbs make sense: an outgoing guest cannot be asked for its arrival.
* Closing a handle closes the monitor, never the guest.
* Every verb may be called twice; the second call finds the work done and succeeds.
* Two ways to fail: `DriverRefused` (nothing happened) and `DriverLost` (it may have; probe). The waits of a transfer can
  also end in `TransferFailed`, with the hypervisor's own words.
* No default bodies. What a driver cannot do it says in its `DriverCapabilities`, and the phase refuses before it starts.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from vmferry.errors import Violation
from vmferry.evidence import ImageEvidence
from vmferry.model import Statistics
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.copies import DiskCopy
from vmferryd.drivers.fate import Fate
from vmferryd.drivers.settings import Parallel as Parallel  # noqa: PLC0414 - one of a driver's words
from vmferryd.drivers.settings import ReceiveSettings as ReceiveSettings  # noqa: PLC0414 - one of a driver's words
from vmferryd.drivers.settings import SendSettings as SendSettings  # noqa: PLC0414 - one of a driver's words
from vmferryd.drivers.settings import Tls as Tls  # noqa: PLC0414 - one of a driver's words
from vmferryd.drivers.settings import Tuning as Tuning  # noqa: PLC0414 - one of a driver's words
from vmferryd.drivers.words import EventKind as EventKind  # noqa: PLC0414 - one of a driver's words
from vmferryd.drivers.words import Extent as Extent  # noqa: PLC0414 - one of a driver's words
from vmferryd.drivers.words import PagesEnd as PagesEnd  # noqa: PLC0414 - one of a driver's words
from vmferryd.drivers.words import TransferState as TransferState  # noqa: PLC0414 - one of a driver's words


class DriverFeature(StrEnum):
    """What a driver may be able to do. A flag or parameter that needs one names it."""

    LIVE = "live"
    AUTO_CONVERGE = "auto-converge"
    XBZRLE = "xbzrle"
    RETURN_PATH = "return-path"
    DROPS_CACHES = "drops-caches-at-switchover"
    ACPI_SHUTDOWN = "acpi-shutdown"
    BARE_RECEIVER = "bare-receiver"
    POSTCOPY = "post-copy"
    PAGES_ON_DEMAND = "pages-on-demand"
    COPIES_DISKS = "copies-disks"
    PARALLEL = "parallel"
    PARALLEL_ZLIB = "parallel-zlib"
    PARALLEL_ZSTD = "parallel-zstd"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class DriverCapabilities:
    """What the driver found on this host. `version` is the hypervisor's, as it prints it."""

    name: str
    version: str
    domain_types: frozenset[str]
    features: frozenset[DriverFeature]
    machines: frozenset[str] = frozenset()


class RunState(StrEnum):
    """What a guest does right now."""

    RUNNING = "running"
    PAUSED = "paused"
    INCOMING = "incoming"
    HELD = "held"
    GONE_OVER = "gone-over"
    SHUT_DOWN = "shut-down"
    CRASHED = "crashed"
    IO_ERROR = "io-error"
    GONE = "gone"

    @property
    def executes(self) -> bool:
        """Its CPUs run."""
        return self is RunState.RUNNING


@dataclass(frozen=True, slots=True)
class GuestProbe:
    """A look at a guest. Reading it changes nothing. `blockers` keep it from being sent, in the hypervisor's words."""

    run_state: RunState
    transfer_state: TransferState
    detail: str = ""
    blockers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sighting:
    """An execution of a domain, seen from outside. `directory` is its plan's, where that can be told."""

    directory: Path | None
    process_id: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class GuestEvent:
    """One report. `at_s` is the host's monotonic clock; `detail` is free text.

    For GONE it is what the process said last; for PAUSE_LIMIT why it is that now, for STUCK why a transfer does not end.
    """

    kind: EventKind
    at_s: float
    detail: str = ""


Listener = Callable[[GuestEvent], None]
"""Called from the event loop; must not block and must not raise."""


class StartMode(StrEnum):
    """How a guest is started."""

    RUNNING = "running"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """Where a guest will live. Plain data: it survives in the journal as JSON.

    `directory` is the guest's own run-time folder, made by the driver and removed by `discard`. `facts` are the driver's
    (socket paths, tap names, process marks).
    """

    driver: str
    domain_uuid: str
    directory: Path
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BareReceiver:
    """A hypervisor that receives a guest by itself.

    `address` is where it listens, as `tcp:host:port` or `unix:/path`; its sockets lie in `directory`, which may be the empty
    path: where it is started. `on_arrival` is what becomes of the guest's CPUs.
    """

    address: str
    directory: Path = Path()
    on_arrival: StartMode = StartMode.RUNNING


class OutgoingGuest(Protocol):
    """A guest that is being sent. Obtained from `Guest.outgoing`; one at a time."""

    def disk_socket(self, target: str) -> Path:
        """The UNIX socket at which the hypervisor looks for the other end of the disk's channel."""
        ...

    async def begin(self) -> None:
        """What is tuned from now on is this attempt's alone: `cancel` puts back what held before. The first verb of each."""
        ...

    async def copy_disks(self, copies: Sequence[DiskCopy], settings: SendSettings) -> None:
        """The disks are at the receiver but for what the guest goes on writing, which follows until `held`.

        Before `send`. The guest's own images are never changed by it.

        Raises:
            DriverRefused, TransferFailed: a disk cannot be copied; `cancel` is owed.
        """
        ...

    async def send(self, channel: socket.socket | Path, settings: SendSettings) -> None:
        """The transfer has begun and goes on by itself; the driver owns `channel`.

        With `settings.parallel` the channel is the path of a UNIX socket that the hypervisor connects to by itself, once for
        each connection that it needs.

        Raises:
            DriverRefused: the guest is as it was; `channel` stays the caller's.
            DriverLost: it may have begun; `cancel`.
        """
        ...

    async def held(self) -> None:
        """All but the last part is sent, and the CPUs stand still until `let_go` or `cancel`.

        Guarantees: disks that were copied are the same at both ends, and nothing connects them any more.

        Raises:
            TransferFailed: the transfer is over; CPUs that ran before it run (or `cancel` makes them).
            DriverLost: the guest may be gone.
        """
        ...

    async def start_postcopy(self) -> None:
        """The transfer is held as soon as it can be, however much is left: the last part makes the guest runnable.

        A transfer with nothing left by then is held as any other.

        Raises:
            DriverRefused: it was not begun for post-copy, or has ended; nothing has changed.
        """
        ...

    async def let_go(self) -> Extent:
        """The last part is sent, and the receiver has acknowledged the whole where the hypervisor can tell.

        RUNNABLE after `start_postcopy`: the last part is on its way, and pages follow.

        Guarantees: the CPUs do not run here, on success and on failure.

        Raises:
            DriverRefused: the transfer is not held; nothing was sent.
            TransferFailed, DriverLost: the receiver may hold everything.
        """
        ...

    async def cancel(self) -> None:
        """No transfer is going on, and nothing more is sent, of disks neither.

        Guarantees: the CPUs run if they ran before `send` and `let_go` was not called, unless an I/O error or `Guest.pause`
        has stopped them since; after `let_go` they stand still, and only `Guest.resume` starts them.
        """
        ...

    async def served(self) -> PagesEnd:
        """How the flow of pages ended, of an earlier daemon's transfer too; waits for it. What was cut is CUT at once.

        Raises:
            DriverLost: the hypervisor does not answer, and may live.
        """
        ...

    async def cut(self) -> None:
        """The flow of pages is cut, if it went on; both hypervisors wait for a new way.

        Raises:
            DriverRefused: no pages flow, and none were cut.
        """
        ...

    async def send_again(self, channel: socket.socket) -> None:
        """Pages that the receiver misses go through `channel`, which the driver owns.

        Raises:
            DriverRefused: nothing was sent, and `channel` stays the caller's: the flow was not cut, or cannot go on.
            DriverLost: it may have begun.
        """
        ...

    async def fate(self) -> Fate:
        """What can be proved of the last part, also for a transfer that an earlier daemon began. Changes nothing.

        Raises:
            DriverLost: the guest does not answer, or is gone.
        """
        ...

    async def statistics(self) -> Statistics:
        """The figures now; the last known ones after the end."""
        ...


class Guest(Protocol):
    """A live guest."""

    @property
    def plan(self) -> GuestPlan:
        """What it was started from."""
        ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """`listener` hears every event from now on, until the returned function is called."""
        ...

    async def probe(self) -> GuestProbe:
        """What the guest does now. A guest that does not exist any more answers GONE; this never raises for that."""
        ...

    async def devices(self) -> Mapping[str, str]:
        """What the host allotted at start, by device alias: pty paths, the VNC port. Empty when nothing was."""
        ...

    async def tuning(self) -> Tuning:
        """What the guest's transfer obeys now; while there is none, what the next one will, so far as the guest keeps it."""
        ...

    async def tune(self, change: Tuning) -> None:
        """The running transfer obeys the values that are given, until its end; without one, the next transfers do.

        Guarantees: when a transfer ends, everything is as it was before it began.

        Raises:
            DriverRefused: a value is impossible, or this hypervisor has no such thing; nothing has changed.
        """
        ...

    async def pause(self) -> None:
        """The CPUs stand still; a transfer that goes on does not start them when it is cancelled."""
        ...

    async def resume(self) -> None:
        """The CPUs run; on a received guest this also takes over its disks."""
        ...

    async def shutdown(self) -> None:
        """The guest has been asked to shut down; whether it obeys is its own business."""
        ...

    async def destroy(self) -> None:
        """The guest and everything in its plan's directory are gone."""
        ...

    def outgoing(self) -> OutgoingGuest:
        """The handle for sending this guest; also for a transfer that an earlier daemon began."""
        ...

    def incoming(self) -> IncomingGuest:
        """The handle for the pages that a guest misses which runs already; also when an earlier daemon accepted it."""
        ...

    async def close(self) -> None:
        """The monitor is closed; the guest is untouched."""
        ...


class IncomingGuest(Protocol):
    """A guest that waits for its state."""

    @property
    def guest(self) -> Guest:
        """The same guest through the ordinary verbs; `resume` only after `received`."""
        ...

    @property
    def landings(self) -> Mapping[str, Path]:
        """The channels besides the main one for which it listens, each at a UNIX socket; constant."""
        ...

    async def receive(self, channel: socket.socket) -> None:
        """The guest reads its state from `channel`, which the driver owns from now on.

        One that is sent in parallel has listened since it was accepted: see `landings`.

        Raises:
            DriverRefused: nothing was read; `channel` stays the caller's.
        """
        ...

    async def received(self) -> Extent:
        """The state is loaded, so far as the guest could run, and the CPUs have not started. RUNNABLE: pages are missing.

        Nobody writes to its disks from outside any more.

        Raises:
            TransferFailed: it never will be; `detail` has the hypervisor's own words.
        """
        ...

    async def put_away(self) -> None:
        """Nothing of the arrival is left at the guest, so far as that can be; never raises. It is not sent before that."""
        ...

    async def pulled(self) -> PagesEnd:
        """How the flow of missing pages ended. Waits for it, and never raises for it; one that was cut is CUT at once.

        Raises:
            DriverLost: the hypervisor does not answer, and may live.
        """
        ...

    async def cut(self) -> None:
        """The flow of missing pages is cut, if it went on; the guest runs until it needs one.

        Raises:
            DriverRefused: no pages flow, and none were cut.
        """
        ...

    async def receive_again(self, channel: socket.socket) -> None:
        """Missing pages come through `channel`, which the driver owns.

        Raises:
            DriverRefused: nothing was read, and `channel` stays the caller's: the flow was not cut, or cannot go on.
            DriverLost: it may have begun.
        """
        ...


class Driver(Protocol):
    """A kind of hypervisor on this host."""

    @property
    def name(self) -> str:
        """The name in the configuration and in plans."""
        ...

    async def capabilities(self) -> DriverCapabilities:
        """What this host's hypervisor can do."""
        ...

    async def check(self, definition: DomainDefinition) -> tuple[Violation, ...]:
        """Everything that would keep this definition from starting here now; empty when nothing is known."""
        ...

    async def settle(self, definition: DomainDefinition) -> DomainDefinition:
        """The same guest with everything explicit: device aliases and addresses, the versioned machine.

        Guarantees: what is settled is built identically by every host, and settling it again changes nothing.

        Raises:
            HostIncompatible: this host cannot build it; `violations` says why.
        """
        ...

    def plan(self, definition: DomainDefinition) -> GuestPlan:
        """A plan for one execution of this definition; nothing exists yet. No two plans are alike."""
        ...

    async def start(self, plan: GuestPlan, definition: DomainDefinition, mode: StartMode) -> Guest:
        """A fresh guest exists, running or paused.

        Raises:
            DriverRefused: nothing is left of it; `detail` has what the hypervisor said.
        """
        ...

    async def accept(self, plan: GuestPlan, definition: DomainDefinition, settings: ReceiveSettings) -> IncomingGuest:
        """A guest exists that waits for its state.

        Raises:
            DriverRefused: nothing is left of it; `detail` has what the hypervisor said.
        """
        ...

    async def attach(self, plan: GuestPlan) -> Guest | None:
        """The guest that an earlier daemon started from this plan, or None when it does not exist any more."""
        ...

    async def receiver(self, definition: DomainDefinition, receiver: BareReceiver) -> tuple[str, ...]:
        """The words of a command line that receives this guest where no daemon is. Nothing is started.

        Raises:
            DriverRefused: guests of this driver have none.
        """
        ...

    async def discard(self, plan: GuestPlan) -> None:
        """Nothing is left of this plan: no process, no socket, no file. Also when it was never carried out."""
        ...

    async def sightings(self, domain_uuid: str) -> tuple[Sighting, ...]:
        """Every execution of that domain on this host, whoever started it. Only looks, and opens no monitor.

        Raises:
            DriverLost: it could not be looked in time.
        """
        ...

    async def images(self, definition: DomainDefinition) -> tuple[ImageEvidence, ...]:
        """The images that a running guest of this definition writes to, and who holds them. Only looks, and takes no lock."""
        ...

    async def close(self) -> None:
        """Every monitor is closed; the guests are untouched."""
        ...
