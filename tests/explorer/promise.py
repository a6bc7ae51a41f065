"""What must hold in every world (the promise of the handover design), and which worlds are an end."""

from __future__ import annotations

from explorer.rules import Rules
from explorer.world import Copy, Told, World
from vmferry.model import DestinationState, SourceState


def broken_promise(world: World, rules: Rules) -> str | None:
    """The first promise that does not hold, in words; None when all hold."""
    if world.guests.source.executes and world.guests.destination.executes:
        return "two copies execute"
    if not world.guests.excused and not _can_be_brought_back(world):
        return "no copy can be brought back to execution"
    return _contradiction(world) or _untruth(world)


_PAGES_MISSING = (Copy.RUNNABLE, Copy.PULLING)


def broken_step(before: World, after: World) -> str | None:
    """What is final stays what it is."""
    for name, was, now in (
        ("source", before.source.record, after.source.record),
        ("destination", before.destination.record, after.destination.record),
    ):
        if was is not now and was is not None and was.final:
            return f"the {name}'s record was {was}, and is {now}"
    return None


def _can_be_brought_back(world: World) -> bool:
    """The source's copy, unless the guest has gone on elsewhere; or the destination's, if it is whole or can become so."""
    guests = world.guests
    pages = guests.source is Copy.SENT
    there = guests.destination in (Copy.LOADED, Copy.RUNNING) or (guests.destination in _PAGES_MISSING and pages)
    gone_on = world.destination.outcome.at_destination and not world.destination.fenced
    here = guests.source.exists and not gone_on
    return here or (there and world.destination.record is not DestinationState.ABORTED)


def _contradiction(world: World) -> str | None:
    """What the journals say of each other. A host that was fenced says nothing any more."""
    source, destination = world.source, world.destination
    if source.fenced or destination.fenced:
        return None
    return _contradicting_records(world) or _lawless(world)


def _contradicting_records(world: World) -> str | None:
    source, destination = world.source, world.destination
    there = destination.outcome
    match source.record:
        case SourceState.CONFIRMED if not there.at_destination:
            return f"the source has confirmed what is {destination.record} at the destination"
        case SourceState.CONFIRMED if world.guests.destination in _PAGES_MISSING and not world.guests.excused:
            return "the source has given up pages that the destination needs"
        case SourceState.SERVING | SourceState.SERVING_FAILED if not there.at_destination:
            return f"the source serves a destination that is {destination.record}"
        case SourceState.CANCELLED | SourceState.BEGUN | SourceState.PERFORMING | None if there.at_destination:
            return f"the destination has the guest, and the source's record is {source.record}"
        case _:
            return None


def _lawless(world: World) -> str | None:
    """What executes has the right to."""
    committed = world.destination.outcome.at_destination
    if world.guests.source.executes and committed:
        return "the source's copy executes, and the destination has committed"
    if world.guests.destination.executes and not committed:
        return "the destination's copy executes without a commit"
    return None


def _untruth(world: World) -> str | None:
    """What a coordinator has told its user stays so, until an operator decides otherwise."""
    if world.source.fenced or world.destination.fenced:
        return None
    there = world.destination.outcome.at_destination
    if world.coordinator.told is Told.MOVED and not there:
        return "the user was told that the guest has moved, and it has not"
    if world.coordinator.told is Told.STAYED and there:
        return "the user was told that the guest stayed, and it has moved"
    return None


def ended(world: World) -> bool:
    """Nobody works on it any more, nothing is left of it, and exactly one guest lives, or was lost with its hypervisor."""
    source, destination, guests = world.source, world.destination, world.guests
    if world.coordinator.walk is not None:
        return False
    if not (_over(source) and _over(destination)) or (source.record is None and world.net):
        return False
    here, left = guests.source, guests.destination
    if destination.outcome.at_destination and not destination.fenced:
        here, left = left, here
    return not left.exists and (here is Copy.RUNNING or (guests.excused and not here.exists))


def _over(side: object) -> bool:
    fenced, up = side.fenced, side.up  # type: ignore[attr-defined]
    return fenced or (up and not side.unfinished and not side.busy)  # type: ignore[attr-defined]


def ending(world: World) -> str:
    """The end in words, for the report."""
    guests = world.guests
    if guests.destination is Copy.RUNNING:
        return "lives at the destination"
    if guests.source is Copy.RUNNING:
        return "lives at the source"
    return "lost with its hypervisor"
