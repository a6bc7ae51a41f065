"""What a call, an answer, a hypervisor's word or a restart amounts to: an event of the job tables, or none. Pure.

The tables say what an event does; here is which event it is. The phases ask under the lock of the record, so that no decision
is older than the state that it was made for, and the explorer asks the same functions. None means: nothing is to be done.
No error, no silence and no verdict is ever an argument of a decision that runs a copy or gives one up.
"""

from __future__ import annotations

from enum import StrEnum

from vmferry.endpoint import Settled
from vmferry.errors import PhaseOutOfOrder
from vmferry.model import DestinationState, Outcome, SourceState, Verdict
from vmferryd.drivers.fate import Fate
from vmferryd.jobs.job import DestinationEvent, SourceEvent

# -- the source ------------------------------------------------------------------------------------------------------

UNRELEASED = (SourceState.BEGUN, SourceState.PERFORMING)
"""The source decides alone."""

SERVES = (SourceState.SERVING, SourceState.SERVING_FAILED)
"""The guest lives at the destination, and needs this copy."""


def source_outcome(state: SourceState) -> Outcome:
    """What the source knows of the end."""
    match state:
        case SourceState.CONFIRMED:
            return Outcome.COMMITTED
        case SourceState.CANCELLED:
            return Outcome.ABORTED
        case SourceState.SERVING | SourceState.SERVING_FAILED:
            return Outcome.POSTCOPY
        case _:
            return Outcome.PENDING


def source_ends(state: SourceState) -> SourceEvent | None:
    """Somebody wishes that it ends, or nobody coordinates it any more."""
    if state in UNRELEASED:
        return SourceEvent.END
    return None if state.final else SourceEvent.DOUBT


def source_performed(state: SourceState, *, failed: bool) -> SourceEvent | None:
    """The work of Perform is over, and `failed` says whether anything went wrong."""
    if state in UNRELEASED:
        return SourceEvent.END
    return SourceEvent.DOUBT if state is SourceState.RELEASED and failed else None


def source_proved(state: SourceState, outcome: Outcome) -> SourceEvent | None:
    """The destination's own word is `outcome`. One that contradicts what it said before is none."""
    match outcome:
        case Outcome.COMMITTED if state is SourceState.RELEASED or state in SERVES:
            return SourceEvent.PROVED_COMMITTED
        case Outcome.ABORTED if state is SourceState.RELEASED:
            return SourceEvent.PROVED_ABORTED
        case Outcome.POSTCOPY if state is SourceState.RELEASED:
            return SourceEvent.PROVED_POSTCOPY
        case _:
            return None


def source_fate(state: SourceState, fate: Fate) -> SourceEvent | None:
    """The own hypervisor has said what it can prove of the last part, where no daemon receives and so nobody else can."""
    if state is not SourceState.RELEASED:
        return None
    match fate:
        case Fate.ARRIVED:
            return SourceEvent.ARRIVED
        case Fate.KEPT:
            return SourceEvent.NEVER_LEFT
        case Fate.ON_ITS_WAY | Fate.UNKNOWN:
            return None


class Wish(StrEnum):
    """What a source in doubt asks of a destination that has not decided."""

    TOMBSTONE = "tombstone"
    COMMIT = "commit"


def source_wishes(state: SourceState, said: Settled, *, alive: bool, waited: bool) -> Wish | None:
    """The destination has answered, and has not decided: it is asked to decide (handover rule 5).

    `alive`: the copy here could run again. A tombstone for a guest that is gone here would lose it, for the destination may
    hold it whole; the source's word stands, and is given again. `waited`: what was under way when this copy died has had its
    time to arrive; a destination that is not loaded by then never will be.
    """
    if state is not SourceState.RELEASED or said.outcome is not Outcome.PENDING:
        return None
    hopeless = waited and said.state not in LOADED
    return Wish.TOMBSTONE if alive or hopeless else Wish.COMMIT


def source_confirms(state: SourceState, verdict: Verdict, proof: Outcome | None) -> SourceEvent | None:
    """Confirm was called. `proof` is what the destination has signed; the verdict proves nothing (handover rule 3).

    Raises:
        PhaseOutOfOrder: the guest is on its way, or was never sent although the verdict is to commit.
    """
    if state is SourceState.BEGUN and verdict is Verdict.ROLL_BACK:
        return SourceEvent.END
    if state in UNRELEASED:
        raise PhaseOutOfOrder(f"the migration is {state}: there is nothing to confirm")
    proved = source_proved(state, proof or Outcome.PENDING)
    return proved or (None if state.final else SourceEvent.DOUBT)


def source_cut(state: SourceState) -> SourceEvent | None:
    """The way of the pages that the destination needs is cut, or no new way could be opened (handover rule 7)."""
    return SourceEvent.CUT if state is SourceState.SERVING else None


def source_resumes(state: SourceState) -> SourceEvent | None:
    """Somebody takes a migration up again whose way was cut."""
    return SourceEvent.RECOVER if state is SourceState.SERVING_FAILED else None


def source_gone(state: SourceState) -> SourceEvent | None:
    """The copy that the destination needed has died."""
    return SourceEvent.GONE if state in SERVES else None


# -- the destination -------------------------------------------------------------------------------------------------

LOADED = (DestinationState.RECEIVED, DestinationState.RUNNABLE)
"""The guest could run here, and nobody has said yet that it may."""

OPEN = (DestinationState.PREPARED, *LOADED)
"""Nothing is committed, and no tombstone stands."""


def destination_loaded(state: DestinationState, *, alive: bool, has_word: bool) -> DestinationEvent | None:
    """The whole state is loaded. `has_word`: the source has said that it released the guest (handover rule 8)."""
    if state not in (DestinationState.PREPARED, DestinationState.RUNNABLE):
        return None
    if not alive:
        return DestinationEvent.END
    prompt = has_word and state is DestinationState.PREPARED
    return DestinationEvent.LOADED_RELEASED if prompt else DestinationEvent.LOADED


def destination_runnable(state: DestinationState, *, alive: bool, has_word: bool) -> DestinationEvent | None:
    """The guest could run, with pages missing."""
    if state is not DestinationState.PREPARED:
        return None
    if not alive:
        return DestinationEvent.END
    return DestinationEvent.RUNNABLE_RELEASED if has_word else DestinationEvent.RUNNABLE


def destination_released(state: DestinationState, *, alive: bool) -> DestinationEvent | None:
    """The source's word is here."""
    if state not in LOADED:
        return None
    return DestinationEvent.RELEASED if alive else DestinationEvent.END


def destination_finishes(state: DestinationState, *, alive: bool) -> DestinationEvent | None:
    """Finish wishes to commit, and the time in which the state had to come is over. A state that is here was released."""
    if state in LOADED:
        return DestinationEvent.FINISH if alive else DestinationEvent.END
    return destination_aborts(state)


def definition_finishes(state: DestinationState, *, alive: bool) -> DestinationEvent | None:  # noqa: ARG001 - as its sister
    """Finish wishes to commit a definition that has no transfer: the source is asked first."""
    return DestinationEvent.FINISH if state is DestinationState.PREPARED else None


def destination_not_loaded(state: DestinationState) -> DestinationEvent | None:
    """The state never comes: the transfer broke, or the hypervisor died."""
    return DestinationEvent.END if state in OPEN else None


def destination_aborts(state: DestinationState) -> DestinationEvent | None:
    """Somebody wishes that it ends. A commit stays one, also with pages missing (handover rules 4, 7)."""
    return DestinationEvent.ABORT if state in OPEN else None


def destination_unwritten(state: DestinationState) -> DestinationEvent | None:
    """The journal kept Finish from its end. The coordinator has had its answer: what has not even arrived ends."""
    return DestinationEvent.ABORT if state is DestinationState.PREPARED else None


def destination_abandoned(state: DestinationState, *, loading: bool) -> DestinationEvent | None:
    """Nobody coordinates it any more. While data flows the source is in charge; what is loaded only the source can tell."""
    if loading:
        return None
    if state in LOADED:
        return DestinationEvent.DOUBT
    return destination_aborts(state)


def destination_answered(state: DestinationState, said: Settled, *, alive: bool) -> DestinationEvent | None:
    """The source answered what its journal says. Silence is no answer, and never comes here (handover rule 5)."""
    if state not in LOADED:
        return None
    if not alive:
        return DestinationEvent.ABORT
    if said.state == SourceState.RELEASED:
        return DestinationEvent.RELEASED
    return DestinationEvent.ABORT if said.outcome is Outcome.ABORTED else None


PULLS = (DestinationState.POSTCOPY, DestinationState.POSTCOPY_FAILED)
"""The guest lives here with pages missing."""


def destination_whole(state: DestinationState) -> DestinationEvent | None:
    """The last page has arrived (handover rule 7)."""
    return DestinationEvent.WHOLE if state in PULLS else None


def destination_cut(state: DestinationState) -> DestinationEvent | None:
    """The way of the missing pages is cut, or the guest cannot wait for a new one."""
    return DestinationEvent.CUT if state is DestinationState.POSTCOPY else None


def destination_resumes(state: DestinationState) -> DestinationEvent | None:
    """Somebody takes a migration up again whose way was cut."""
    return DestinationEvent.RECOVER if state is DestinationState.POSTCOPY_FAILED else None


def destination_gone(state: DestinationState) -> DestinationEvent | None:
    """The guest that lived here with pages missing has died."""
    return DestinationEvent.GONE if state in PULLS else None


def destination_restarted(state: DestinationState, *, alive: bool) -> DestinationEvent:
    """A daemon has found its record again, and the hypervisor's process or none."""
    return DestinationEvent.ABORT if state in LOADED and not alive else DestinationEvent.RESTARTED
