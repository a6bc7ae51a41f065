"""What leaves the source: the definition that the guest gets, the one that the destination keeps, and where the disks are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass

from vmferry.errors import HostIncompatible, Violation
from vmferry.params import MigrationParams
from vmferryd.domains.compatibility import abi_differences
from vmferryd.domains.devices import Disk, DiskType
from vmferryd.domains.entry import Entry, parse, violations
from vmferryd.domains.filesystems import Reach, reaches_of
from vmferryd.domains.model import DomainDefinition
from vmferryd.domains.safety import DiskFacts
from vmferryd.drivers.base import DriverCapabilities, DriverFeature
from vmferryd.phases.admission import Objection

Settle = Callable[[DomainDefinition], Awaitable[DomainDefinition]]
"""A driver's way to make a definition explicit."""


@dataclass(frozen=True, slots=True)
class Departure:
    """`definition` is what the guest gets; `persistent` what is to be kept of it, None when only the guest's own could be."""

    definition: DomainDefinition
    persistent: DomainDefinition | None
    objections: tuple[Objection, ...] = ()


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


async def disk_facts(definition: DomainDefinition, driver: DriverCapabilities) -> Mapping[str, tuple[Disk, DiskFacts]]:
    """The disks by their targets, with what their safety depends on."""
    paths = [disk.source_path for disk in definition.devices.disks if disk.type is DiskType.FILE and disk.source_path]
    reaches = await asyncio.to_thread(reaches_of, paths)
    drops = DriverFeature.DROPS_CACHES in driver.features
    return {
        disk.target: (disk, _facts(reaches.get(disk.source_path or "", Reach.LOCAL), drops))
        for disk in definition.devices.disks
    }


def _facts(reach: Reach, drops_caches: bool) -> DiskFacts:  # noqa: FBT001 - a fact of the table
    return DiskFacts(
        on_shared_filesystem=reach is not Reach.LOCAL,
        on_cluster_filesystem=reach is Reach.COHERENT,
        driver_can_drop_caches=drops_caches,
    )
