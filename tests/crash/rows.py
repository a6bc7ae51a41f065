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
    """What fails, and when; `tests` play the row where no cell can: `file::function`. `way` and `channel` None: any."""

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
_RESTARTED_IN_POSTCOPY = (
    "e2e/test_postcopy.py::test_a_daemon_dies",
    "scenario/test_postcopy.py::test_either_daemon_may_be_restarted",
)
_RESTARTED_WHILE_CUT = (
    "contract/test_postcopy.py::test_another_daemon_goes_on_with_pages",
    "explorer/test_explorer.py::test_the_promise_holds",
)
_COPIED_DISKS = "scenario/test_copied_disks.py"


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
    "6.3 perform2, protocol 2": Row(tests=("scenario/test_protocols.py::test_source_restarts_in_perform",)),
    "6.3 post-copy: perform3_done": Row(tests=_RESTARTED_IN_POSTCOPY),
    "6.3 post-copy: confirm_resume, postcopy_failed, begin_resume, perform_resume": Row(tests=_RESTARTED_WHILE_CUT),
    # 6.4, the destination's daemon dies and comes back
    "6.4 prepare": Row(_DESTINATION_DAEMON, _KILLED, PREPARING | WAITING),
    "6.4 paused, starting up": Row(_DESTINATION_DAEMON, _KILLED, SENDING | LAST_PART),
    "6.4 finish3, not running": Row(_DESTINATION_DAEMON, _KILLED, ARRIVED),
    "6.4 finish3, running": Row(_DESTINATION_DAEMON, _KILLED, DECIDED),
    "6.4 taking back": Row(_DESTINATION_DAEMON, _KILLED, TAKING_BACK),
    "6.4 finish2, protocol 2": Row(
        tests=(
            "scenario/test_protocols.py::test_destination_restarts_in_perform",
            "scenario/test_protocols.py::test_failure_after_the_commit",
        )
    ),
    "6.4 post-copy: finish3": Row(tests=_RESTARTED_IN_POSTCOPY),
    "6.4 post-copy: finish_resume, prepare_resume, postcopy_failed": Row(tests=_RESTARTED_WHILE_CUT),
    # 6.5, a hypervisor dies
    "6.5 source QEMU, before completion": Row(_SOURCE_QEMU, _KILLED, SENDING),
    "6.5 source QEMU, after completion": Row(_SOURCE_QEMU, _KILLED, ARRIVED | DECIDED),
    "6.5 destination QEMU, before the source completed": Row(_DESTINATION_QEMU, _KILLED, SENDING),
    "6.5 destination QEMU, source in pre-switchover": Row(_DESTINATION_QEMU, _KILLED, LAST_PART),
    "6.5 destination QEMU, before it starts": Row(_DESTINATION_QEMU, _KILLED, ARRIVED | DECIDED),
    "6.5 source QEMU, post-copy": Row(
        tests=("scenario/test_postcopy.py::test_a_guest_whose_pages_are_gone_is_kept_until_somebody_destroys_it",)
    ),
    "6.5 destination QEMU, post-copy, after its CPUs started": Row(
        tests=(
            "e2e/test_postcopy.py::test_a_guest_that_dies_there_is_lost_and_said_to_be",
            "scenario/test_postcopy.py::test_a_guest_whose_hypervisor_died_there_is_lost_and_said_to_be",
        )
    ),
    "6.5 destination QEMU, post-copy, before its CPUs started": Row(
        tests=(
            "contract/test_postcopy.py::test_a_copy_whose_guest_never_ran_elsewhere_is_brought_back",
            "scenario/test_postcopy.py::test_a_destination_that_cannot_load_leaves_the_guest_at_the_source",
        )
    ),
    # 6.6, the data network
    "6.6 reset": Row(_DESTINATION_QEMU, _KILLED, SENDING, channel=Channel.NATIVE),
    "6.6 reset of the tunnel": Row(_DESTINATION_QEMU, _KILLED, frozenset({HALF}), channel=Channel.TUNNEL),
    "6.6 silent stall": Row(_BETWEEN, _CUT, SENDING, channel=Channel.NATIVE),
    "6.6 silent stall of the tunnel": Row(_BETWEEN, _CUT, frozenset({HALF}), channel=Channel.TUNNEL),
    "6.6 refused": Row(
        tests=(
            "scenario/test_data_channel.py::test_tunnel_instead_is_told",
            "scenario/test_data_channel.py::test_what_was_asked_for_is_never_replaced",
        )
    ),
    "6.6 storage copy stalls": Row(
        tests=(
            f"{_COPIED_DISKS}::test_source_fails",
            f"{_COPIED_DISKS}::test_a_destination_that_dies_during_the_copy_is_noticed_at_once",
            "contract/test_qemu_disks.py::test_a_destination_that_dies_fails_the_copy_and_harms_nothing",
        )
    ),
    "6.6 post-copy, error seen": Row(
        tests=(
            "contract/test_postcopy.py::test_a_cut_is_recovered_as_often_as_it_happens",
            "scenario/test_postcopy.py::test_a_cut_is_mended_by_the_daemons",
        )
    ),
    "6.6 post-copy, silent stall": Row(tests=("scenario/test_postcopy.py::test_a_silent_stall_is_cut_and_mended",)),
    "6.6 too slow to converge": Row(
        tests=(
            "contract/test_qemu.py::test_auto_converge_and_xbzrle_are_carried_out",
            "scenario/test_program.py::test_a_migration_that_takes_too_long_is_ended",
        )
    ),
}
"""Every row of 6.2 to 6.6."""

LEFT_OVERS: Mapping[str, tuple[str, ...]] = {
    "6.8.1 a stored definition after a failed Finish": (
        "scenario/test_hypervisor_failures.py::test_a_definition_that_was_to_be_stored_is_not_left",
    ),
    "6.8.2 images that were made in Prepare": (
        f"{_COPIED_DISKS}::test_destination_fails",
        f"{_COPIED_DISKS}::test_a_destination_daemon_that_dies_removes_the_images_when_it_is_back",
    ),
    "6.8.3 a stored definition that is lost": ("scenario/test_departures.py::test_persistent_definition_survives_a_restart",),
    "6.8.4 a definition that cannot be removed": ("scenario/test_offline.py::test_undefine_that_fails_is_told_and_repeated",),
    "6.8.5 a guest that its user paused is resumed": ("scenario/test_held.py::test_suspended_and_failed",),
    "6.8.6 a paused guest that was sent and did not arrive": (
        "unit/vmferryd/phases/test_admission.py::test_a_guest_that_was_sent_once",
    ),
    "6.8.7 parameters of the source's QEMU": ("contract/test_qemu.py::test_parameters_are_as_before_after_a_cancel",),
    "6.8.8 what the events say": (
        "scenario/test_events.py::test_failure_when_the_guest_stands_still",
        "scenario/test_events.py::test_states_after_a_failure_behind_the_stop",
    ),
    "6.8.9 ports": (
        "scenario/test_data_channel.py::test_busy_port",
        "scenario/test_data_channel.py::test_what_was_opened_is_free_after_every_end",
    ),
    "6.8.10 the next Prepare": ("scenario/test_hypervisor_failures.py::test_discarding_fails_at_first",),
}
"""Every weak point of 6.8. After every cell `crash.play` looks at processes, folders, sockets and a next migration, too,
and at the bounds of 6.7: a cell that is not settled in time fails."""


def frozen(part: Part) -> Row:
    """A process that stands still, at any moment."""
    return Row(frozenset({part}), _STOPPED, frozenset(cell.moment for cell in cells()))
