"""What the source's phases say when they refuse, do not know, or repeat an old answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from vmferry.endpoint import Request
from vmferry.errors import BY_REASON, CookieRefused, HostIncompatible, InDoubt, MigrationAborted, VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainState, GuestLocation, Phase, Side, SourceState
from vmferry.params import in_words
from vmferryd.domains import definition as domain_xml
from vmferryd.domains.compatibility import abi_differences
from vmferryd.domains.entry import Entry, parse, violations
from vmferryd.jobs.job import Cargo, cargo
from vmferryd.jobs.journal import Record
from vmferryd.phases.cookie import Cookie
from vmferryd.phases.departure import Departure
from vmferryd.transfer import tickets

GUEST_AT: Mapping[SourceState, GuestLocation] = {
    SourceState.BEGUN: GuestLocation.SOURCE,
    SourceState.PERFORMING: GuestLocation.SOURCE,
    SourceState.RELEASED: GuestLocation.IN_DOUBT,
    SourceState.CONFIRMED: GuestLocation.DESTINATION,
    SourceState.CANCELLED: GuestLocation.SOURCE,
    SourceState.SERVING: GuestLocation.DESTINATION,
    SourceState.SERVING_FAILED: GuestLocation.DESTINATION,
}
"""Where the guest is, by the source's record."""


def first_record(request: Request, entry: Entry, departure: Departure, now_s: float) -> Record:
    """The first record of a migration from here."""
    persistent = domain_xml.format(departure.persistent) if departure.persistent else ""
    offline = Flag.OFFLINE in request.flags
    return Record(
        migration_id=request.migration_id,
        side=Side.SOURCE,
        state=SourceState.BEGUN,
        domain_uuid=entry.uuid,
        domain_name=entry.name,
        started_s=now_s,
        flags=int(request.flags),
        settings=in_words(request.params),
        was_running=entry.state is DomainState.RUNNING,
        plan=None if offline else entry.plan,
        definition_xml=domain_xml.format(departure.definition),
        persistent_xml=persistent if Flag.PERSIST_DEST in request.flags else "",
        proof_secret=tickets.new_secret(),
        ticket=tickets.new_ticket() if cargo(request.flags) is Cargo.DEFINITION else b"",
        disks=departure.images,
    )


RECEIVER_REMEDY = "see what the receiver wrote; its command line has to be the one that `vmferry receiver` prints"
"""What helps when a receiver without a daemon has not taken the guest."""


def refuse_another_guest(cookie: Cookie, record: Record) -> None:
    """What waits at the destination is this guest, also if the destination took its definition from its own store."""
    if cookie.uuid != record.domain_uuid:
        raise CookieRefused(
            f"the destination waits for a domain with UUID {cookie.uuid}, not {record.domain_uuid}",
            remedy="define the same domain there, with its UUID",
        )
    if not cookie.definition_xml:
        return
    if differences := abi_differences(parse(record.definition_xml), parse(cookie.definition_xml)):
        raise HostIncompatible(
            "the definition that is stored at the destination would change the machine that the guest sees",
            violations=violations(differences),
            remedy="define the domain there as it runs here, or let both daemons announce protocol 2 or 3",
        )


def copied_targets(record: Record) -> tuple[str, ...]:
    """The disks that are copied while their guest runs."""
    return () if Flag.OFFLINE in Flag(record.flags) else tuple(image.target for image in record.disks or ())


_DOUBTS = {
    Cargo.GUEST: "the guest's last part was sent, and the destination does not say whether it took the guest",
    Cargo.DEFINITION: "the definition was released, and the destination does not say whether it keeps it",
    Cargo.DISKS: "the disks were sent, and the destination does not say whether it keeps them",
}


def in_doubt(record: Record, failure: VmferryError | None, host_name: str) -> InDoubt:
    """Past the point of no return nobody says what holds; `failure` is what led there."""
    message = _DOUBTS[cargo(Flag(record.flags))]
    remedy = (
        "nothing: this host goes on asking and keeps its paused copy; if the other host is gone for good, "
        "fence it and resolve the domain by hand"
    )
    if record.receiver_uri:
        message = f"the guest's last part was sent, and the receiver at {record.receiver_uri} has not acknowledged it"
        resolve = f"vmferry resolve {record.domain_name} --fenced"
        remedy = (
            f"look at that hypervisor. If the guest lives there: {resolve} --keep-there. "
            f"If it does not, end that hypervisor, and then: {resolve} --keep-here"
        )
    return InDoubt(
        message,
        remedy=remedy,
        migration_id=record.migration_id,
        guest=GuestLocation.IN_DOUBT,
        host=host_name,
        detail=str(failure or ""),
    )


def recorded(record: Record, host_name: str, phase: Phase) -> VmferryError:
    """The error with which a migration ended, from its record."""
    kind = BY_REASON.get(record.error_reason, MigrationAborted)
    return kind(
        record.error or "the migration was ended",
        migration_id=record.migration_id,
        phase=phase,
        guest=GuestLocation.SOURCE,
        host=host_name,
    )
