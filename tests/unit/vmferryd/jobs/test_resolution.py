"""What an operator may decide: the whole table."""

from __future__ import annotations

import itertools

import pytest

from vmferry.model import DestinationState, Keep, Outcome, SourceState
from vmferryd.jobs.job import DESTINATION, SOURCE, DestinationEvent, SourceEvent
from vmferryd.jobs.resolution import CAN_BE_DECIDED, Objection, PeerAnswer, agrees, objection

HERE, THERE = Keep.HERE, Keep.THERE
NOBODY = (PeerAnswer.SILENT, PeerAnswer.FORGOTTEN)
DECIDED = (PeerAnswer.COMMITTED, PeerAnswer.ABORTED)
STATES = (*SourceState, *DestinationState)
IN_DOUBT = (SourceState.RELEASED, DestinationState.RECEIVED)
NOT_WHOLE = (SourceState.SERVING_FAILED, DestinationState.RUNNABLE)


@pytest.mark.parametrize("state", STATES)
def test_only_doubt_is_decided(state: SourceState | DestinationState) -> None:
    """Whatever can settle by itself, or is settled, is nobody's decision, whoever insists."""
    if state in CAN_BE_DECIDED:
        return
    for keep, answer, insists in itertools.product(Keep, PeerAnswer, (True, False)):
        assert Objection.NOT_IN_DOUBT is objection(state, keep, answer, insists=insists)


@pytest.mark.parametrize("state", IN_DOUBT)
def test_who_is_in_doubt(state: SourceState | DestinationState) -> None:
    """A host that is gone cannot object; one that has decided is obeyed; one that cannot decide needs a second word."""
    for keep, insists in itertools.product(Keep, (True, False)):
        assert {Objection.NONE} == {objection(state, keep, answer, insists=insists) for answer in NOBODY}
        assert {Objection.SETTLES_ITSELF} == {objection(state, keep, answer, insists=insists) for answer in DECIDED}
    for keep in Keep:
        assert Objection.NOT_SPELLED_OUT is objection(state, keep, PeerAnswer.UNDECIDED, insists=False)
        assert Objection.NONE is objection(state, keep, PeerAnswer.UNDECIDED, insists=True)


@pytest.mark.parametrize("state", NOT_WHOLE)
def test_a_copy_that_is_not_whole(state: SourceState | DestinationState) -> None:
    """A copy without all of its memory is never kept, whatever anybody says; it can be given up."""
    for answer, insists in itertools.product(PeerAnswer, (True, False)):
        assert Objection.NOT_WHOLE is objection(state, HERE, answer, insists=insists)
    assert {Objection.NONE} == {objection(state, THERE, answer, insists=False) for answer in NOBODY}
    assert {Objection.SETTLES_ITSELF} == {objection(state, THERE, answer, insists=True) for answer in DECIDED}


def test_a_commit_that_is_contradicted() -> None:
    """It yields to the other journal at once, and stands against it only for who insists."""
    state = DestinationState.COMMITTED
    assert Objection.NONE is objection(state, THERE, PeerAnswer.ABORTED, insists=False)
    assert Objection.WOULD_CONTRADICT is objection(state, HERE, PeerAnswer.ABORTED, insists=False)
    assert Objection.NONE is objection(state, HERE, PeerAnswer.ABORTED, insists=True)
    assert Objection.NONE is objection(state, HERE, PeerAnswer.COMMITTED, insists=False)
    for insists in (True, False):
        assert Objection.WOULD_CONTRADICT is objection(state, THERE, PeerAnswer.COMMITTED, insists=insists)


def test_what_is_not_objected_to_is_in_the_tables() -> None:
    """Whatever may be decided is an event that the record's table has."""
    events = {
        HERE: (SourceEvent.OPERATOR_KEEPS_HERE, DestinationEvent.OPERATOR_KEEPS_HERE),
        THERE: (SourceEvent.OPERATOR_KEEPS_THERE, DestinationEvent.OPERATOR_KEEPS_THERE),
    }
    for state, keep, answer, insists in itertools.product(STATES, Keep, PeerAnswer, (True, False)):
        if objection(state, keep, answer, insists=insists) is Objection.NONE and not state.final:
            row = SOURCE[state] if isinstance(state, SourceState) else DESTINATION[state]
            assert set(events[keep]) & set(row), (state, keep)


def test_every_outcome_is_an_answer() -> None:
    """A guest that runs there with pages missing lives there."""
    answers = {outcome: PeerAnswer.of(outcome) for outcome in Outcome}
    assert answers == {
        Outcome.COMMITTED: PeerAnswer.COMMITTED,
        Outcome.POSTCOPY: PeerAnswer.COMMITTED,
        Outcome.ABORTED: PeerAnswer.ABORTED,
        Outcome.PENDING: PeerAnswer.UNDECIDED,
    }


@pytest.mark.parametrize(
    ("state", "keep", "lives_at_destination"),
    [
        (SourceState.CANCELLED, HERE, False),
        (SourceState.CONFIRMED, THERE, True),
        (DestinationState.COMMITTED, HERE, True),
        (DestinationState.ABORTED, THERE, False),
        (DestinationState.COMMITTED, THERE, False),
    ],
)
def test_agreement(state: SourceState | DestinationState, keep: Keep, lives_at_destination: bool) -> None:
    """The other host agrees if its journal has the guest where the operator keeps it; without a word it is not known."""
    assert lives_at_destination is agrees(state, keep, PeerAnswer.COMMITTED)
    assert lives_at_destination is not agrees(state, keep, PeerAnswer.ABORTED)
    assert {None} == {agrees(state, keep, answer) for answer in (*NOBODY, PeerAnswer.UNDECIDED)}
