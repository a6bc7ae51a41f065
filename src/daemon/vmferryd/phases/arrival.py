"""What comes to the destination without a guest: where the images go, and what keeps them from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from vmferry.errors import InvalidParameter, NotSupported, Violation
from vmferry.flags import Flag
from vmferryd.domains.copying import ImageFacts, Refusal
from vmferryd.domains.devices import DiskType
from vmferryd.domains.model import DomainDefinition
from vmferryd.jobs.job import Cargo, cargo
from vmferryd.phases.admission import Objection
from vmferryd.phases.cookie import Cookie
from vmferryd.phases.departure import objections_to
from vmferryd.transfer.images import obstacles, short_of_space


@dataclass(frozen=True, slots=True)
class Arrival:
    """The paths of the images that come, in the order of their announcement."""

    paths: tuple[str, ...]
    objections: tuple[Objection, ...]


async def arriving(definition: DomainDefinition, cookie: Cookie) -> Arrival:
    """Where the announced images of the domain go, and what keeps one from being there."""
    placed, missing = _placed(definition, cookie.disks or ())
    found = await asyncio.to_thread(lambda: [*_on_disk(placed), *short_of_space(placed)])
    return Arrival(tuple(path for path, _ in placed), objections_to((*missing, *found)))


def announced_whole(flags: Flag, cookie: Cookie) -> Iterator[Objection]:
    """A source that asks for disks names them, and one that moves a definition can be asked for its release."""
    remedy = "hand Prepare the cookie of Begin, with the same flags"
    if (cargo(flags) is Cargo.DISKS) != (cookie.disks is not None):
        yield Objection(InvalidParameter, Violation("cookie", "it does not fit the flags that are about disks", remedy))
    if not cookie.daemon_uri or (cargo(flags) is Cargo.DEFINITION and not cookie.ticket):
        yield Objection(NotSupported, Violation("cookie", "it does not say how to reach the source", remedy))


def _placed(
    definition: DomainDefinition, images: tuple[ImageFacts, ...]
) -> tuple[list[tuple[str, ImageFacts]], list[Refusal]]:
    disks = {disk.target: disk for disk in definition.devices.disks}
    placed: list[tuple[str, ImageFacts]] = []
    missing: list[Refusal] = []
    for image in images:
        disk = disks.get(image.target)
        if disk is None or disk.type is not DiskType.FILE or disk.source_path is None:
            text = "its definition for the destination has no file to copy it to"
            missing.append(Refusal(image.target, text, "give it a file in destination_xml"))
        elif disk.source_path in {path for path, _ in placed}:
            missing.append(Refusal(image.target, f"{disk.source_path} is another disk's file, too", "give each its own"))
        else:
            placed.append((disk.source_path, image))
    return placed, missing


def _on_disk(placed: list[tuple[str, ImageFacts]]) -> Iterator[Refusal]:
    for path, image in placed:
        yield from obstacles(image.target, path, image)
