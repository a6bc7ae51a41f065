"""The published table is what was played: every cell of the tests, no other, and nothing that may not be."""

from __future__ import annotations

from crash import table
from crash.cells import CRITICAL, HALF, HOSTS, PROCESSES, Channel, Fault, Part, Place, Way, cells
from crash.results import read


def test_what_every_run_plays_is_published() -> None:
    """The page has every cell that the tests always play, and none that they do not have: `make crash` makes it anew."""
    published = {line["cell"] for line in read(table.RESULTS)}
    assert set() == {cell.name for cell in cells() if cell.for_every_run} - published
    assert set() == published - {cell.name for cell in cells()}


def test_what_is_published_keeps_the_promise() -> None:
    """A guest is nowhere but where it may be."""
    places = {line["cell"]: line["place"] for line in read(table.RESULTS)}
    assert [] == [cell.name for cell in cells() if cell.name in places and places[cell.name] not in cell.places]


def test_a_guest_is_lost_with_its_hypervisor_alone() -> None:
    """No daemon, client, disk or network takes a guest with it, and neither does a second copy's host."""
    lost = {(cell.fault, cell.part) for cell in cells() if Place.LOST in cell.places}
    assert lost == {
        (Fault.KILL, Part.SOURCE_QEMU),
        (Fault.KILL, Part.DESTINATION_QEMU),
        (Fault.POWER_OFF, Part.SOURCE_HOST),
        (Fault.POWER_OFF, Part.DESTINATION_HOST),
    }


def test_every_run_plays_what_matters_most() -> None:
    """Every process is killed and every host switched off where the answer to "who has the guest" changes."""
    chosen = [cell for cell in cells() if cell.for_every_run and (cell.way, cell.channel) == (Way.REGULAR, Channel.NATIVE)]
    played = {(cell.fault, cell.part, cell.moment) for cell in chosen}
    for part in PROCESSES:
        assert {(Fault.KILL, part, moment) for moment in CRITICAL} <= played
        assert (Fault.STOP, part, HALF) in played
    for host in HOSTS:
        assert {(Fault.POWER_OFF, host, moment) for moment in CRITICAL} <= played
    assert {(Fault.CUT, Part.SOURCE_DESTINATION, moment) for moment in CRITICAL} <= played


def test_every_way_of_the_bytes_is_played() -> None:
    """The tunnel is played, too, wherever it can break."""
    assert set(Channel) == {cell.channel for cell in cells() if cell.for_every_run}
