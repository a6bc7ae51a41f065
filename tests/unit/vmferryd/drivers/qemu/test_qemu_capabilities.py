"""What a QEMU's answers mean."""

from __future__ import annotations

import pytest
from qemu_programs import MIGRATION, program

from vmferryd.drivers.base import DriverFeature
from vmferryd.drivers.qemu.gate import Gate, best_gate


def test_machine_aliases_lead_to_versions() -> None:
    """Both spellings are known, and an alias is followed."""
    machines = program().machines
    assert machines["pc"] == machines["pc-i440fx-7.2"] == "pc-i440fx-7.2"
    assert machines["q35"] == "pc-q35-7.2"


def test_a_version_is_printed_with_its_packager() -> None:
    """As QEMU prints it."""
    assert program().version_text == "7.2.22 (Debian 1:7.2)"


@pytest.mark.parametrize(
    ("version", "migration", "gate"),
    [
        ((7, 2, 22), MIGRATION, Gate.BITMAP),
        ((8, 0, 5), MIGRATION, Gate.NONE),
        ((8, 1, 0), (*MIGRATION, "switchover-ack"), Gate.ACKNOWLEDGEMENT),
        ((10, 0, 2), (*MIGRATION, "switchover-ack"), Gate.ACKNOWLEDGEMENT),
        ((7, 2, 22), (), Gate.NONE),
    ],
)
def test_a_guest_is_sent_live_only_where_it_can_be_held(
    version: tuple[int, int, int], migration: tuple[str, ...], gate: Gate
) -> None:
    """The feature LIVE and the gate go together."""
    found = program(version, migration)
    assert best_gate(found) is gate
    assert (DriverFeature.LIVE in found.general("qemu").features) == (gate is not Gate.NONE)
