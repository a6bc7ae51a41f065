"""For each rule of the handover, programs that break it. The explorer has to find every one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from explorer.rules import REAL, Rules
from explorer.world import Copying, Mode, Setting
from vmferry import coordinator
from vmferry.coordinator import Heard, Question, Walk
from vmferry.model import DestinationState, Outcome, SourceState, Verdict
from vmferry.protocol import Profile, ProtocolVersion
from vmferryd.jobs import decisions
from vmferryd.jobs.job import (
    Destination,
    DestinationEffect,
    DestinationEvent,
    Source,
    SourceEffect,
    SourceEvent,
)

V1, V3 = ProtocolVersion.V1, ProtocolVersion.V3
PRE, POST = Setting(V3, faults=1), Setting(V3, copying=Copying.POST, faults=1)
SLIPS = replace(PRE, mode=Mode.PEER_TO_PEER, slips=True, faults=2)
"""Some rules guard against a hypervisor that does what it was not told."""

TAKEN_BACK = Source(SourceState.CANCELLED, (SourceEffect.TAKE_BACK, SourceEffect.CLOSE_JOB))
GIVEN_UP = Source(SourceState.CONFIRMED, (SourceEffect.GIVE_UP, SourceEffect.CLOSE_JOB))
COMMITTED = Destination(DestinationState.COMMITTED, (DestinationEffect.RUN, DestinationEffect.CLOSE_JOB))
ABORTED = Destination(DestinationState.ABORTED, (DestinationEffect.DISCARD, DestinationEffect.CLOSE_JOB))


@dataclass(frozen=True)
class Mutant:
    """A program that breaks `rule` of the handover, and the setting in which that shows."""

    rule: int
    name: str
    rules: Rules
    setting: Setting = PRE


def _source(state: SourceState, **steps: Source) -> Rules:
    """The real rules with other steps of the source in `state`; names are events."""
    return replace(REAL, source=_changed(REAL.source, SourceEvent, state, steps))


def _destination(state: DestinationState, **steps: Destination) -> Rules:
    """The real rules with other steps of the destination in `state`; names are events."""
    return replace(REAL, destination=_changed(REAL.destination, DestinationEvent, state, steps))


def _changed(table: Any, events: Any, state: Any, steps: Mapping[str, Any]) -> Any:
    changed = {events[name]: step for name, step in steps.items()}
    return {**table, state: {**table[state], **changed}}


def _runs_first() -> Rules:
    runs = Destination(DestinationState.RECEIVED, (DestinationEffect.RUN, DestinationEffect.ASK_PEER))
    return _destination(DestinationState.RECEIVED, RELEASED=runs, FINISH=runs)


def _commits_over_a_tombstone() -> Rules:
    def finishes(state: DestinationState, *, alive: bool) -> DestinationEvent | None:
        over = state is DestinationState.ABORTED
        return DestinationEvent.FINISH if over else decisions.destination_finishes(state, alive=alive)

    return replace(_destination(DestinationState.ABORTED, FINISH=COMMITTED), destination_finishes=finishes)


def _obeys(verdict: Verdict, event: SourceEvent) -> Rules:
    def confirms(state: SourceState, wish: Verdict, proof: Outcome | None) -> SourceEvent | None:
        obeyed = state is SourceState.RELEASED and wish is verdict
        return event if obeyed else decisions.source_confirms(state, wish, proof)

    return replace(REAL, source_confirms=confirms)


def _like_libvirt() -> Rules:
    """A lost reply of Finish is a failure, and the source is resumed (virDomainMigrateVersion3Full)."""

    def after(profile: Profile, walk: Walk, heard: Heard) -> Walk:
        heard = Heard.ABORTED if walk.asking is Question.TOMBSTONE else heard
        return coordinator.after(profile, walk, heard)

    return replace(_obeys(Verdict.ROLL_BACK, SourceEvent.PROVED_ABORTED), after=after)


def _tells_on_in_doubt() -> Rules:
    def after(profile: Profile, walk: Walk, heard: Heard) -> Walk:
        silent = walk.asking is Question.TOMBSTONE and heard in (Heard.REFUSED, Heard.LOST)
        return coordinator.after(profile, walk, Heard.ABORTED if silent else heard)

    return replace(REAL, after=after)


def _aborts_a_commit(state: DestinationState) -> Rules:
    def aborts(here: DestinationState) -> DestinationEvent | None:
        return DestinationEvent.ABORT if here is state else decisions.destination_aborts(here)

    return replace(_destination(state, ABORT=ABORTED), destination_aborts=aborts)


def _commits_on_the_word_alone() -> Rules:
    def released(state: DestinationState, *, alive: bool) -> DestinationEvent | None:
        early = state is DestinationState.PREPARED and alive
        return DestinationEvent.RELEASED if early else decisions.destination_released(state, alive=alive)

    return replace(_destination(DestinationState.PREPARED, RELEASED=COMMITTED), destination_released=released)


def _commits_without_the_word() -> Rules:
    def loaded(state: DestinationState, *, alive: bool, has_word: bool) -> DestinationEvent | None:
        return decisions.destination_loaded(state, alive=alive, has_word=True)

    return replace(REAL, destination_loaded=loaded)


def _takes_missing_pages_for_a_commit() -> Rules:
    def proved(state: SourceState, outcome: Outcome) -> SourceEvent | None:
        return decisions.source_proved(state, Outcome.COMMITTED if outcome is Outcome.POSTCOPY else outcome)

    return replace(REAL, source_proved=proved)


def _asks_back_what_is_gone() -> Rules:
    def wishes(state: SourceState, said: Any, *, alive: bool, waited: bool) -> decisions.Wish | None:
        return decisions.source_wishes(state, said, alive=True, waited=waited)

    return replace(REAL, source_wishes=wishes)


def _nothing(*_: object, **__: object) -> None:
    """Nothing is done."""


def _always(event: Any) -> Callable[..., Any]:
    return lambda *_, **__: event


def _silent(source: SourceEvent) -> Rules:
    return replace(REAL, source_silence=_always(source))


_V1, _V1_POST = replace(PRE, protocol=V1), replace(POST, protocol=V1)
_SILENT_COMMIT = replace(REAL, destination_silence=_always(DestinationEvent.RELEASED))
_PAIRS = replace(PRE, faults=2)
_LETS_GO_FIRST = Source(SourceState.PERFORMING, (SourceEffect.LET_GO,))
_GIVES_UP_AT_ONCE = Source(SourceState.RELEASED, (SourceEffect.LET_GO, SourceEffect.GIVE_UP))
_LEAVES_A_GUEST = Destination(DestinationState.ABORTED, (DestinationEffect.CLOSE_JOB,))
_PERFORMING, _RELEASED, _SERVING = SourceState.PERFORMING, SourceState.RELEASED, SourceState.SERVING
_RUNNABLE, _RECEIVED, _POSTCOPY = DestinationState.RUNNABLE, DestinationState.RECEIVED, DestinationState.POSTCOPY

_MISTAKEN_OPERATOR = _source(_RELEASED, OPERATOR_KEEPS_HERE=GIVEN_UP)
_RESTART_SERVING = _source(_SERVING, RESTARTED=TAKEN_BACK)

MUTANTS = (
    Mutant(1, "the destination runs before its commit is durable", _runs_first()),
    Mutant(1, "the destination commits over a tombstone", _commits_over_a_tombstone()),
    Mutant(2, "the source lets go before it has recorded that", _source(_PERFORMING, HELD=_LETS_GO_FIRST)),
    Mutant(2, "a restart takes a released guest back", _source(_RELEASED, RESTARTED=TAKEN_BACK)),
    Mutant(2, "doubt takes a released guest back", _source(_RELEASED, DOUBT=TAKEN_BACK)),
    Mutant(3, "the source gives up on the coordinator's verdict", _obeys(Verdict.COMMIT, SourceEvent.PROVED_COMMITTED)),
    Mutant(3, "the source takes back on the coordinator's verdict", _obeys(Verdict.ROLL_BACK, SourceEvent.PROVED_ABORTED)),
    Mutant(3, "a lost reply of Finish resumes the source, as in libvirt", _like_libvirt()),
    Mutant(4, "an abort overwrites a commit", _aborts_a_commit(DestinationState.COMMITTED)),
    Mutant(4, "a Prepare overwrites a tombstone", replace(REAL, waits_for_prepare=False)),
    Mutant(
        5, "the destination commits on silence", replace(REAL, destination_silence=_always(DestinationEvent.RELEASED)), SLIPS
    ),
    Mutant(5, "the source takes back on silence", _silent(SourceEvent.PROVED_ABORTED)),
    Mutant(5, "the source gives up on silence", _silent(SourceEvent.PROVED_COMMITTED)),
    Mutant(5, "the source never asks for a tombstone", replace(REAL, source_wishes=_nothing)),
    Mutant(5, "the destination never asks the source", replace(REAL, destination_answered=_nothing), SLIPS),
    Mutant(5, "a guest that is gone is asked back", _asks_back_what_is_gone()),
    Mutant(5, "the coordinator tells on what nobody has told it", _tells_on_in_doubt(), _PAIRS),
    Mutant(
        6, "an operator's here is taken for there", _source(_RELEASED, OPERATOR_KEEPS_HERE=GIVEN_UP), replace(PRE, faults=2)
    ),
    Mutant(7, "a cut takes the guest back from a running destination", _source(_SERVING, CUT=TAKEN_BACK), POST),
    Mutant(
        7,
        "a restart takes the guest back from a running destination",
        _source(_SERVING, RESTARTED=TAKEN_BACK),
        replace(POST, protocol=V1),
    ),
    Mutant(7, "the source gives up pages that are needed", _takes_missing_pages_for_a_commit(), POST),
    Mutant(7, "a commit with pages missing counts as whole", _destination(_RUNNABLE, RELEASED=COMMITTED), POST),
    Mutant(7, "a cut ends a guest that runs", _destination(_POSTCOPY, CUT=ABORTED), POST),
    Mutant(7, "an abort ends a guest that runs", _aborts_a_commit(_POSTCOPY), POST),
    Mutant(7, "a migration that was cut is not taken up again", replace(REAL, destination_resumes=_nothing), POST),
    Mutant(8, "the source's word commits what is not here", _commits_on_the_word_alone()),
    Mutant(8, "what is here is committed without a word", _commits_without_the_word(), replace(PRE, slips=True)),
    Mutant(
        9, "Perform gives the source up without proof", _source(_PERFORMING, HELD=_GIVES_UP_AT_ONCE), Setting(V1, faults=1)
    ),
    Mutant(10, "an abort leaves the guest that waited", _destination(_RECEIVED, ABORT=_LEAVES_A_GUEST, END=_LEAVES_A_GUEST)),
    Mutant(10, "a guest is started while it is being ended", replace(REAL, accepts_exclusively=False)),
)
