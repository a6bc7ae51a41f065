"""What the process exits with, so that a script knows where the guest is without reading text. Pure."""

from __future__ import annotations

from enum import IntEnum

from vmferry import errors
from vmferry.errors import VmferryError
from vmferry.model import GuestLocation, Phase


class ExitCode(IntEnum):
    """The answers that a script can tell apart."""

    DONE = 0
    OTHER = 1
    REFUSED = 2
    FAILED = 3
    IN_DOUBT = 4
    ALARM = 5
    NO_COPY = 6


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.OTHER: "wrong usage, or another error",
    ExitCode.REFUSED: "refused before anything happened",
    ExitCode.FAILED: "failed, and the guest is at the source",
    ExitCode.IN_DOUBT: "in doubt, or not at the source: ask both hosts before you start or stop anything",
    ExitCode.ALARM: "where: two copies run, or two hosts claim the guest",
    ExitCode.NO_COPY: "where: the guest runs nowhere, and no copy of it stands anywhere",
}

REFUSALS: tuple[type[VmferryError], ...] = (
    errors.InvalidParameter,
    errors.NotFound,
    errors.AlreadyExists,
    errors.InvalidState,
    errors.DomainBusy,
    errors.PhaseOutOfOrder,
    errors.CookieRefused,
    errors.NotSupported,
    errors.NoCommonProtocol,
    errors.HostIncompatible,
    errors.MigrationUnsafe,
    errors.PermissionRefused,
    errors.PeerUnreachable,
    errors.DriverRefused,
)
"""The classes that promise that nothing happened."""

_MAY_HAVE_HAPPENED = (errors.FateUnknown, errors.DriverLost)
_BEFORE_THE_TRANSFER = (None, Phase.BEGIN, Phase.PREPARE)
_ELSEWHERE = (GuestLocation.DESTINATION, GuestLocation.IN_DOUBT, GuestLocation.NOWHERE)


def exit_code(error: VmferryError) -> ExitCode:
    """The code that says most about where the guest is.

    A guest that is known to be at the source is not in doubt, whatever was lost on the way; a guest that is known to be
    elsewhere never exits with a code that lets a script believe it is at the source.
    """
    if isinstance(error, errors.InDoubt) or error.guest in _ELSEWHERE:
        return ExitCode.IN_DOUBT
    if isinstance(error, REFUSALS) and error.phase in _BEFORE_THE_TRANSFER:
        return ExitCode.REFUSED
    if error.guest is GuestLocation.SOURCE:
        return ExitCode.FAILED
    return ExitCode.IN_DOUBT if isinstance(error, _MAY_HAVE_HAPPENED) else ExitCode.OTHER


def help_text() -> str:
    """The codes as help for people."""
    return "\n".join(["Exit status:", *(f"  {code.value}  {meaning}" for code, meaning in MEANINGS.items())])
