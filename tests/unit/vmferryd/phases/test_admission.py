"""Every flag and every parameter is honoured or refused before anything is touched, with everything else that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from vmferry.combinations import Place, broken
from vmferry.errors import HostIncompatible, InvalidParameter, InvalidState, MigrationUnsafe, NotSupported, Violation
from vmferry.flags import FLAGS, NONE, SOURCE_ONLY, Flag, FlagRow, destination_flags, source_flags
from vmferry.model import Side
from vmferry.params import PARAMETERS, Kind, MigrationParams, ParameterRow
from vmferryd.domains.devices import Disk, DiskBus, DiskCache, DiskType
from vmferryd.domains.safety import DiskFacts
from vmferryd.drivers.base import DriverCapabilities, DriverFeature, GuestProbe, RunState, TransferState
from vmferryd.phases import admission
from vmferryd.phases.admission import Objection, of_disks, of_guest, of_peer, of_request, refuse
from vmferryd.phases.settings import HONOURED, HONOURED_PARAMS

EVERYTHING = DriverCapabilities("test", "1", frozenset(), frozenset(DriverFeature))
NOTHING = DriverCapabilities("test", "1", frozenset(), frozenset())
NO_PARAMS = MigrationParams()


def subjects(objections: Any) -> set[str]:
    """What is objected to."""
    return {objection.violation.subject for objection in objections}


def as_sent(side: Side, flags: Flag) -> Flag:
    """What that side's calls get of the request's flags."""
    return source_flags(flags) if side is Side.SOURCE else destination_flags(flags)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("row", FLAGS, ids=lambda row: row.name)
def test_every_flag(row: FlagRow, side: Side) -> None:
    """A flag that the daemon acts upon is accepted where it is sent to, any other is named by who would act upon it."""
    place = Place.SOURCE if side is Side.SOURCE else Place.DESTINATION
    flags = as_sent(side, row.flag)
    named = subjects(of_request(side, flags, NO_PARAMS, EVERYTHING))
    expected = {rule.subject for rule in broken(flags, NO_PARAMS, place)}
    if side in row.sides and flags and (row.flag not in HONOURED):
        expected.add(row.name)
    assert expected == named


def sample(row: ParameterRow) -> Any:
    """A value that the table allows."""
    if row.kind is not Kind.STRING:
        return row.minimum or 1
    text = row.choices[0] if row.choices else f"{row.schemes[0]}://host:1" if row.schemes else "vda"
    return (text,) if row.repeatable else text


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.name)
def test_every_parameter(row: ParameterRow, side: Side) -> None:
    """A parameter that the daemon acts upon is accepted, any other is named by the side that would use it."""
    needed = Flag(row.needs_any.value & -row.needs_any.value)
    of_post_copy = Flag.POSTCOPY if "postcopy" in row.name else NONE
    method: dict[str, Any] = {"compression": (row.needs_method,)} if row.needs_method else {}
    params = MigrationParams(**{row.attribute: sample(row)} | method)
    named = subjects(of_request(side, as_sent(side, needed | Flag.LIVE | of_post_copy), params, EVERYTHING))
    refused = side in row.sides and row.attribute not in HONOURED_PARAMS
    assert refused == (row.name in named)


def test_all_flags_are_asked() -> None:
    """Who acts upon a flag gets it: what the destination never sees is acted upon by the source."""
    for row in FLAGS:
        if row.flag in SOURCE_ONLY:
            assert (Side.SOURCE,) == row.sides


def test_everything_that_is_wrong_is_named_at_once() -> None:
    """Bits, flags, parameters, combinations, features and methods are refused together, by the gravest kind."""
    params = MigrationParams(graphics_uri="spice://x:1", compression=("zstd",), parallel_connections=2)
    flags = Flag(1 << 40) | Flag.POSTCOPY | Flag.AUTO_CONVERGE | Flag.LIVE
    with pytest.raises(InvalidParameter) as caught:
        refuse(of_request(Side.SOURCE, flags, params, NOTHING))
    named = {violation.subject for violation in caught.value.violations}
    assert {"bit 40", "POSTCOPY", "graphics_uri", "AUTO_CONVERGE", "zstd", "parallel.connections"} <= named


def test_compression_needs_both_hypervisors() -> None:
    """The method xbzrle is refused by either side for its own hypervisor, and for the other one when its cookie says so."""
    for params, flags in ((MigrationParams(compression=("xbzrle",)), NONE), (NO_PARAMS, Flag.COMPRESSED)):
        for side in Side:
            assert {"xbzrle"} == subjects(of_request(side, flags, params, NOTHING))
            assert {"xbzrle"} == subjects(of_peer(side, frozenset({"warp"}), flags, params))
            assert set() == subjects(of_peer(side, frozenset({"xbzrle"}), flags, params))
            assert set() == subjects(of_peer(side, None, flags, params))


def test_auto_converge_is_the_sources() -> None:
    """Whether the destination could slow a guest down does not matter."""
    assert {"AUTO_CONVERGE"} == subjects(of_request(Side.SOURCE, Flag.AUTO_CONVERGE, NO_PARAMS, NOTHING))
    assert set() == subjects(of_peer(Side.DESTINATION, frozenset(), Flag.AUTO_CONVERGE, NO_PARAMS))


@pytest.mark.parametrize("run_state", RunState)
def test_which_guests_can_be_moved(run_state: RunState) -> None:
    """A guest that runs or stands still can be moved, one that has ended, waits for its state or was sent already cannot."""
    found = list(of_guest("web", GuestProbe(run_state, TransferState.NONE), Flag.LIVE, EVERYTHING))
    movable = {RunState.RUNNING, RunState.PAUSED, RunState.IO_ERROR}
    assert (run_state not in movable) == bool(found)
    assert {InvalidState} >= {objection.error for objection in found}


def test_a_guest_that_was_sent_once() -> None:
    """A paused guest that came back after its last part was sent has to run before it can be sent again, and that is told."""
    (found,) = of_guest("web", GuestProbe(RunState.GONE_OVER, TransferState.COMPLETED), Flag.LIVE, EVERYTHING)
    assert "resume it first" in found.violation.remedy


def test_guest_with_everything_against_it() -> None:
    """Blockers, a transfer, and a disk that has failed already are told together."""
    probe = GuestProbe(RunState.IO_ERROR, TransferState.HELD, blockers=("a device of the host", "another"))
    with pytest.raises(InvalidState) as caught:
        refuse(of_guest("web", probe, Flag.ABORT_ON_ERROR, EVERYTHING))
    text = str(caught.value)
    for part in ("a transfer of the guest is held", "an I/O error has stopped", "a device of the host", "another"):
        assert part in text


def test_live_needs_a_hypervisor_that_can_be_held() -> None:
    """A running guest is not sent live by a hypervisor that cannot be held; one that stands still is."""
    running, paused = (GuestProbe(state, TransferState.NONE) for state in (RunState.RUNNING, RunState.PAUSED))
    assert {"LIVE"} == subjects(of_guest("web", running, Flag.LIVE, NOTHING))
    assert set() == subjects(of_guest("web", running, NONE, NOTHING)) | subjects(of_guest("web", paused, Flag.LIVE, NOTHING))


def test_every_unsafe_disk_is_named() -> None:
    """The error has each disk that could lose data, with the reason and what helps."""

    def disk(target: str, **facts: Any) -> Disk:
        return Disk(type=DiskType.FILE, source_path=f"/{target}", target=target, bus=DiskBus.VIRTIO, **facts)

    shared = DiskFacts(on_shared_filesystem=True)
    disks = {
        "vda": (disk("vda"), DiskFacts()),
        "vdb": (disk("vdb"), shared),
        "vdc": (disk("vdc", cache=DiskCache.NONE), shared),
        "vdd": (disk("vdd", read_only=True), DiskFacts()),
    }
    with pytest.raises(MigrationUnsafe) as caught:
        refuse(of_disks(disks))
    assert ["disk vda", "disk vdb"] == [violation.subject for violation in caught.value.violations]
    assert all("UNSAFE" in violation.remedy for violation in caught.value.violations)


def test_one_objection_is_a_sentence_of_its_own() -> None:
    """A single objection is in the message, with its remedy."""
    with pytest.raises(InvalidState, match="it sleeps") as caught:
        refuse([Objection(InvalidState, Violation("web", "it sleeps", "wake it"))])
    assert "wake it" == caught.value.remedy


def test_gravest_first() -> None:
    """A wrong request is a wrong request, whatever else speaks against it."""
    kinds = (MigrationUnsafe, HostIncompatible, InvalidState, NotSupported, InvalidParameter)
    for number in range(1, len(kinds) + 1):
        with pytest.raises(kinds[number - 1]) as caught:
            refuse(Objection(kind, Violation(kind.__name__, "wrong")) for kind in kinds[:number])
        assert number == len(caught.value.violations)


def test_nothing_against_it() -> None:
    """Without an objection nothing is refused."""
    refuse(())
    assert admission.DRIVER_NEEDS
