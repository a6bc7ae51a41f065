"""What a pause consists of, from the trace events of the two QEMUs of one direct move. Pure.

While a guest stands still the daemons are waited for twice: between QEMU's word that it has stopped to send and the source's
that it may send the last part, which is durably on record by then; and between the destination's QEMU having everything and
the guest's start, which is committed in between.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

EVENTS = ("migrate_set_state", "runstate_set")
"""What QEMU has to trace."""

PAUSE_HEADINGS = ("inside the pause", "median ms", "worst ms")

_LINE = re.compile(r"\d+@(\d+\.\d+):(.*)")
_HELD = "new state pre-switchover"
_INCOMING = "(inmigrate) new_state"
_SOURCE, _DESTINATION = "source", "destination"
_STEPS = (
    (_SOURCE, "(running) new_state"),
    (_SOURCE, _HELD),
    (_SOURCE, "new state device"),
    (_DESTINATION, "new state completed"),
    (_DESTINATION, "new_state 9 (running)"),
)
"""In this order, each with the QEMU that says so."""


class IncompleteTrace(Exception):
    """The QEMUs did not trace all that the shares of a pause are made of; which event is missing is in the text."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a QEMU did, by the clock of its host."""

    at_s: float
    words: str


@dataclass(frozen=True, slots=True)
class Pause:
    """One pause, in its order: QEMU stops to send, the source's daemon lets the last part go, it goes, the daemons start it.

    `stopping_ms` is from the stop of the CPUs on, and is counted as QEMU's. The source's daemon opens the gate meanwhile:
    QEMU 8.1 and later goes on without that, and before 8.1 it comes while QEMU waits for the end of its slot.
    """

    stopping_ms: float
    source_ms: float
    last_part_ms: float
    destination_ms: float

    @property
    def daemons_ms(self) -> float:
        """How long the guest stood still for the daemons."""
        return self.source_ms + self.destination_ms


@dataclass(frozen=True, slots=True)
class Share:
    """One part of several pauses."""

    what: str
    median_ms: float
    worst_ms: float


def events(trace: str) -> list[Event]:
    """What one QEMU traced, in its order; lines of another kind are passed over."""
    return [Event(float(found[1]), found[2]) for found in map(_LINE.fullmatch, trace.splitlines()) if found]


def pause_in(traces: Sequence[str]) -> Pause:
    """The pause of a move, from the traces of all QEMUs that ran meanwhile.

    Raises:
        IncompleteTrace: an event is missing.
    """
    everything = [events(trace) for trace in traces]
    sides = {_SOURCE: _the_one(everything, _SOURCE, _HELD), _DESTINATION: _the_one(everything, _DESTINATION, _INCOMING)}
    moments_s = [0.0]
    for side, words in _STEPS:
        moments_s.append(_first(sides[side], side, words, moments_s[-1]))
    return Pause(*((later - earlier) * 1000 for earlier, later in pairwise(moments_s[1:])))


def _the_one(everything: Sequence[Sequence[Event]], side: str, words: str) -> Sequence[Event]:
    for found in everything:
        if any(words in event.words for event in found):
            return found
    raise IncompleteTrace(f"no QEMU traced “{words}”, by which the {side} is known; it has to know {', '.join(EVENTS)}")


def _first(found: Sequence[Event], side: str, words: str, since_s: float) -> float:
    for event in found:
        if event.at_s >= since_s and words in event.words:
            return event.at_s
    raise IncompleteTrace(f"the {side}'s QEMU did not trace “{words}” when it was due")


def shares(pauses: Sequence[Pause]) -> list[Share]:
    """Each part of the pauses, and the daemons' together; none without pauses."""
    parts = {
        "until QEMU has stopped to send": [one.stopping_ms for one in pauses],
        "the daemons, at the source": [one.source_ms for one in pauses],
        "QEMU's last part": [one.last_part_ms for one in pauses],
        "the daemons, at the destination": [one.destination_ms for one in pauses],
        "the daemons, in all": [one.daemons_ms for one in pauses],
    }
    return [Share(what, float(median(values)), max(values)) for what, values in parts.items() if values]


def share_rows(found: Sequence[Share]) -> list[tuple[str, ...]]:
    """The table, below `PAUSE_HEADINGS`."""
    return [(one.what, f"{one.median_ms:.1f}", f"{one.worst_ms:.1f}") for one in found]
