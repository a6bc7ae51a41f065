"""What an effect means for the guest, what hypervisors do by themselves, and how they and the way between them fail.

This is all that the explorer knows of the world outside the tables. The rules that matter:

* nothing but SEND and LET_GO makes the source send, and without the last part the destination cannot run;
* a hypervisor that stands still never starts CPUs by itself; what breaks before the source is held leaves it running;
* what was let go may arrive at any later time, whatever becomes of its sender;
* with pages missing a copy executes, and it becomes whole only while the other copy is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from explorer.world import ENDS, Copy, Copying, Guests, Setting, Wire, World
from vmferry.model import DestinationState

_BROKEN = {Wire.OPEN: Wire.BROKEN, Wire.LAST: Wire.BROKEN, Wire.PAGES: Wire.CUT, Wire.AGAIN: Wire.CUT}


def broken(guests: Guests) -> Guests:
    """The way is cut."""
    return guests._replace(wire=_BROKEN.get(guests.wire, guests.wire))


# -- effects ---------------------------------------------------------------------------------------------------------


def let_go(guests: Guests) -> Guests:
    """LET_GO: the last part is on its way, if the copy is held and there is a way."""
    if guests.source is not Copy.HELD or guests.wire is not Wire.OPEN:
        return guests
    return guests._replace(source=Copy.SENT, wire=Wire.LAST)


def take_back(guests: Guests) -> Guests:
    """TAKE_BACK: the copy runs. What was let go before is out of reach."""
    wire = guests.wire if guests.wire is Wire.LAST else broken(guests).wire
    return guests._replace(source=Copy.RUNNING if guests.source.exists else guests.source, wire=wire)


def give_up(guests: Guests) -> Guests:
    """GIVE_UP: nothing is left of the source's copy."""
    wire = guests.wire if guests.wire is Wire.LAST else broken(guests).wire
    return guests._replace(source=Copy.GONE, wire=wire)


def run(guests: Guests) -> Guests:
    """RUN: the destination's CPUs run, if there is anything to run."""
    runs = {Copy.LOADED: Copy.RUNNING, Copy.RUNNABLE: Copy.PULLING}
    return guests._replace(destination=runs.get(guests.destination, guests.destination))


def discard(guests: Guests) -> Guests:
    """DISCARD: nothing is left of the destination's copy."""
    if not guests.destination.exists:
        return guests
    return broken(guests)._replace(destination=Copy.GONE)


# -- what they do by themselves --------------------------------------------------------------------------------------


def by_themselves(guests: Guests, setting: Setting) -> Iterator[tuple[str, Guests]]:
    """Everything that a hypervisor may do next without being told."""
    source, destination, wire, _ = guests
    if wire is Wire.OPEN and source is Copy.RUNNING and destination is Copy.WAITING:
        yield (
            "the source's hypervisor has sent all but the last part, and its CPUs stand still",
            guests._replace(source=Copy.HELD),
        )
    if wire is Wire.LAST and destination is Copy.WAITING:
        yield from _arrival(guests, setting)
    if wire is Wire.AGAIN and not destination.exists:
        yield "a new way to a hypervisor that is gone breaks", guests._replace(wire=Wire.CUT)
    if wire is Wire.PAGES and source is Copy.SENT and destination in (Copy.RUNNABLE, Copy.PULLING):
        whole = Copy.LOADED if destination is Copy.RUNNABLE else Copy.RUNNING
        yield "the last page has arrived", guests._replace(destination=whole, wire=Wire.DONE)


def _arrival(guests: Guests, setting: Setting) -> Iterator[tuple[str, Guests]]:
    if setting.copying is Copying.PRE:
        yield (
            "the last part arrives: the destination has the whole state",
            guests._replace(destination=Copy.LOADED, wire=Wire.DONE),
        )
        return
    wire = Wire.PAGES if guests.source is Copy.SENT else Wire.CUT
    yield "the destination could run now, with pages missing", guests._replace(destination=Copy.RUNNABLE, wire=wire)


# -- how they fail ---------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """What failed, in words, and the guests afterwards."""

    words: str
    guests: Guests


def failures(world: World, setting: Setting) -> Iterator[Failure]:
    """Everything that may fail about the guests."""
    guests, there = world.guests, world.destination.record
    if guests.wire in _BROKEN:
        yield Failure("the way of the guest's state is cut", broken(guests))
    if guests.source.exists:
        yield from _source_dies(guests, needed=not _can_go_on(world) or (setting.faults > 1 and not _committed(there)))
    if guests.destination.exists:
        yield from _destination_dies(guests, needed=_committed(there) or world.destination.follow is not None)
    if setting.slips and guests.wire is Wire.OPEN and guests.source in (Copy.RUNNING, Copy.HELD):
        yield Failure(
            "the source's hypervisor sends the last part although nobody let it",
            guests._replace(source=Copy.SENT, wire=Wire.LAST),
        )


def _can_go_on(world: World) -> bool:
    """The destination has the whole state, and nobody has asked it to give it up.

    Then the source's death alone loses nothing. Together with a second failure it may: whoever gives up what has not been
    committed counts on the copy at the source.
    """
    whole = world.guests.destination in (Copy.LOADED, Copy.RUNNING)
    asked = any(message.call in ENDS for message in world.net)
    return whole and world.destination.record is not DestinationState.ABORTED and not asked


def _committed(there: DestinationState | None) -> bool:
    return there is not None and there.outcome.at_destination


def _source_dies(guests: Guests, *, needed: bool) -> Iterator[Failure]:
    words = "the source's hypervisor dies"
    dead = guests._replace(source=Copy.GONE, excused=guests.excused or needed)
    yield Failure(words, broken(dead))
    if guests.wire is Wire.LAST:
        yield Failure(f"{words}; what it sent last is still on its way", dead)


def _destination_dies(guests: Guests, *, needed: bool) -> Iterator[Failure]:
    """One that dies between the last look at it and the write of the commit has died after the commit."""
    lost = needed or guests.destination.executes or not guests.source.exists
    dead = guests._replace(destination=Copy.GONE, excused=guests.excused or lost)
    yield Failure("the destination's hypervisor dies", broken(dead))
