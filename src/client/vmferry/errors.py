"""Everything that can go wrong, as data.

::

    VmferryError
    ├── InvalidParameter          the request itself is wrong; fix it
    │   └── DefinitionInvalid     the domain XML is refused, with every finding
    ├── NotFound
    │   ├── DomainNotFound
    │   └── MigrationNotFound
    ├── AlreadyExists             a domain of that name or UUID is there
    ├── InvalidState              the domain is not in a state that allows this
    ├── DomainBusy                another job holds the domain; its holder is named
    ├── PhaseOutOfOrder           the phase does not follow the one before
    ├── CookieRefused             the cookie is of another migration, malformed, or demands what we do not know
    ├── AddressUnavailable        a place to listen at is taken, or none of this host
    ├── NotSupported              this driver or daemon cannot do that
    ├── NoCommonProtocol          the two daemons share no migration protocol
    ├── HostIncompatible          the destination cannot run this guest
    ├── MigrationUnsafe           the guest's disks are not safe to hand over
    ├── PermissionRefused         the caller may not do that
    ├── PeerUnreachable           nothing happened; nobody answered
    ├── FateUnknown               it may have happened; ask for the outcome, never assume
    ├── InDoubt                   both copies are kept until the other host can be asked
    ├── MigrationAborted          the destination wrote a tombstone: this migration will never be committed
    ├── MigrationCancelled        a user or a lost coordinator ended it
    ├── TransferFailed            the data did not arrive
    │   ├── StreamTruncated       the stream ended without its last frame
    │   └── TransferStopped       the source ended it, for a reason that it knows
    ├── TimedOut                  a bounded wait ran out
    ├── DriverRefused             the hypervisor said no; nothing happened
    ├── DriverLost                the hypervisor's monitor went away; it may have happened
    ├── StorageFailed             the journal cannot be written or read
    └── InternalError             a defect of vmferry

Each class has a `reason`, the machine-readable identity that travels in `google.rpc.ErrorInfo`; no two classes share one.
Facts are attributes, and the text is built from them; nobody decides anything by reading text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from vmferry.model import GuestLocation, MigrationId, Phase

DOMAIN = "vmferry"
"""The `domain` of every `google.rpc.ErrorInfo` that vmferry sends."""


class Code(Enum):
    """The canonical status codes, by their gRPC numbers."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15


@dataclass(frozen=True, slots=True)
class Violation:
    """One of several things that are wrong: where, what, and what helps."""

    subject: str
    description: str
    remedy: str = ""

    def __str__(self) -> str:
        """One line."""
        tail = f" ({self.remedy})" if self.remedy else ""
        return f"{self.subject}: {self.description}{tail}"


class VmferryError(Exception):
    """Anything that vmferry reports on purpose.

    Args:
        message: one sentence, without a trailing period.
        remedy: what the reader can do about it; empty when there is nothing.
        violations: all findings, when there is more than one.
        migration_id: the migration that this belongs to.
        phase: the phase in which it happened.
        guest: where the guest is now; None when no guest is concerned.
        host: the host name of the daemon that says so.
        detail: what the hypervisor or the peer said, in its own words.
    """

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = "VMFERRY_ERROR"

    def __init__(  # noqa: PLR0913 - each is a fact of its own
        self,
        message: str,
        *,
        remedy: str = "",
        violations: tuple[Violation, ...] = (),
        migration_id: MigrationId | None = None,
        phase: Phase | None = None,
        guest: GuestLocation | None = None,
        host: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.violations = violations
        self.migration_id = migration_id
        self.phase = phase
        self.guest = guest
        self.host = host
        self.detail = detail

    def located(
        self,
        *,
        migration_id: MigrationId | None = None,
        phase: Phase | None = None,
        guest: GuestLocation | None = None,
        host: str = "",
    ) -> VmferryError:
        """The same error; facts that it did not have yet are filled in. The first word stands."""
        self.migration_id = self.migration_id or migration_id
        self.phase = self.phase or phase
        self.guest = self.guest or guest
        self.host = self.host or host
        return self

    def facts(self) -> Mapping[str, str]:
        """Every variable part, for `ErrorInfo.metadata`; empty ones are left out."""
        named = {
            "migration_id": self.migration_id,
            "phase": self.phase,
            "guest": self.guest,
            "host": self.host,
            "remedy": self.remedy,
            "detail": self.detail,
        }
        return {name: str(value) for name, value in named.items() if value}

    def __str__(self) -> str:
        """The message, then each finding on its own line."""
        return "\n".join([self.message, *(f"  {violation}" for violation in self.violations)])


class InvalidParameter(VmferryError):
    """The request itself is wrong. Nothing happened."""

    code = Code.INVALID_ARGUMENT
    reason = "PARAMETER_INVALID"


class DefinitionInvalid(InvalidParameter):
    """The domain XML is refused; `violations` has every finding. Nothing happened."""

    reason = "DEFINITION_INVALID"


class NotFound(VmferryError):
    """What was named does not exist here."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"


class DomainNotFound(NotFound):
    """No domain of that name or UUID."""

    reason = "DOMAIN_NOT_FOUND"


class MigrationNotFound(NotFound):
    """This daemon has no record of that migration."""

    reason = "MIGRATION_NOT_FOUND"


class AlreadyExists(VmferryError):
    """A domain of that name or UUID is there already. Nothing happened."""

    code = Code.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class InvalidState(VmferryError):
    """The domain is not in a state that allows this. Nothing happened."""

    code = Code.FAILED_PRECONDITION
    reason = "STATE_INVALID"


class DomainBusy(VmferryError):
    """Another job holds the domain; the message names it. Nothing happened."""

    code = Code.ABORTED
    reason = "DOMAIN_BUSY"


class PhaseOutOfOrder(VmferryError):
    """The phase does not follow the ones that have run. Nothing happened."""

    code = Code.FAILED_PRECONDITION
    reason = "PHASE_OUT_OF_ORDER"


class CookieRefused(VmferryError):
    """The cookie is malformed, of another migration, or demands what this daemon does not know. Nothing happened."""

    code = Code.INVALID_ARGUMENT
    reason = "COOKIE_REFUSED"


class AddressUnavailable(VmferryError):
    """An address or port to listen at is taken, or is none of this host. Nothing is left of what was begun."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "ADDRESS_UNAVAILABLE"


class NotSupported(VmferryError):
    """This driver or daemon cannot do that. Nothing happened."""

    code = Code.UNIMPLEMENTED
    reason = "NOT_SUPPORTED"


class NoCommonProtocol(VmferryError):
    """The two daemons share no migration protocol. Nothing happened."""

    code = Code.FAILED_PRECONDITION
    reason = "NO_COMMON_PROTOCOL"


class HostIncompatible(VmferryError):
    """The destination cannot run this guest; `violations` has every mismatch. Nothing happened."""

    code = Code.FAILED_PRECONDITION
    reason = "HOST_INCOMPATIBLE"


class MigrationUnsafe(VmferryError):
    """The guest's disks could lose data on the way; `violations` has each of them, and UNSAFE overrides. Nothing happened."""

    code = Code.FAILED_PRECONDITION
    reason = "MIGRATE_UNSAFE"


class PermissionRefused(VmferryError):
    """The caller may not do that, or has not proved who it is. Nothing happened."""

    code = Code.PERMISSION_DENIED
    reason = "PERMISSION_REFUSED"


class PeerUnreachable(VmferryError):
    """Nobody answered, and nothing happened. Only calls that change nothing may say so."""

    code = Code.UNAVAILABLE
    reason = "PEER_UNREACHABLE"


class FateUnknown(VmferryError):
    """The reply was lost: it may have happened. Ask for the outcome; never assume.

    Its code is UNKNOWN so that no generic client retries it blindly.
    """

    code = Code.UNKNOWN
    reason = "FATE_UNKNOWN"


class InDoubt(VmferryError):
    """Past the point of no return the other host cannot be asked. Both copies are kept; a resolver goes on asking."""

    code = Code.UNAVAILABLE
    reason = "IN_DOUBT"


class MigrationAborted(VmferryError):
    """The destination's tombstone: this migration will never be committed there. The guest is at the source."""

    code = Code.ABORTED
    reason = "MIGRATION_ABORTED"


class MigrationCancelled(VmferryError):
    """A user asked for the end of this migration, or its coordinator went away. The guest is at the source."""

    code = Code.CANCELLED
    reason = "MIGRATION_CANCELLED"


class TransferFailed(VmferryError):
    """The guest's state did not arrive; `detail` has the hypervisor's own words."""

    code = Code.ABORTED
    reason = "TRANSFER_FAILED"


class StreamTruncated(TransferFailed):
    """The stream ended without its last frame."""

    code = Code.DATA_LOSS
    reason = "STREAM_TRUNCATED"


class TransferStopped(TransferFailed):
    """The source ended the transfer for a reason of its own, which the message names. The guest is at the source."""

    reason = "TRANSFER_STOPPED"


class TimedOut(VmferryError):
    """A bounded wait ran out; the message names the wait and its bound."""

    code = Code.DEADLINE_EXCEEDED
    reason = "TIMED_OUT"


class DriverRefused(VmferryError):
    """The hypervisor said no. Nothing happened."""

    code = Code.FAILED_PRECONDITION
    reason = "HYPERVISOR_REFUSED"


class DriverLost(VmferryError):
    """The hypervisor or its monitor went away while it was asked. It may have happened: probe before you decide."""

    code = Code.UNKNOWN
    reason = "HYPERVISOR_LOST"


class StorageFailed(VmferryError):
    """The daemon's journal cannot be written or read. Nothing was touched that it does not record."""

    code = Code.DATA_LOSS
    reason = "STORAGE_FAILED"


class InternalError(VmferryError):
    """A defect of vmferry; quote the text in a report."""

    reason = "INTERNAL"


def tree() -> Iterator[type[VmferryError]]:
    """Every class of the tree, depth first, the root included."""

    def walk(node: type[VmferryError]) -> Iterator[type[VmferryError]]:
        yield node
        for child in node.__subclasses__():
            yield from walk(child)

    return walk(VmferryError)


BY_REASON: Mapping[str, type[VmferryError]] = {node.reason: node for node in tree()}
