"""What can fail, and when: every cell of the table of failures. Pure.

A cell is a way to migrate, something that fails, and a moment. Moments are points of `crash.points`, in the order in which a
migration passes them; which of them exist follows from what can fail then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product


class Way(StrEnum):
    """Who coordinates."""

    REGULAR = "regular"
    P2P = "peer-to-peer"


class Channel(StrEnum):
    """How the guest's bytes go: over a connection of the hypervisors, which is the default, or through the daemons."""

    NATIVE = "native"
    TUNNEL = "tunnel"


class Part(StrEnum):
    """What can fail: processes, cables, disks, whole hosts."""

    CLIENT = "client"
    SOURCE_DAEMON = "source daemon"
    DESTINATION_DAEMON = "destination daemon"
    SOURCE_QEMU = "source QEMU"
    DESTINATION_QEMU = "destination QEMU"
    CLIENT_SOURCE = "client-source"
    CLIENT_DESTINATION = "client-destination"
    SOURCE_DESTINATION = "source-destination"
    SOURCE_DISK = "source journal"
    DESTINATION_DISK = "destination journal"
    SOURCE_HOST = "source host"
    DESTINATION_HOST = "destination host"

    @property
    def at_source(self) -> bool:
        """It belongs to the source's host."""
        return self.value.startswith("source ")

    @property
    def at_client(self) -> bool:
        """Only the client has to do with it."""
        return self.value.startswith("client")


class Fault(StrEnum):
    """How it fails."""

    KILL = "kill -9"
    STOP = "stop"
    CUT = "cut"
    CUT_FORTH = "cut one way"
    CUT_BACK = "cut the other way"
    DISK_FULL = "disk full"
    POWER_OFF = "power off"


PROCESSES = (Part.CLIENT, Part.SOURCE_DAEMON, Part.DESTINATION_DAEMON, Part.SOURCE_QEMU, Part.DESTINATION_QEMU)
CABLES = (Part.CLIENT_SOURCE, Part.CLIENT_DESTINATION, Part.SOURCE_DESTINATION)
HOSTS = (Part.SOURCE_HOST, Part.DESTINATION_HOST)
CUTS = (Fault.CUT, Fault.CUT_FORTH, Fault.CUT_BACK)

HALF = "while half of the memory is sent"
CANCELLED = tuple(
    f"{when} source writes {what}" for what in ("cancelled", "cancelled settled") for when in ("before", "after")
)
ABORTED = tuple(
    f"{when} destination writes {what}" for what in ("aborted", "aborted settled") for when in ("before", "after")
)
CALLED_OFF = (*CANCELLED, *ABORTED)
"""The moments of a migration that its user called off."""

MOMENTS = (
    "before source writes begun",
    "after source writes begun",
    "after client calls begin",
    "before destination writes prepared",
    "after destination writes prepared",
    "after client calls prepare",
    "before source writes performing",
    "after source writes performing",
    HALF,
    "before source writes released",
    "after source writes released",
    "before destination writes received",
    "after destination writes received",
    "before destination writes committed",
    "after destination writes committed",
    "before destination writes committed settled",
    "after client calls perform",
    "after client calls finish",
    "before source writes confirmed",
    "after source writes confirmed",
    "before source writes confirmed settled",
    *CALLED_OFF,
)
"""In order; the last ones are those of a migration that was called off."""

CRITICAL = (
    HALF,
    "after source writes released",
    "after destination writes received",
    "after destination writes committed",
)
"""Where the answer to "who has the guest" changes."""

_ORDER = {moment: number for number, moment in enumerate(MOMENTS)}
_LOADED = _ORDER["before destination writes received"]
_COMMITTING = _ORDER["before destination writes committed"]
"""The daemon has looked at the loaded guest for the last time: the record is on its way to the disk."""
_COMMITTED = _ORDER["after destination writes committed"]
_GIVEN_UP = _ORDER["after source writes confirmed"]
_WAITS = _ORDER["after client calls prepare"]


class Place(StrEnum):
    """Where a guest ends: at one of the hosts, or lost with its hypervisor, as in any crash."""

    SOURCE = "source"
    DESTINATION = "destination"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Cell:
    """One failure at one moment of one migration."""

    way: Way
    channel: Channel
    fault: Fault
    part: Part
    moment: str

    @property
    def name(self) -> str:
        """As the test is called."""
        return f"{self.way}, {self.channel}: {self.fault} {self.part}, {self.moment}"

    @property
    def for_every_run(self) -> bool:
        """It is played whenever the tests run; the others only when everything is asked for."""
        if self.channel is Channel.TUNNEL:
            return self.fault is Fault.KILL and self.moment == HALF
        chosen = _EVERY_RUN.get((self.fault, self.way))
        return chosen is not None and chosen(self)

    @property
    def called_off(self) -> bool:
        """The migration is one that its user calls off half-way."""
        return self.moment in CALLED_OFF

    @property
    def places(self) -> frozenset[Place]:
        """Where the guest may be in the end, if the promise is kept."""
        at = _ORDER[self.moment]
        if _holds_the_only_whole_copy(self):
            # Perform ends when the last part is gone; whether the destination has committed by then, nobody has decided.
            undecided = self.part is Part.DESTINATION_QEMU and self.moment == "after client calls perform"
            return frozenset({Place.LOST, Place.SOURCE}) if undecided else frozenset({Place.LOST})
        if self.called_off:
            return frozenset({Place.SOURCE})
        # Perform ends when the last part is gone; the destination may still be about to commit.
        is_committed = at >= _COMMITTED and self.moment != "after client calls perform"
        if is_committed or (self.way is Way.P2P and self.part.at_client):
            return frozenset({Place.DESTINATION})
        return frozenset({Place.SOURCE, Place.DESTINATION})


def _holds_the_only_whole_copy(cell: Cell) -> bool:
    """The guest dies with what fails: a hypervisor, or a host that is switched off."""
    if (cell.fault, cell.part) == (Fault.KILL, Part.SOURCE_QEMU) or (cell.fault, cell.part) == (
        Fault.POWER_OFF,
        Part.SOURCE_HOST,
    ):
        return cell.called_off or _ORDER[cell.moment] < _LOADED
    if (cell.fault, cell.part) == (Fault.KILL, Part.DESTINATION_QEMU):
        return not cell.called_off and _ORDER[cell.moment] >= _COMMITTING
    if (cell.fault, cell.part) == (Fault.POWER_OFF, Part.DESTINATION_HOST):
        return not cell.called_off and _ORDER[cell.moment] >= _COMMITTED
    return False


def _is_between_hosts(cell: Cell) -> bool:
    return cell.part is Part.SOURCE_DESTINATION


def _matters(cell: Cell) -> bool:
    """Where the answer to "who has the guest" changes; daemons also at what they write themselves, clients between phases."""
    if cell.part is Part.CLIENT and " client calls " in cell.moment:
        return True
    is_daemon = cell.part in (Part.SOURCE_DAEMON, Part.DESTINATION_DAEMON)
    written = f"after {'source' if cell.part.at_source else 'destination'} writes " in cell.moment
    return cell.moment in CRITICAL or (is_daemon and written)


_EVERY_RUN: Mapping[tuple[Fault, Way], Callable[[Cell], bool]] = {
    (Fault.KILL, Way.REGULAR): _matters,
    (Fault.KILL, Way.P2P): lambda cell: cell.moment in (CRITICAL[0], CRITICAL[2]),
    (Fault.STOP, Way.REGULAR): lambda cell: cell.moment == HALF,
    (Fault.CUT, Way.REGULAR): lambda cell: cell.moment in (CRITICAL if _is_between_hosts(cell) else CRITICAL[:1]),
    (Fault.CUT, Way.P2P): lambda cell: cell.moment == CRITICAL[1] and _is_between_hosts(cell),
    (Fault.CUT_FORTH, Way.REGULAR): lambda cell: cell.moment == CRITICAL[1] and _is_between_hosts(cell),
    (Fault.CUT_BACK, Way.REGULAR): lambda cell: cell.moment == CRITICAL[1] and _is_between_hosts(cell),
    (Fault.DISK_FULL, Way.REGULAR): lambda cell: not cell.called_off and not cell.moment.endswith(" settled"),
    (Fault.POWER_OFF, Way.REGULAR): lambda cell: cell.moment in CRITICAL,
    (Fault.POWER_OFF, Way.P2P): lambda cell: cell.moment == CRITICAL[2],
}


def cells() -> Iterator[Cell]:
    """Every cell."""
    for way, channel in product(Way, Channel):
        for fault, part in _failures():
            every = (Cell(way, channel, fault, part, moment) for moment in MOMENTS)
            yield from filter(_exists, every)


def _failures() -> Iterator[tuple[Fault, Part]]:
    for part in PROCESSES:
        yield from ((Fault.KILL, part), (Fault.STOP, part))
    for part in CABLES:
        yield from ((fault, part) for fault in CUTS)
    yield Fault.DISK_FULL, Part.SOURCE_DISK
    yield Fault.DISK_FULL, Part.DESTINATION_DISK
    yield from ((Fault.POWER_OFF, part) for part in HOSTS)


def _exists(cell: Cell) -> bool:
    """Whether a migration of that way passes the moment, what fails is there then, and that is not another cell's case."""
    if cell.way is Way.P2P and (" client calls " in cell.moment or cell.part is Part.CLIENT_DESTINATION):
        return False
    if cell.channel is Channel.TUNNEL and not _concerns_the_channel(cell):
        return False
    return _is_there(cell.part, cell.moment) and _differs(cell.fault, cell.part, cell.moment)


def _concerns_the_channel(cell: Cell) -> bool:
    """The tunnel is what a daemon, a hypervisor or a network between hosts takes with it while a guest is on its way."""
    carries = not cell.part.at_client and cell.fault is not Fault.DISK_FULL
    return cell.way is Way.REGULAR and carries and cell.moment in CRITICAL


def _is_there(part: Part, moment: str) -> bool:
    match part:
        case Part.DESTINATION_QEMU if moment in CALLED_OFF:
            return moment.endswith(" destination writes aborted")
        case Part.DESTINATION_QEMU:
            return _ORDER[moment] >= _WAITS
        case Part.SOURCE_QEMU:
            return _ORDER[moment] <= _GIVEN_UP or moment in CALLED_OFF
    return True


def _differs(fault: Fault, part: Part, moment: str) -> bool:
    """Before a record something else can happen than after it only to who writes it, and to the hypervisors."""
    ours = f" {'source' if part.at_source else 'destination'} writes " in moment
    match fault:
        case Fault.DISK_FULL:
            return ours and moment.startswith("before ")
        case Fault.POWER_OFF:
            return (" writes " in moment and moment.startswith("after ")) or moment == HALF
        case Fault.CUT_FORTH | Fault.CUT_BACK if part.at_client:
            return " client calls " in moment or moment == HALF
        case Fault.CUT | Fault.CUT_FORTH | Fault.CUT_BACK:
            return not moment.startswith("before ") and moment not in (*CANCELLED[2:], *ABORTED[2:])
    if moment.startswith("before "):
        is_daemon = part in (Part.SOURCE_DAEMON, Part.DESTINATION_DAEMON)
        is_hypervisor = part in (Part.SOURCE_QEMU, Part.DESTINATION_QEMU) and not moment.endswith(" settled")
        return ours and (is_daemon or is_hypervisor) and (fault is Fault.KILL or is_daemon)
    return not moment.endswith(" settled") and (" client calls " not in moment or fault is Fault.KILL or part is Part.CLIENT)
