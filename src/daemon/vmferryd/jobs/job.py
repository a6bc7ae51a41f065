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
only a record in doubt can take; 7 in SERVING and POSTCOPY having no way to CANCELLED or ABORTED, and none to GIVE_UP but a
commit, which a destination with pages missing never answers; 8 in RELEASED of the destination's events.
LOADED_RELEASED saves one write to the disk while the guest stands still.

Post-copy: what arrives first lets the guest run with pages missing, so RUNNABLE stands where RECEIVED does. From the
destination's CPUs on there is no way back: the source's copy never executes again and is kept for its pages, until the
destination has them all. A cut leaves both sides waiting for the migration to be taken up again under the same id::

    source        RELEASED ──PROVED_POSTCOPY──▶ SERVING ──PROVED_COMMITTED, GONE──▶ CONFIRMED
                                                 │  ▲                                  ▲
                                                CUT RECOVER                            │
                                                 ▼  │                                  │
                                           SERVING_FAILED ──PROVED_COMMITTED, GONE─────┘

    destination   RUNNABLE ──RELEASED, FINISH──▶ POSTCOPY ──WHOLE, GONE──▶ COMMITTED
                                                  │  ▲                         ▲
                                                 CUT RECOVER                   │
                                                  ▼  │                         │
                                            POSTCOPY_FAILED ──WHOLE, GONE──────┘

GONE is the one loss that post-copy has by its nature: a hypervisor died on either side while each had pages that the other
needed. The record then ends, for there is nothing left to keep.

A direct migration has no daemon at its other end, and so nobody but the source's own hypervisor can prove anything: ARRIVED,
the receiver has acknowledged the whole, stands in for PROVED_COMMITTED, and NEVER_LEFT, the last part was not sent, for
PROVED_ABORTED. Between the two lies silence, which is no event: then the operator decides.

A migration of a definition alone (OFFLINE) has no Perform, in which the source could write RELEASED. There the destination
asks for it when Finish comes: its row FINISH leads to REQUEST_RELEASE, the source's row RELEASE_REQUESTED to RELEASED, and
from then on both tables are the usual ones. With disks it is a transfer like a guest's, by the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from vmferry.errors import PhaseOutOfOrder
from vmferry.flags import STORAGE, Flag
from vmferry.model import DestinationState, SourceState


class SourceEvent(StrEnum):
    """What can happen to the source's record."""

    PERFORM = "perform"
    HELD = "held"
    END = "end"
    DOUBT = "doubt"
    PROVED_COMMITTED = "proved-committed"
    PROVED_ABORTED = "proved-aborted"
    PROVED_POSTCOPY = "proved-post-copy"
    CUT = "cut"
    RECOVER = "recover"
    GONE = "gone"
    RELEASE_REQUESTED = "release-requested"
    ARRIVED = "arrived"
    NEVER_LEFT = "never-left"
    OPERATOR_KEEPS_HERE = "operator-keeps-here"
    OPERATOR_KEEPS_THERE = "operator-keeps-there"
    RESTARTED = "restarted"


class SourceEffect(StrEnum):
    """What the source has to do after a step. ASK_PEER asks whoever can know: in a direct migration the own hypervisor.

    SERVE watches over a copy whose pages the destination needs, and tells of its end: DOUBT when all are sent, CUT, GONE.
    SEND_AGAIN opens a new way for the pages of a transfer that was cut.
    """

    SEND = "send"
    LET_GO = "let-go"
    TAKE_BACK = "take-back"
    GIVE_UP = "give-up"
    ASK_PEER = "ask-peer"
    CLOSE_JOB = "close-job"
    SERVE = "serve"
    SEND_AGAIN = "send-again"


class DestinationEvent(StrEnum):
    """What can happen to the destination's record."""

    LOADED = "loaded"
    LOADED_RELEASED = "loaded-released"
    RUNNABLE = "runnable"
    RUNNABLE_RELEASED = "runnable-released"
    RELEASED = "released"
    FINISH = "finish"
    END = "end"
    ABORT = "abort"
    DOUBT = "doubt"
    WHOLE = "whole"
    CUT = "cut"
    RECOVER = "recover"
    GONE = "gone"
    OPERATOR_KEEPS_HERE = "operator-keeps-here"
    OPERATOR_KEEPS_THERE = "operator-keeps-there"
    RESTARTED = "restarted"


class DestinationEffect(StrEnum):
    """What the destination has to do after a step.

    PULL watches over a guest that runs with pages missing, and tells of its end: WHOLE, CUT, GONE. RECEIVE_AGAIN lets the
    guest wait for a new way of its pages.
    """

    RUN = "run"
    REQUEST_RELEASE = "request-release"
    DISCARD = "discard"
    ASK_PEER = "ask-peer"
    CLOSE_JOB = "close-job"
    PULL = "pull"
    RECEIVE_AGAIN = "receive-again"


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
_SERVING = Source(SourceState.SERVING, (SourceEffect.SERVE,))
_CUT_OFF = Source(SourceState.SERVING_FAILED)

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
        SourceEvent.PROVED_POSTCOPY: _SERVING,
        SourceEvent.ARRIVED: _GIVEN_UP,
        SourceEvent.NEVER_LEFT: _TAKEN_BACK,
        SourceEvent.OPERATOR_KEEPS_HERE: _TAKEN_BACK,
        SourceEvent.OPERATOR_KEEPS_THERE: _GIVEN_UP,
    },
    SourceState.SERVING: {
        SourceEvent.DOUBT: Source(SourceState.SERVING, (SourceEffect.ASK_PEER,)),
        SourceEvent.CUT: _CUT_OFF,
        SourceEvent.GONE: _GIVEN_UP,
        SourceEvent.PROVED_COMMITTED: _GIVEN_UP,
        SourceEvent.RESTARTED: _SERVING,
    },
    SourceState.SERVING_FAILED: {
        SourceEvent.DOUBT: Source(SourceState.SERVING_FAILED, (SourceEffect.ASK_PEER,)),
        SourceEvent.RECOVER: Source(SourceState.SERVING, (SourceEffect.SEND_AGAIN, SourceEffect.SERVE)),
        SourceEvent.GONE: _GIVEN_UP,
        SourceEvent.PROVED_COMMITTED: _GIVEN_UP,
        SourceEvent.OPERATOR_KEEPS_THERE: _GIVEN_UP,
        SourceEvent.RESTARTED: _CUT_OFF,
    },
    SourceState.CONFIRMED: {SourceEvent.RESTARTED: _GIVEN_UP},
    SourceState.CANCELLED: {SourceEvent.RESTARTED: _TAKEN_BACK},
}

_COMMITTED = Destination(DestinationState.COMMITTED, (DestinationEffect.RUN, DestinationEffect.CLOSE_JOB))
_ABORTED = Destination(DestinationState.ABORTED, (DestinationEffect.DISCARD, DestinationEffect.CLOSE_JOB))
_WONDERING = Destination(DestinationState.RECEIVED, (DestinationEffect.ASK_PEER,))
_HALF_HERE = Destination(DestinationState.RUNNABLE, (DestinationEffect.ASK_PEER,))
_PULLING = Destination(DestinationState.POSTCOPY, (DestinationEffect.RUN, DestinationEffect.PULL))
_CUT = Destination(DestinationState.POSTCOPY_FAILED)

DESTINATION: Mapping[DestinationState, Mapping[DestinationEvent, Destination]] = {
    DestinationState.PREPARED: {
        DestinationEvent.LOADED: Destination(DestinationState.RECEIVED),
        DestinationEvent.LOADED_RELEASED: _COMMITTED,
        DestinationEvent.RUNNABLE: Destination(DestinationState.RUNNABLE),
        DestinationEvent.RUNNABLE_RELEASED: _PULLING,
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
    DestinationState.RUNNABLE: {
        DestinationEvent.LOADED: Destination(DestinationState.RECEIVED),
        DestinationEvent.RELEASED: _PULLING,
        DestinationEvent.FINISH: _PULLING,
        DestinationEvent.END: _ABORTED,
        DestinationEvent.ABORT: _ABORTED,
        DestinationEvent.DOUBT: _HALF_HERE,
        DestinationEvent.OPERATOR_KEEPS_THERE: _ABORTED,
        DestinationEvent.RESTARTED: _HALF_HERE,
    },
    DestinationState.POSTCOPY: {
        DestinationEvent.WHOLE: _COMMITTED,
        DestinationEvent.GONE: _COMMITTED,
        DestinationEvent.CUT: _CUT,
        DestinationEvent.RESTARTED: _PULLING,
    },
    DestinationState.POSTCOPY_FAILED: {
        DestinationEvent.WHOLE: _COMMITTED,
        DestinationEvent.GONE: _COMMITTED,
        DestinationEvent.RECOVER: Destination(
            DestinationState.POSTCOPY, (DestinationEffect.RECEIVE_AGAIN, DestinationEffect.PULL)
        ),
        DestinationEvent.RESTARTED: _CUT,
    },
    DestinationState.COMMITTED: {DestinationEvent.RESTARTED: _COMMITTED},
    DestinationState.ABORTED: {DestinationEvent.RESTARTED: _ABORTED},
}


SOURCE_OF_DEFINITION: Mapping[SourceState, Mapping[SourceEvent, Source]] = {
    **SOURCE,
    SourceState.BEGUN: {
        SourceEvent.RELEASE_REQUESTED: Source(SourceState.RELEASED),
        SourceEvent.END: Source(SourceState.CANCELLED, (SourceEffect.CLOSE_JOB,)),
        SourceEvent.RESTARTED: Source(SourceState.CANCELLED, (SourceEffect.CLOSE_JOB,)),
    },
    SourceState.PERFORMING: {},
}

DESTINATION_OF_DEFINITION: Mapping[DestinationState, Mapping[DestinationEvent, Destination]] = {
    **DESTINATION,
    DestinationState.PREPARED: {
        DestinationEvent.FINISH: Destination(DestinationState.PREPARED, (DestinationEffect.REQUEST_RELEASE,)),
        DestinationEvent.RELEASED: _COMMITTED,
        DestinationEvent.END: _ABORTED,
        DestinationEvent.ABORT: _ABORTED,
        DestinationEvent.RESTARTED: _ABORTED,
    },
    DestinationState.RECEIVED: {},
}


class Cargo(StrEnum):
    """What a migration moves."""

    GUEST = "guest"
    DEFINITION = "definition"
    DISKS = "disks"


def cargo(flags: Flag) -> Cargo:
    """What a migration with these flags moves; with the disks of a domain its definition moves, too."""
    if Flag.OFFLINE not in flags:
        return Cargo.GUEST
    return Cargo.DISKS if flags & STORAGE else Cargo.DEFINITION


def source_table(moved: Cargo) -> Mapping[SourceState, Mapping[SourceEvent, Source]]:
    """The source's table."""
    return SOURCE_OF_DEFINITION if moved is Cargo.DEFINITION else SOURCE


def destination_table(moved: Cargo) -> Mapping[DestinationState, Mapping[DestinationEvent, Destination]]:
    """The destination's table."""
    return DESTINATION_OF_DEFINITION if moved is Cargo.DEFINITION else DESTINATION


def source_step(state: SourceState, event: SourceEvent) -> Source:
    """What `event` makes of the source's record in `state`, for a guest.

    Raises:
        PhaseOutOfOrder: the table has no such step; nothing may be done.
    """
    return step(SOURCE, state, event)


def destination_step(state: DestinationState, event: DestinationEvent) -> Destination:
    """What `event` makes of the destination's record in `state`, for a guest.

    Raises:
        PhaseOutOfOrder: the table has no such step; nothing may be done.
    """
    return step(DESTINATION, state, event)


def step(table: Mapping[S, Mapping[E, Step[S, F]]], state: S, event: E) -> Step[S, F]:
    """What `event` makes of a record in `state`.

    Raises:
        PhaseOutOfOrder: the table has no such step; nothing may be done.
    """
    try:
        return table[state][event]
    except KeyError:
        known = ", ".join(table[state]) or "nothing"
        raise PhaseOutOfOrder(f"a migration that is {state} cannot take {event}", detail=f"it can take: {known}") from None
