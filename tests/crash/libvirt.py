"""What libvirt 9.0 does in the same case, in a few words. Pure; from its source, its documents, and trials with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum

from crash.cells import CALLED_OFF, CUTS, HALF, Cell, Fault, Part, Way


class Progress(IntEnum):
    """How far a migration has come, as libvirt sees it."""

    BEGIN = 0
    PREPARE = 1
    PERFORM = 2
    PERFORMED = 3
    FINISHED = 4
    CONFIRMED = 5


_PROGRESS = {
    "writes begun": Progress.BEGIN,
    "calls begin": Progress.BEGIN,
    "writes prepared": Progress.PREPARE,
    "calls prepare": Progress.PREPARE,
    "writes performing": Progress.PERFORM,
    HALF: Progress.PERFORM,
    "before source writes released": Progress.PERFORM,
    "after source writes released": Progress.PERFORMED,
    "writes received": Progress.PERFORMED,
    "before destination writes committed": Progress.PERFORMED,
    "writes committed": Progress.FINISHED,
    "calls perform": Progress.FINISHED,
    "calls finish": Progress.FINISHED,
    "writes confirmed": Progress.CONFIRMED,
}

_UNTOUCHED = "runs on at the source"
_RESUMED = "the source resumes it"
_PAUSED = "stands paused at the source until somebody resumes it"
_LEFT = "runs at the destination; a paused copy stays at the source until somebody destroys it"
_DOUBLE = "**two copies run**: the source resumes its own"
_RUNS = "runs at the destination"
_CRASH = "gone, as in any crash"
_FOR_EVER = "nobody notices, for ever; somebody must abort"
_30_S = ", about 30 s later"


def progress(moment: str) -> Progress:
    """How far a migration is at a moment."""
    return next((far for end, far in _PROGRESS.items() if end in moment), Progress.PERFORM)


def does(cell: Cell) -> str:
    """What becomes of the guest."""
    if cell.fault is Fault.DISK_FULL:
        return "not known"
    if cell.moment in CALLED_OFF:
        return _CRASH if _kills(cell, Part.SOURCE_QEMU) else _RESUMED
    late = _30_S if cell.fault in (*CUTS, Fault.STOP, Fault.POWER_OFF) else ""
    return _WITHOUT[cell.part](cell, progress(cell.moment), late)


def _kills(cell: Cell, part: Part) -> bool:
    return (cell.fault, cell.part) == (Fault.KILL, part) or cell.fault is Fault.POWER_OFF


def _without_client(cell: Cell, far: Progress, late: str) -> str:
    if cell.way is Way.P2P:
        return _RUNS
    if cell.part is Part.CLIENT_DESTINATION and far in (Progress.PERFORMED, Progress.FINISHED):
        return _DOUBLE if far is Progress.FINISHED else _RESUMED + late
    words = {
        Progress.BEGIN: _UNTOUCHED,
        Progress.PREPARE: _UNTOUCHED,
        Progress.PERFORM: _RESUMED + late,
        Progress.PERFORMED: _PAUSED,
        Progress.FINISHED: _LEFT,
        Progress.CONFIRMED: _RUNS,
    }
    return words[far]


def _without_source_daemon(cell: Cell, far: Progress, _: str) -> str:
    if cell.fault is Fault.STOP:
        return "waits for the daemon"
    words = {
        Progress.BEGIN: _UNTOUCHED,
        Progress.PREPARE: _UNTOUCHED,
        Progress.PERFORM: "runs on; frozen near the end until the daemon is back",
        Progress.PERFORMED: _PAUSED,
        Progress.FINISHED: _LEFT,
        Progress.CONFIRMED: _RUNS,
    }
    return words[far]


def _without_destination_daemon(cell: Cell, far: Progress, late: str) -> str:
    if cell.fault is Fault.STOP and cell.way is Way.REGULAR:
        return "waits for the daemon"
    if far <= Progress.PREPARE:
        return _UNTOUCHED
    if far is Progress.PERFORM and cell.way is Way.REGULAR:
        return "goes on being sent to nobody; 94 s in a trial"
    if far is Progress.FINISHED:
        return _DOUBLE
    return _RUNS if far is Progress.CONFIRMED else _RESUMED + late


def _without_source_hypervisor(cell: Cell, far: Progress, _: str) -> str:
    if cell.fault is Fault.STOP:
        return _FOR_EVER if far <= Progress.PERFORMED else _RUNS
    if far is Progress.PERFORMED and cell.part is Part.SOURCE_HOST:
        return "gone: a destination without its client ends its own copy" if cell.way is Way.P2P else _RUNS
    return _CRASH if far <= Progress.PERFORM else _RUNS


def _without_destination_hypervisor(cell: Cell, far: Progress, late: str) -> str:
    if cell.fault is Fault.STOP:
        return _FOR_EVER
    if cell.part is Part.DESTINATION_HOST and far is Progress.FINISHED:
        return "resumed at the source from before the commit"
    return _CRASH if far >= Progress.FINISHED else _RESUMED + late


def _without_network(cell: Cell, far: Progress, _: str) -> str:
    if far <= Progress.PREPARE:
        return _UNTOUCHED
    if cell.way is Way.REGULAR:
        return _FOR_EVER if far is Progress.PERFORM else "not concerned: the client carries the phases"
    if far is Progress.PERFORM:
        return _RESUMED + _30_S
    return _RUNS if far is Progress.CONFIRMED else _DOUBLE + " if Finish was delivered"


_WITHOUT: Mapping[Part, Callable[[Cell, Progress, str], str]] = {
    Part.CLIENT: _without_client,
    Part.CLIENT_SOURCE: _without_client,
    Part.CLIENT_DESTINATION: _without_client,
    Part.SOURCE_DAEMON: _without_source_daemon,
    Part.DESTINATION_DAEMON: _without_destination_daemon,
    Part.SOURCE_QEMU: _without_source_hypervisor,
    Part.SOURCE_HOST: _without_source_hypervisor,
    Part.DESTINATION_QEMU: _without_destination_hypervisor,
    Part.DESTINATION_HOST: _without_destination_hypervisor,
    Part.SOURCE_DESTINATION: _without_network,
}
