"""The coordinator's decisions: what is asked next, and what an answer or its absence leads to. Pure.

`migrate` carries them out over two endpoints; the explorer walks them against every failure. A walk is what the coordinator
knows, and no more: which phases were answered, the first failure, and what Finish said. It holds no truth (handover rule 3).

::

    phases of the profile, in order ──▶ TOLD
       BEGIN answered ──▶ LOOK at the guest            without BEGIN: LOOK comes first
       BEGIN lost ──▶ FORGET, then nothing is owed
       PERFORM lost ──▶ FINISH commits what the destination has whole, and ends what it has not
       FINISH lost ──▶ TOMBSTONE ─┬─ aborted ──▶ it has failed
                                  ├─ committed ─▶ UNHEARD
                                  └─ silence ──▶ DOUBT: no side is told anything
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from vmferry.model import Phase, Verdict
from vmferry.protocol import Confirming, Profile


class Question(StrEnum):
    """What a coordinator asks beside the phases.

    LOOK asks the source for the guest's state; TOMBSTONE the destination for an abort, whose reply is the outcome; FORGET
    the source for the end of a migration whose Begin was lost.
    """

    LOOK = "look"
    TOMBSTONE = "tombstone"
    FORGET = "forget"


class End(StrEnum):
    """How a walk ends.

    TOLD: what Finish said holds, or else the first failure. DOUBT: the destination may have the guest and does not answer;
    no side was told anything. UNHEARD: the guest lives at the destination, but the reply of Finish was lost.
    """

    TOLD = "told"
    DOUBT = "doubt"
    UNHEARD = "unheard"


class Heard(StrEnum):
    """How a call ended.

    COMMITTED and ABORTED answer whether the guest lives at the destination: Finish and TOMBSTONE end in one of them. USELESS
    is an answer that nothing can follow upon; REFUSED an error that means *it did not happen*; LOST: *it may have*, as a
    source that is in doubt says itself.
    """

    ANSWERED = "answered"
    COMMITTED = "committed"
    ABORTED = "aborted"
    USELESS = "useless"
    REFUSED = "refused"
    LOST = "lost"


Asking: TypeAlias = Phase | Question | End


@dataclass(frozen=True, slots=True)
class Walk:
    """What the coordinator knows. `asking` is what it does now, `phase` the newest phase that it came to.

    `failed` is the phase of the first failure, and `why` how that phase's call ended. `finish` is what Finish answered.
    """

    asking: Asking
    phase: Phase | None = None
    answered: frozenset[Phase] = frozenset()
    failed: Phase | None = None
    why: Heard | None = None
    finish: Heard | None = None


def first(profile: Profile) -> Walk:
    """The walk of `profile` at its start. A guest that no Begin asks about is looked at first (specification 1.3)."""
    return Walk(profile.phases[0], profile.phases[0]) if profile.runs(Phase.BEGIN) else Walk(Question.LOOK)


def after(profile: Profile, walk: Walk, heard: Heard) -> Walk:
    """The walk when what it asks has ended like that."""
    asking = walk.asking
    if isinstance(asking, Phase):
        if heard in (Heard.REFUSED, Heard.LOST):
            return _unanswered(profile, walk, asking, heard)
        return _answered(profile, replace(walk, answered=walk.answered | {asking}), asking, heard)
    match asking:
        case Question.LOOK:
            looked = walk if heard is Heard.ANSWERED else _failed(walk, profile.phases[0], heard)
            return _onward(profile, looked)
        case Question.TOMBSTONE:
            return _settled(profile, walk, heard)
        case Question.FORGET:
            return _onward(profile, walk)
        case End():
            return walk


def verdict(walk: Walk, phase: Phase) -> Verdict:
    """What `phase` is wished to do. Confirm repeats what Finish said, whatever else went wrong."""
    commits = walk.finish is Heard.COMMITTED if phase is Phase.CONFIRM else walk.failed is None
    return Verdict.COMMIT if commits else Verdict.ROLL_BACK


def owes(profile: Profile, walk: Walk, phase: Phase) -> bool:
    """Whether `phase` has to run now. After a failure only what closes an opened side is owed (specification 1.6, 1.7).

    A Perform that has failed has cleaned up the source alone. One that was lost may have left it in doubt, and then Confirm
    brings it the destination's word, also where the hosts do not reach each other.
    """
    if walk.failed is None:
        return True
    lost = walk.failed is Phase.PREPARE and walk.why is Heard.LOST
    opened = lost or Phase.PREPARE in walk.answered
    if phase is Phase.FINISH:
        return profile.finish_on_failure and opened
    if phase is not Phase.CONFIRM or Phase.BEGIN not in walk.answered:
        return False
    cleaned_up = walk.failed is Phase.PERFORM and walk.why is not Heard.LOST
    return opened if profile.confirming is Confirming.AFTER_FINISH else not cleaned_up


def _onward(profile: Profile, walk: Walk) -> Walk:
    """The next phase that is owed, or the end."""
    begun = 0 if walk.phase is None else profile.phases.index(walk.phase) + 1
    for phase in profile.phases[begun:]:
        if owes(profile, walk, phase):
            return replace(walk, asking=phase, phase=phase)
    return replace(walk, asking=End.TOLD)


def _failed(walk: Walk, phase: Phase, why: Heard) -> Walk:
    """The first failure stands."""
    return replace(walk, failed=phase, why=why) if walk.failed is None else walk


def _first_failure(profile: Profile, walk: Walk, phase: Phase, heard: Heard) -> tuple[Phase, Heard]:
    """What is to blame when Finish does not end in a commit: a Perform whose reply was lost comes first."""
    unheard = phase is Phase.FINISH and profile.runs(Phase.PERFORM) and Phase.PERFORM not in walk.answered
    return (Phase.PERFORM, Heard.LOST) if unheard else (phase, heard)


def _answered(profile: Profile, walk: Walk, phase: Phase, heard: Heard) -> Walk:
    if phase is Phase.BEGIN:
        return replace(walk, asking=Question.LOOK)
    if phase is Phase.FINISH:
        # What Finish says holds, even against an earlier failure of ours.
        walk = replace(walk, finish=heard)
        committed = heard is Heard.COMMITTED
        failure = _first_failure(profile, walk, phase, heard)
        walk = replace(walk, failed=None, why=None) if committed else _failed(walk, *failure)
    elif heard is Heard.USELESS:
        walk = _failed(walk, phase, heard)
    return _onward(profile, walk)


def _unanswered(profile: Profile, walk: Walk, phase: Phase, heard: Heard) -> Walk:
    if phase is Phase.CONFIRM:
        return _onward(profile, walk)  # the result stands; the source asks the destination by itself (handover rule 5)
    lost = heard is Heard.LOST
    if lost and phase is Phase.PERFORM:
        # The source may be gone with its host. If the destination has the whole guest, a tombstone would lose the last copy.
        return _onward(profile, walk)
    if lost and phase is Phase.FINISH and walk.failed is None:  # after a failure the guest is at the source for certain
        return replace(walk, asking=Question.TOMBSTONE)
    walk = _failed(walk, *_first_failure(profile, walk, phase, heard))
    return replace(walk, asking=Question.FORGET) if lost and phase is Phase.BEGIN else _onward(profile, walk)


def _settled(profile: Profile, walk: Walk, heard: Heard) -> Walk:
    """The destination's journal has decided: a tombstone is as safe at any moment as a commit is final (handover rule 4)."""
    phase = walk.phase
    match heard:
        case Heard.COMMITTED:
            return replace(walk, asking=End.UNHEARD)
        case Heard.ABORTED if phase is not None:
            return _onward(profile, _failed(walk, *_first_failure(profile, walk, phase, Heard.LOST)))
        case _:
            return replace(walk, asking=End.DOUBT)  # no error is an answer: the reply of an abort is an outcome
