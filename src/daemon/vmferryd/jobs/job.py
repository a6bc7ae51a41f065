"""The job tables: what each host's record of a migration may become, and what has to be done then. Pure.

Everything that affects a transition lives in this file, and this file does no I/O. The rule for whoever carries a step out:
**the new state is durable before its first effect begins**, and `settled` is written when the last effect is done. A step
that a crash interrupted is carried out again by `RESTARTED`; therefore every effect may happen twice.

::

    source        BEGUN ──PERFORM──▶ PERFORMING ──HELD──▶ RELEASED ──PROVED_COMMITTED──▶ CONFIRMED
                    │                    │                   │  ▲
                    └──────END──────▶ CANCELLED ◀─────────── ┘  └─ DOUBT, RESTARTED: ask the peer
                                               PROVED_ABORTED

    destination   PREPARED ──────────LOADED_RELEASED──────────────────▶┐
                     └──────LOADED──▶ RECEIVED ──RELEASED, FINISH──▶ COMMITTED
                     │                    │   ▲
                     └────END, ABORT──▶ ABORTED└─ DOUBT, RESTARTED: ask the peer

Where the rules of the handover design are kept: 1 in COMMITTED before RUN, and in ABORTED having no way out; 2 in RELEASED
before LET_GO, and in RELEASED having no way to TAKE_BACK but PROVED_ABORTED; 3 in GIVE_UP having no way but
PROVED_COMMITTED; 5 in DOUBT; 6 in the OPERATOR events, which stand in for a proof that nobody can give any more and which
only a record in doubt can take; 8 in RELEASED of the destination's events.
LOADED_RELEASED saves one write to the disk while the guest stands still.

A direct migration has no daemon at its other end, and so nobody but the source's own hypervisor can prove anything: ARRIVED,
the receiver has acknowledged the whole, stands in for PROVED_COMMITTED, and NEVER_LEFT, the last part was not sent, for
PROVED_ABORTED. Between the two lies silence, which is no event: then the operator decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from vmferry.errors import PhaseOutOfOrder
from vmferry.model import DestinationState, SourceState


class SourceEvent(StrEnum):
    """What can happen to the source's record."""

    PERFORM = "perform"
    HELD = "held"
    END = "end"
    DOUBT = "doubt"
    PROVED_COMMITTED = "proved-committed"
    PROVED_ABORTED = "proved-aborted"
    ARRIVED = "arrived"
    NEVER_LEFT = "never-left"
    OPERATOR_KEEPS_HERE = "operator-keeps-here"
    OPERATOR_KEEPS_THERE = "operator-keeps-there"
    RESTARTED = "restarted"


class SourceEffect(StrEnum):
    """What the source has to do after a step. ASK_PEER asks whoever can know: in a direct migration the own hypervisor."""

    SEND = "send"
    LET_GO = "let-go"
    TAKE_BACK = "take-back"
    GIVE_UP = "give-up"
    ASK_PEER = "ask-peer"
    CLOSE_JOB = "close-job"


class DestinationEvent(StrEnum):
    """What can happen to the destination's record."""

    LOADED = "loaded"
    LOADED_RELEASED = "loaded-released"
    RELEASED = "released"
    FINISH = "finish"
    END = "end"
    ABORT = "abort"
    DOUBT = "doubt"
    OPERATOR_KEEPS_HERE = "operator-keeps-here"
    OPERATOR_KEEPS_THERE = "operator-keeps-there"
    RESTARTED = "restarted"


class DestinationEffect(StrEnum):
    """What the destination has to do after a step."""

    RUN = "run"
    DISCARD = "discard"
    ASK_PEER = "ask-peer"
    CLOSE_JOB = "close-job"


S = TypeVar("S", SourceState, DestinationState)
E = TypeVar("E", SourceEvent, DestinationEvent)
F = TypeVar("F", SourceEffect, DestinationEffect)


@dataclass(frozen=True)
class Step(Generic[S, F]):
    """The state to write, then the effects to carry out, in order."""

    state: S
    effects: tuple[F, ...] = ()


Source = Step[SourceState, SourceEffect]
Destination = Step[DestinationState, DestinationEffect]

_TAKEN_BACK = Source(SourceState.CANCELLED, (SourceEffect.TAKE_BACK, SourceEffect.CLOSE_JOB))
_GIVEN_UP = Source(SourceState.CONFIRMED, (SourceEffect.GIVE_UP, SourceEffect.CLOSE_JOB))
_ASKING = Source(SourceState.RELEASED, (SourceEffect.ASK_PEER,))

SOURCE: Mapping[SourceState, Mapping[SourceEvent, Source]] = {
    SourceState.BEGUN: {
        SourceEvent.PERFORM: Source(SourceState.PERFORMING, (SourceEffect.SEND,)),
        SourceEvent.END: Source(SourceState.CANCELLED, (SourceEffect.CLOSE_JOB,)),
        SourceEvent.RESTARTED: Source(SourceState.CANCELLED, (SourceEffect.CLOSE_JOB,)),
    },
    SourceState.PERFORMING: {
        SourceEvent.HELD: Source(SourceState.RELEASED, (SourceEffect.LET_GO,)),
        SourceEvent.END: _TAKEN_BACK,
        SourceEvent.RESTARTED: _TAKEN_BACK,
    },
    SourceState.RELEASED: {
        SourceEvent.DOUBT: _ASKING,
        SourceEvent.RESTARTED: _ASKING,
        SourceEvent.PROVED_COMMITTED: _GIVEN_UP,
        SourceEvent.PROVED_ABORTED: _TAKEN_BACK,
        SourceEvent.ARRIVED: _GIVEN_UP,
        SourceEvent.NEVER_LEFT: _TAKEN_BACK,
        SourceEvent.OPERATOR_KEEPS_HERE: _TAKEN_BACK,
        SourceEvent.OPERATOR_KEEPS_THERE: _GIVEN_UP,
    },
    SourceState.CONFIRMED: {SourceEvent.RESTARTED: _GIVEN_UP},
    SourceState.CANCELLED: {SourceEvent.RESTARTED: _TAKEN_BACK},
}

_COMMITTED = Destination(DestinationState.COMMITTED, (DestinationEffect.RUN, DestinationEffect.CLOSE_JOB))
_ABORTED = Destination(DestinationState.ABORTED, (DestinationEffect.DISCARD, DestinationEffect.CLOSE_JOB))
_WONDERING = Destination(DestinationState.RECEIVED, (DestinationEffect.ASK_PEER,))

DESTINATION: Mapping[DestinationState, Mapping[DestinationEvent, Destination]] = {
    DestinationState.PREPARED: {
        DestinationEvent.LOADED: Destination(DestinationState.RECEIVED),
        DestinationEvent.LOADED_RELEASED: _COMMITTED,
        DestinationEvent.END: _ABORTED,
        DestinationEvent.ABORT: _ABORTED,
        DestinationEvent.RESTARTED: _ABORTED,
    },
    DestinationState.RECEIVED: {
        DestinationEvent.RELEASED: _COMMITTED,
        DestinationEvent.FINISH: _COMMITTED,
        DestinationEvent.END: _ABORTED,
        DestinationEvent.ABORT: _ABORTED,
        DestinationEvent.DOUBT: _WONDERING,
        DestinationEvent.OPERATOR_KEEPS_HERE: _COMMITTED,
        DestinationEvent.OPERATOR_KEEPS_THERE: _ABORTED,
        DestinationEvent.RESTARTED: _WONDERING,
    },
    DestinationState.COMMITTED: {DestinationEvent.RESTARTED: _COMMITTED},
    DestinationState.ABORTED: {DestinationEvent.RESTARTED: _ABORTED},
}


def source_step(state: SourceState, event: SourceEvent) -> Source:
    """What `event` makes of the source's record in `state`.

    Raises:
        PhaseOutOfOrder: the table has no such step; nothing may be done.
    """
    return _step(SOURCE, state, event)


def destination_step(state: DestinationState, event: DestinationEvent) -> Destination:
    """What `event` makes of the destination's record in `state`.

    Raises:
        PhaseOutOfOrder: the table has no such step; nothing may be done.
    """
    return _step(DESTINATION, state, event)


def _step(table: Mapping[S, Mapping[E, Step[S, F]]], state: S, event: E) -> Step[S, F]:
    try:
        return table[state][event]
    except KeyError:
        known = ", ".join(table[state]) or "nothing"
        raise PhaseOutOfOrder(f"a migration that is {state} cannot take {event}", detail=f"it can take: {known}") from None
