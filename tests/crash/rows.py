"""The rows of the specification's crash matrix (section 6), and which cells play each of them. Pure.

A row that no cell plays says where its test stands instead, or why there is nothing to play.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crash.cells import CUTS, HALF, Cell, Channel, Fault, Part, Way, cells

BEGUN = frozenset({"after source writes begun", "after client calls begin"})
PREPARING = frozenset({"before destination writes prepared", "after destination writes prepared"})
WAITING = frozenset({"after client calls prepare"})
SENDING = frozenset({"after source writes performing", HALF})
LAST_PART = frozenset({"before source writes released", "after source writes released"})
ARRIVED = frozenset({"after destination writes received", "before destination writes committed"})
DECIDED = frozenset({"after destination writes committed", "before destination writes committed settled"})
FINISHING = frozenset({"after client calls perform"})
FINISHED = frozenset({"after client calls finish"})
CONFIRMING = frozenset({"before source writes confirmed", "after source writes confirmed"})
CALLING_OFF = frozenset({"before source writes cancelled", "after source writes cancelled"})
TAKING_BACK = frozenset({"before destination writes aborted", "after destination writes aborted"})


@dataclass(frozen=True, slots=True)
class Row:
    """What fails, and when; `tests` are files that play the row where no cell can. `way` and `channel` None: any."""

    parts: frozenset[Part] = frozenset()
    faults: frozenset[Fault] = frozenset()
    moments: frozenset[str] = frozenset()
    way: Way | None = None
    channel: Channel | None = None
    tests: tuple[str, ...] = ()

    def has(self, cell: Cell) -> bool:
        """The cell is one of the row's."""
        return (
            (cell.part in self.parts and cell.fault in self.faults and cell.moment in self.moments)
            and self.way in (None, cell.way)
            and self.channel in (None, cell.channel)
        )

    def cells(self) -> list[Cell]:
        """The cells that play it."""
        return [cell for cell in cells() if self.has(cell)]


_KILLED = frozenset({Fault.KILL})
_STOPPED = frozenset({Fault.STOP})
_CUT = frozenset(CUTS)
_CLIENT = frozenset({Part.CLIENT})
_SOURCE_DAEMON = frozenset({Part.SOURCE_DAEMON})
_DESTINATION_DAEMON = frozenset({Part.DESTINATION_DAEMON})
_SOURCE_QEMU = frozenset({Part.SOURCE_QEMU})
_DESTINATION_QEMU = frozenset({Part.DESTINATION_QEMU})
_TO_DESTINATION = frozenset({Part.CLIENT_DESTINATION})
_TO_SOURCE = frozenset({Part.CLIENT_SOURCE})
_BETWEEN = frozenset({Part.SOURCE_DESTINATION})
_POSTCOPY = ("contract/test_postcopy.py",)
_DISKS = ("scenario/test_offline_disks.py",)
_GATE = ("contract/test_qemu.py",)


ROWS: Mapping[str, Row] = {
    # 6.2, the coordinator or a control connection is lost
    "6.2 client, after Begin": Row(_CLIENT, _KILLED, BEGUN, Way.REGULAR),
    "6.2 client, during Prepare": Row(_CLIENT, _KILLED, PREPARING, Way.REGULAR),
    "6.2 client, after Prepare": Row(_CLIENT, _KILLED, WAITING, Way.REGULAR),
    "6.2 client, during Perform": Row(_CLIENT, _KILLED, SENDING, Way.REGULAR),
    "6.2 client's cable to the destination, during Perform": Row(_TO_DESTINATION, _CUT, SENDING, Way.REGULAR),
    "6.2 client, after Perform": Row(_CLIENT, _KILLED, FINISHING, Way.REGULAR),
    "6.2 client, during Finish": Row(_CLIENT, _KILLED, ARRIVED | DECIDED, Way.REGULAR),
    "6.2 client, after Finish": Row(_CLIENT, _KILLED, FINISHED, Way.REGULAR),
    "6.2 client of peer-to-peer": Row(_CLIENT, _KILLED, SENDING | LAST_PART | ARRIVED | DECIDED, Way.P2P),
    "6.2 control link, Prepare": Row(_BETWEEN, _CUT, PREPARING, Way.P2P),
    "6.2 control link, Perform": Row(_BETWEEN, _CUT, SENDING, Way.P2P),
    "6.2 control link, Finish's request": Row(_BETWEEN, _CUT, LAST_PART | ARRIVED, Way.P2P),
    "6.2 control link, Finish's reply": Row(_BETWEEN, _CUT, DECIDED, Way.P2P),
    "6.2 control link, Confirm": Row(_BETWEEN, _CUT, CONFIRMING, Way.P2P),
    "6.2 client's cable to the destination, Finish's reply": Row(_TO_DESTINATION, _CUT, DECIDED | FINISHING, Way.REGULAR),
    "6.2 client's cable to the source, Confirm": Row(_TO_SOURCE, _CUT, FINISHED | CONFIRMING, Way.REGULAR),
    # 6.3, the source's daemon dies and comes back
    "6.3 begin3": Row(_SOURCE_DAEMON, _KILLED, BEGUN),
    "6.3 perform3": Row(_SOURCE_DAEMON, _KILLED, SENDING),
    "6.3 perform3_done": Row(_SOURCE_DAEMON, _KILLED, LAST_PART | ARRIVED | FINISHING),
    "6.3 confirm3_cancelled": Row(_SOURCE_DAEMON, _KILLED, CALLING_OFF),
    "6.3 confirm3": Row(_SOURCE_DAEMON, _KILLED, CONFIRMING),
    "6.3 peer-to-peer, between Finish and confirm3": Row(_SOURCE_DAEMON, _KILLED, DECIDED, Way.P2P),
    "6.3 post-copy: perform3_done, confirm_resume, postcopy_failed": Row(tests=_POSTCOPY),
    # 6.4, the destination's daemon dies and comes back
    "6.4 prepare": Row(_DESTINATION_DAEMON, _KILLED, PREPARING | WAITING),
    "6.4 paused, starting up": Row(_DESTINATION_DAEMON, _KILLED, SENDING | LAST_PART),
    "6.4 finish3, not running": Row(_DESTINATION_DAEMON, _KILLED, ARRIVED),
    "6.4 finish3, running": Row(_DESTINATION_DAEMON, _KILLED, DECIDED),
    "6.4 taking back": Row(_DESTINATION_DAEMON, _KILLED, TAKING_BACK),
    "6.4 finish2, protocol 2": Row(tests=("scenario/test_protocols.py",)),
    "6.4 post-copy: finish3, finish_resume, postcopy_failed": Row(tests=_POSTCOPY),
    # 6.5, a hypervisor dies
    "6.5 source QEMU, before completion": Row(_SOURCE_QEMU, _KILLED, SENDING),
    "6.5 source QEMU, after completion": Row(_SOURCE_QEMU, _KILLED, ARRIVED | DECIDED),
    "6.5 destination QEMU, before the source completed": Row(_DESTINATION_QEMU, _KILLED, SENDING),
    "6.5 destination QEMU, source in pre-switchover": Row(_DESTINATION_QEMU, _KILLED, LAST_PART),
    "6.5 destination QEMU, before it starts": Row(_DESTINATION_QEMU, _KILLED, ARRIVED | DECIDED),
    "6.5 either QEMU, post-copy": Row(tests=_POSTCOPY),
    # 6.6, the data network
    "6.6 reset": Row(_DESTINATION_QEMU, _KILLED, SENDING, channel=Channel.NATIVE),
    "6.6 reset of the tunnel": Row(_DESTINATION_QEMU, _KILLED, frozenset({HALF}), channel=Channel.TUNNEL),
    "6.6 silent stall": Row(_BETWEEN, _CUT, SENDING, channel=Channel.NATIVE),
    "6.6 silent stall of the tunnel": Row(_BETWEEN, _CUT, frozenset({HALF}), channel=Channel.TUNNEL),
    "6.6 storage copy stalls": Row(tests=_DISKS),
    "6.6 post-copy": Row(tests=_POSTCOPY),
    "6.6 too slow to converge": Row(tests=_GATE),
}
"""Every row of 6.2 to 6.6. Those of 6.7 (timeouts) and 6.8 (left-overs) are checked after every cell, by `crash.play`."""


def frozen(part: Part) -> Row:
    """A process that stands still, at any moment."""
    return Row(frozenset({part}), _STOPPED, frozenset(cell.moment for cell in cells()))
