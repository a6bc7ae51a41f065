"""What an operator may decide about a migration, given what the other host says. Pure (handover rule 6)."""

from __future__ import annotations

from enum import StrEnum

from vmferry.model import DestinationState, Keep, Outcome, SourceState

State = SourceState | DestinationState


class PeerAnswer(StrEnum):
    """What came back when the other host was asked how the migration ended."""

    SILENT = "silent"
    FORGOTTEN = "forgotten"
    UNDECIDED = "undecided"
    COMMITTED = "committed"
    ABORTED = "aborted"

    @classmethod
    def of(cls, outcome: Outcome) -> PeerAnswer:
        """The answer that an outcome is."""
        if outcome.at_destination:
            return cls.COMMITTED
        return cls.ABORTED if outcome is Outcome.ABORTED else cls.UNDECIDED


class Objection(StrEnum):
    """Why a decision is not taken now."""

    NONE = ""
    NOT_IN_DOUBT = "no migration of this domain is in doubt here"
    SETTLES_ITSELF = "the other host answers, and what it says settles the migration without an operator"
    WOULD_CONTRADICT = "the other host answers, and it says the opposite"
    NOT_SPELLED_OUT = "the other host answers, although it has not decided either"
    NOT_WHOLE = "the copy here cannot live alone: the other host has pages of it that are missing here, or newer ones"


CAN_BE_DECIDED: frozenset[State] = frozenset(
    {
        SourceState.RELEASED,
        SourceState.SERVING_FAILED,
        DestinationState.RECEIVED,
        DestinationState.RUNNABLE,
        DestinationState.COMMITTED,
    }
)
"""The records that an operator can be asked about; a commit only while another host's journal contradicts it."""

_NOT_WHOLE: frozenset[State] = frozenset({SourceState.SERVING_FAILED, DestinationState.RUNNABLE})


def objection(state: State, keep: Keep, answer: PeerAnswer, *, insists: bool) -> Objection:
    """What speaks against `keep`, said on the host whose record is `state`.

    A silent host, and one that has lost its journal, cannot object: that is what the operator is for. A host that has
    decided is never overruled, except by who insists for a commit that another operator's word contradicts already.
    """
    if state not in CAN_BE_DECIDED:
        return Objection.NOT_IN_DOUBT
    if state in _NOT_WHOLE and keep is Keep.HERE:
        return Objection.NOT_WHOLE
    if answer in (PeerAnswer.SILENT, PeerAnswer.FORGOTTEN):
        return Objection.NONE
    if answer is PeerAnswer.UNDECIDED:
        return Objection.NONE if insists else Objection.NOT_SPELLED_OUT
    return _against_its_word(state, keep, answer, insists=insists)


def _against_its_word(state: State, keep: Keep, answer: PeerAnswer, *, insists: bool) -> Objection:
    if state is not DestinationState.COMMITTED:
        return Objection.SETTLES_ITSELF
    agreed = (answer is PeerAnswer.COMMITTED) == (keep is Keep.HERE)
    may = agreed or (insists and keep is Keep.HERE)
    return Objection.NONE if may else Objection.WOULD_CONTRADICT


def agrees(state: State, keep: Keep, answer: PeerAnswer) -> bool | None:
    """Whether the other host's journal agrees with a decision that was taken; None when it does not say."""
    if answer not in (PeerAnswer.COMMITTED, PeerAnswer.ABORTED):
        return None
    here_is_destination = isinstance(state, DestinationState)
    lives_at_destination = (keep is Keep.HERE) == here_is_destination
    return (answer is PeerAnswer.COMMITTED) == lives_at_destination
