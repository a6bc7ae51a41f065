"""What leaves the source: the definition that the guest gets, the one that the destination keeps, and where the disks are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from vmferry.endpoint import Request
from vmferry.errors import HostIncompatible, InvalidParameter, NotSupported, Violation
from vmferry.flags import STORAGE, Flag
from vmferry.model import Side
from vmferry.params import MigrationParams
from vmferryd.domains.compatibility import abi_differences
from vmferryd.domains.copying import ImageFacts, Refusal, select
from vmferryd.domains.devices import Disk, DiskType
from vmferryd.domains.entry import Entry, parse, violations
from vmferryd.domains.filesystems import Reach, reaches_of
from vmferryd.domains.model import DomainDefinition
from vmferryd.domains.safety import DiskFacts
from vmferryd.drivers.base import DriverCapabilities, DriverFeature
from vmferryd.jobs.job import Cargo, cargo
from vmferryd.phases import admission
from vmferryd.phases.admission import Objection, of_activity, of_disks
from vmferryd.phases.context import Context
from vmferryd.phases.found import Found
from vmferryd.phases.settings import asked
from vmferryd.transfer.images import capacity_of, examine

Settle = Callable[[DomainDefinition], Awaitable[DomainDefinition]]
"""A driver's way to make a definition explicit."""


@dataclass(frozen=True, slots=True)
class Departure:
    """`definition` is what the guest gets; `persistent` what is to be kept of it, None when only the guest's own could be.

    `images` are copied; None where disks are not the migration's business.
    """

    definition: DomainDefinition
    persistent: DomainDefinition | None
    objections: tuple[Objection, ...] = ()
    images: tuple[ImageFacts, ...] | None = None


async def departing(context: Context, entry: Entry, request: Request) -> Departure:
    """What leaves of a domain that can be moved as asked.

    Raises:
        InvalidState: its guest is to be moved, and it has none; or see `admission.refuse`.
        DefinitionInvalid: a replacement is refused, with every finding.
        InvalidParameter, NotSupported, HostIncompatible, MigrationUnsafe: see `admission.refuse`.
    """
    found = Found()
    departure = await examined(context, entry, request, found)
    found.refuse()
    return departure


async def examined(context: Context, entry: Entry, request: Request, found: Found) -> Departure:
    """What leaves of a domain; `found` has everything that speaks against it."""
    if Flag.OFFLINE in request.flags:
        return await _examined_offline(context, entry, request, found)
    driver = context.domains.driver(entry.definition)
    capabilities = context.drivers.capabilities(driver.name)
    found.hear(
        admission.of_request(Side.SOURCE, request.flags, asked(request), capabilities),
        admission.of_certificates(request.flags, context.doors.certificates),
    )
    with found.trying():
        probe = await context.domains.active(entry).probe()
        found.hear(admission.of_guest(entry.name, probe, request.flags, capabilities))
    departure = Departure(entry.definition, entry.persistent)
    with found.trying():
        departure = await leaving(entry, request.params, driver.settle)
    found.hear(departure.objections)
    if request.flags & STORAGE:
        with found.trying():
            departure = replace(departure, images=await _copied_live(entry.definition, request, found))
    if Flag.UNSAFE not in request.flags:
        copied = frozenset(image.target for image in departure.images or ())
        found.hear(of_disks(await disk_facts(entry.definition, capabilities, copied)))
    return departure


async def _copied_live(definition: DomainDefinition, request: Request, found: Found) -> tuple[ImageFacts, ...]:
    """The disks that are copied while their guest runs, with the sizes that the guest sees."""
    selection = select(definition, request.params.migrate_disks)
    files = tuple(disk for disk in selection.disks if disk.type is DiskType.FILE and disk.source_path is not None)
    images, problems = await images_of(files, request.flags & ~Flag.NON_SHARED_DISK)
    found.hear(objections_to(selection.refusals), problems)
    disks = {disk.target: disk for disk in files}
    return tuple([await asyncio.to_thread(_as_seen, disks[image.target], image, request.flags) for image in images])


def _as_seen(disk: Disk, image: ImageFacts, flags: Flag) -> ImageFacts:
    """With the disk's own size; of one that is copied whole nothing lies beneath the copy."""
    size_bytes = capacity_of(disk.source_path or "", disk.format)
    return replace(image, size_bytes=size_bytes, backing=image.backing if Flag.NON_SHARED_INC in flags else "")


async def _examined_offline(context: Context, entry: Entry, request: Request, found: Found) -> Departure:
    """Whether the guest runs matters to the images alone."""
    driver = context.domains.driver(entry.definition)
    capabilities = context.drivers.capabilities(driver.name)
    found.hear(admission.of_request(Side.SOURCE, request.flags, asked(request), capabilities))
    departure = Departure(entry.definition, None)
    with found.trying():
        departure = await leaving_offline(entry, request.params, driver.settle)
    found.hear(departure.objections)
    if cargo(request.flags) is Cargo.DISKS:
        with found.trying():
            selection = select(entry.definition, request.params.migrate_disks)
            images, problems = await images_of(selection.disks, request.flags)
            found.hear(of_activity(entry.name, entry.state), objections_to(selection.refusals), problems)
            departure = replace(departure, images=images)
    return departure


async def leaving(entry: Entry, params: MigrationParams, settle: Settle) -> Departure:
    """What `params` make of the domain; under its own name, for the destination renames it.

    A replacement of the live definition replaces the kept one too, unless that has a replacement of its own (as later
    releases of libvirt do).

    Raises:
        DefinitionInvalid: a replacement is refused, with every finding.
    """
    live, kept = await _replaced(params.destination_xml, settle), await _replaced(params.persistent_xml, settle)
    return Departure(
        live or entry.definition,
        kept or live or entry.persistent,
        (*_differences(entry, live, "destination_xml"), *_differences(entry, kept, "persistent_xml")),
    )


async def leaving_offline(entry: Entry, params: MigrationParams, settle: Settle) -> Departure:
    """What `params` make of a domain whose definition moves alone: what is sent is what the destination keeps.

    Raises:
        DefinitionInvalid: a replacement is refused, with every finding.
    """
    departure = await leaving(entry, params, settle)
    return Departure(departure.persistent or departure.definition, None, departure.objections)


async def images_of(disks: tuple[Disk, ...], flags: Flag) -> tuple[tuple[ImageFacts, ...], tuple[Objection, ...]]:
    """The images of `disks` as they are on this host's disks, and what keeps one from being copied."""
    whole = Flag.NON_SHARED_DISK in flags
    found = [await asyncio.to_thread(examine, disk, whole=whole) for disk in disks]
    images = tuple(image for image in found if isinstance(image, ImageFacts))
    return images, objections_to(image for image in found if isinstance(image, Refusal))


def objections_to(refusals: Iterable[Refusal]) -> tuple[Objection, ...]:
    """The same, as what speaks against a migration."""
    return tuple(
        Objection(
            InvalidParameter if refusal.is_mistake else NotSupported,
            Violation(f"disk {refusal.target}", refusal.problem, refusal.remedy),
        )
        for refusal in refusals
    )


async def _replaced(xml: str | None, settle: Settle) -> DomainDefinition | None:
    return await settle(parse(xml)) if xml else None


def _differences(entry: Entry, new: DomainDefinition | None, parameter: str) -> Iterator[Objection]:
    if new is None:
        return
    if new.name != entry.name:
        text = f"{parameter} calls the domain {new.name}, not {entry.name}"
        yield Objection(HostIncompatible, Violation("/domain/name", text, "rename it with destination_name"))
    for violation in violations(abi_differences(entry.definition, new)):
        text = f"in {parameter} {violation.description}"
        yield Objection(HostIncompatible, Violation(violation.subject, text, violation.remedy))


async def disk_facts(
    definition: DomainDefinition, driver: DriverCapabilities, copied: frozenset[str] = frozenset()
) -> Mapping[str, tuple[Disk, DiskFacts]]:
    """The disks by their targets, with what their safety depends on."""
    paths = [disk.source_path for disk in definition.devices.disks if disk.type is DiskType.FILE and disk.source_path]
    reaches = await asyncio.to_thread(reaches_of, paths)
    drops = DriverFeature.DROPS_CACHES in driver.features
    return {
        disk.target: (
            disk,
            replace(_facts(reaches.get(disk.source_path or "", Reach.LOCAL), drops), will_be_copied=disk.target in copied),
        )
        for disk in definition.devices.disks
    }


def _facts(reach: Reach, drops_caches: bool) -> DiskFacts:  # noqa: FBT001 - a fact of the table
    return DiskFacts(
        on_shared_filesystem=reach is not Reach.LOCAL,
        on_cluster_filesystem=reach is Reach.COHERENT,
        driver_can_drop_caches=drops_caches,
    )
