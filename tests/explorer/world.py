"""What there is at one moment: a coordinator, two daemons with their journals, two copies of a guest, and what is on its way.

A world is a value. Of a daemon it has what is durable (`record`, `settled`) and what a crash takes away (all the rest); a
crash takes nothing away from a copy, for hypervisors outlive their daemons. Time does not exist: whatever may be late may be
so late that everything else happens before it, so a bound that runs out is just one more thing that may happen.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from vmferry.coordinator import Asking, Question, Walk
from vmferry.model import DestinationState, Outcome, Phase, SourceState, Verdict
from vmferry.protocol import PROFILES, Profile, ProtocolVersion, peer_to_peer
from vmferryd.jobs.job import DestinationEffect, DestinationEvent, SourceEffect, SourceEvent


class Mode(StrEnum):
    """Who coordinates."""

    REGULAR = "regular"
    PEER_TO_PEER = "p2p"


class Copying(StrEnum):
    """When the destination's CPUs may start: with the whole state, or with pages missing."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True)
class Setting:
    """One configuration. `faults`: every combination of up to so many is explored.

    `slips`: among the faults is a hypervisor that sends the last part although nobody let it (ADR 0007 has the gate).
    """

    protocol: ProtocolVersion
    mode: Mode = Mode.REGULAR
    copying: Copying = Copying.PRE
    faults: int = 2
    slips: bool = False

    @cached_property
    def profile(self) -> Profile:
        """The protocol's row."""
        profile = PROFILES[self.protocol]
        return peer_to_peer(profile) if self.mode is Mode.PEER_TO_PEER else profile

    @cached_property
    def gives_up_in_perform(self) -> bool:
        """Protocols 1 and 2 (handover rule 9)."""
        return self.profile.gives_up_source_in is Phase.PERFORM

    @property
    def name(self) -> str:
        """For people and for test ids."""
        slips = ", a gate that slips" if self.slips else ""
        return f"protocol {self.protocol.value}, {self.mode}, {self.copying}-copy{slips}"


class Copy(StrEnum):
    """What one hypervisor's copy of the guest does. Only RUNNING and PULLING execute."""

    NONE = "none"
    RUNNING = "running"
    HELD = "held"
    SENT = "sent"
    WAITING = "waiting"
    RUNNABLE = "runnable"
    LOADED = "loaded"
    PULLING = "pulling"
    GONE = "gone"

    @property
    def executes(self) -> bool:
        """Its CPUs run."""
        return self in (Copy.RUNNING, Copy.PULLING)

    @property
    def exists(self) -> bool:
        """There is a hypervisor."""
        return self not in (Copy.NONE, Copy.GONE)


class Wire(StrEnum):
    """The way of the guest's state between the hypervisors. LAST: the last part is on its way. PAGES: those of post-copy."""

    NONE = "none"
    OPEN = "open"
    LAST = "last"
    BROKEN = "broken"
    PAGES = "pages"
    CUT = "cut"
    AGAIN = "again"
    DONE = "done"


class Guests(NamedTuple):
    """Both copies, and the way between them. `excused`: a hypervisor died that had what nobody else has."""

    source: Copy = Copy.RUNNING
    destination: Copy = Copy.NONE
    wire: Wire = Wire.NONE
    excused: bool = False


class To(StrEnum):
    """What is asked beside the coordinator's own calls; REFUSED marks a call that will be answered so."""

    WORD = "word"
    TOMBSTONE_FOR_SOURCE = "tombstone for the source"
    CALLED_OFF = "called off"
    REFUSED = "refused"


class Message(NamedTuple):
    """A call on its way. `mine`: the coordinator waits for its reply."""

    call: Asking | To
    verdict: Verdict | None = None
    proof: Outcome | None = None
    mine: bool = True


ENDS = (Question.TOMBSTONE, To.TOMBSTONE_FOR_SOURCE, To.CALLED_OFF)
"""What makes the destination write a tombstone, if it has not committed."""


class Told(StrEnum):
    """What the coordinator has reported in the end."""

    NOTHING = "nothing"
    MOVED = "moved"
    STAYED = "stayed"
    UNKNOWN = "unknown"


class Coordinator(NamedTuple):
    """The walk; None when it has ended or died. `proof`: what Finish signed. `doubt`: a phase answered *in doubt*."""

    walk: Walk | None
    waiting: bool = False
    proof: Outcome | None = None
    doubt: bool = False
    told: Told = Told.NOTHING


class Performing(StrEnum):
    """The task of Perform."""

    NO = "no"
    WANTED = "wanted"
    ON = "on"
    DONE = "done"


class SourceSide(NamedTuple):
    """The source's daemon. `effects` are still to be done under the record's lock, then `follow` happens.

    `begun`: the first effect has begun and is waited for. `wish`: somebody wants the end. `resolving`, `hearing`, `serving`:
    the tasks of these names. `fenced`: an operator has put the whole host out of reach. `calls`: the coordinator's that are
    being served.
    """

    up: bool = True
    record: SourceState | None = None
    settled: bool = True
    effects: tuple[SourceEffect, ...] = ()
    begun: bool = False
    follow: SourceEvent | None = None
    performing: Performing = Performing.NO
    failed: bool = False
    wish: bool = False
    resolving: bool = False
    hearing: bool = False
    serving: bool = False
    fenced: bool = False
    calls: frozenset[Asking] = frozenset()

    @property
    def busy(self) -> bool:
        """The record's lock is held."""
        return bool(self.effects) or self.follow is not None

    @property
    def answering(self) -> bool:
        """Calls come in."""
        return self.up and not self.fenced

    @property
    def answers(self) -> bool:
        """Whoever asks it what its record says can be answered."""
        return self.answering and self.record is not None

    @property
    def unfinished(self) -> bool:
        """A restart has to look at the record."""
        return self.record is not None and not (self.record.final and self.settled)


class DestinationSide(NamedTuple):
    """The destination's daemon. `effects`, `follow` and others are as at the source.

    `opening`: Prepare has found no record, and has not written one; `accepting`: it has, and starts the guest that waits.
    `used`: the ticket for the data channel. `loading`, `finishing`, `resolving`, `pulling`: the tasks of these names.
    """

    up: bool = True
    record: DestinationState | None = None
    settled: bool = True
    effects: tuple[DestinationEffect, ...] = ()
    follow: DestinationEvent | None = None
    opening: bool = False
    accepting: bool = False
    loading: bool = False
    used: bool = False
    has_word: bool = False
    finishing: bool = False
    resolving: bool = False
    pulling: bool = False
    fenced: bool = False
    calls: frozenset[Asking] = frozenset()

    @property
    def busy(self) -> bool:
        """The record's lock is held."""
        return bool(self.effects) or self.follow is not None

    @property
    def answering(self) -> bool:
        """Calls come in."""
        return self.up and not self.fenced

    @property
    def answers(self) -> bool:
        """Whoever asks it what its record says can be answered."""
        return self.answering and self.record is not None

    @property
    def unfinished(self) -> bool:
        """A restart has to look at the record."""
        return self.record is not None and not (self.record.final and self.settled)

    @property
    def outcome(self) -> Outcome:
        """What the record says."""
        return Outcome.PENDING if self.record is None else self.record.outcome


class World(NamedTuple):
    """Everything."""

    coordinator: Coordinator
    source: SourceSide
    destination: DestinationSide
    guests: Guests
    net: frozenset[Message]


class Move(NamedTuple):
    """One thing that may happen, in words, and the world afterwards. `fault`: somebody or something failed."""

    words: str
    world: World
    fault: bool = False
