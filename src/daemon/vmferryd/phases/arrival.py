"""What comes to the destination without a guest: where the images go, and what keeps them from it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

from vmferry.errors import InvalidParameter, NotSupported, Violation
from vmferry.flags import STORAGE, Flag
from vmferryd.domains.copying import ImageFacts, Refusal, select
from vmferryd.domains.devices import DiskFormat, DiskType
from vmferryd.domains.model import DomainDefinition
from vmferryd.jobs.job import Cargo, cargo
from vmferryd.phases.admission import Objection
from vmferryd.phases.cookie import Cookie
from vmferryd.phases.departure import objections_to
from vmferryd.transfer.images import Blank, capacity_of, obstacles, short_of_space


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


@dataclass(frozen=True, slots=True)
class GuestArrival:
    """What comes with a running guest: the disks to be copied, and those of their images that have to be made first."""

    targets: tuple[str, ...] = ()
    blanks: tuple[Blank, ...] = ()
    objections: tuple[Objection, ...] = ()


async def arriving_with_guest(
    definition: DomainDefinition, images: tuple[ImageFacts, ...] | None, flags: Flag, names: tuple[str, ...]
) -> GuestArrival:
    """Where the announced disks of a running guest go, and what keeps one from it. Both sides choose by the same rule."""
    if not flags & STORAGE:
        return GuestArrival()
    if images is None:
        text, remedy = "it does not name the disks to copy", "hand Prepare the cookie of Begin, with the same flags"
        return GuestArrival(objections=(Objection(InvalidParameter, Violation("cookie", text, remedy)),))
    placed, missing = _placed(definition, images)
    blanks, found = await asyncio.to_thread(_blanks, definition, placed, flags)
    chosen = {disk.target for disk in select(definition, names).disks}
    for target in sorted(chosen ^ {image.target for image in images}):
        missing.append(Refusal(target, "only one of the two hosts would copy it", "name the disks in migrate_disks"))
    return GuestArrival(tuple(image.target for image in images), blanks, objections_to((*missing, *found)))


def _blanks(
    definition: DomainDefinition, placed: list[tuple[str, ImageFacts]], flags: Flag
) -> tuple[tuple[Blank, ...], list[Refusal]]:
    """The images that have to be made, and what speaks against those that are there, or cannot be made."""
    forms = {disk.source_path: disk.format for disk in definition.devices.disks}
    absent = [(path, image) for path, image in placed if not os.path.lexists(path)]
    refusals = [
        refusal for path, image in placed if (path, image) not in absent for refusal in _unfit(path, forms[path], image)
    ]
    if Flag.NON_SHARED_INC in flags:
        remedy = "make the overlay there first, with `qemu-img create -b`, or use NON_SHARED_DISK"
        refusals += [Refusal(image.target, f"{path} is not there to take the top image", remedy) for path, image in absent]
        return (), refusals
    refusals += [*_on_disk(absent), *short_of_space(absent)]
    return tuple(Blank(path, forms[path], image.size_bytes) for path, image in absent), refusals


def _unfit(path: str, form: DiskFormat, image: ImageFacts) -> Iterator[Refusal]:
    """What keeps an image that is there from taking the disk."""
    try:
        size_bytes = capacity_of(path, form)
    except OSError as error:
        yield Refusal(image.target, f"{path} cannot be read: {error.strerror}", "check the path and its permissions")
        return
    if size_bytes != image.size_bytes:
        text = f"{path} is there already with {size_bytes} bytes, and the disk has {image.size_bytes}"
        yield Refusal(image.target, text, "remove it, so that it is made anew, or give it the disk's size")


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
