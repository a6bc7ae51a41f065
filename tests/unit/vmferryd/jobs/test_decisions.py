"""The decisions: whatever they are asked in whatever state, the table has the event, and no rule is broken by it."""

from __future__ import annotations

from itertools import product

import pytest

from vmferry.endpoint import Settled
from vmferry.errors import PhaseOutOfOrder
from vmferry.model import DestinationState, Outcome, SourceState, Verdict
from vmferryd.drivers.fate import Fate
from vmferryd.jobs import decisions as decide
from vmferryd.jobs.job import DESTINATION, SOURCE, DestinationEvent, SourceEvent

BOTH = (False, True)


def _source(state: SourceState) -> list[SourceEvent | None]:
    """Every event that a decision may make of the source's state."""
    events = [decide.source_ends(state), *(decide.source_performed(state, failed=failed) for failed in BOTH)]
    events += [decide.source_cut(state), decide.source_resumes(state), decide.source_gone(state)]
    events += [decide.source_proved(state, outcome) for outcome in Outcome]
    events += [decide.source_fate(state, fate) for fate in Fate]
    for verdict, proof in product(Verdict, (None, *Outcome)):
        try:
            events.append(decide.source_confirms(state, verdict, proof))
        except PhaseOutOfOrder:
            assert state in decide.UNRELEASED
    return events


def _destination(state: DestinationState) -> list[DestinationEvent | None]:
    """Every event that a decision may make of the destination's state."""
    events = [decide.destination_aborts(state), decide.destination_not_loaded(state)]
    events += [decide.destination_whole(state), decide.destination_cut(state)]
    events += [decide.destination_resumes(state), decide.destination_gone(state)]
    for alive, other in product(BOTH, BOTH):
        events += [
            decide.destination_loaded(state, alive=alive, has_word=other),
            decide.destination_runnable(state, alive=alive, has_word=other),
            decide.destination_released(state, alive=alive),
            decide.destination_finishes(state, alive=alive),
            decide.destination_abandoned(state, loading=other),
            decide.destination_restarted(state, alive=alive),
            *(decide.destination_answered(state, said, alive=alive) for said in _answers()),
        ]
    return events


def _answers() -> list[Settled]:
    return [Settled(decide.source_outcome(state), state.value) for state in SourceState]


@pytest.mark.parametrize("state", SourceState)
def test_the_sources_table_has_every_event(state: SourceState) -> None:
    """No decision leads to an event that its state cannot take."""
    assert {event for event in _source(state) if event is not None} <= set(SOURCE[state])


@pytest.mark.parametrize("state", DestinationState)
def test_the_destinations_table_has_every_event(state: DestinationState) -> None:
    """No decision leads to an event that its state cannot take."""
    assert {event for event in _destination(state) if event is not None} <= set(DESTINATION[state])


@pytest.mark.parametrize(("verdict", "state"), list(product(Verdict, SourceState)))
def test_a_verdict_proves_nothing(verdict: Verdict, state: SourceState) -> None:
    """Rule 3: without the destination's signature a Confirm gives nothing up and takes nothing back once it is released."""
    if state not in decide.UNRELEASED:
        assert decide.source_confirms(state, verdict, None) in (None, SourceEvent.DOUBT)


@pytest.mark.parametrize(("proof", "event"), [(Outcome.COMMITTED, "proved-committed"), (Outcome.ABORTED, "proved-aborted")])
def test_a_proof_is_stronger_than_a_verdict(proof: Outcome, event: str) -> None:
    """Rule 3: what the destination has signed holds, whatever the coordinator wishes."""
    assert {event} == {decide.source_confirms(SourceState.RELEASED, verdict, proof) for verdict in Verdict}


@pytest.mark.parametrize("state", [state for state in DestinationState if state.outcome.at_destination])
def test_a_commit_is_never_undone(state: DestinationState) -> None:
    """Rules 4, 7: no wish, answer or restart makes a tombstone of a commit, also with pages missing."""
    assert not {DestinationEvent.ABORT, DestinationEvent.END} & set(_destination(state))


@pytest.mark.parametrize("state", decide.LOADED)
@pytest.mark.parametrize("said", _answers(), ids=lambda said: said.state)
def test_the_destination_commits_on_the_sources_word_alone(state: DestinationState, said: Settled) -> None:
    """Rule 5: of all that a source may answer only *released* is a commit; *cancelled* is the end; else nothing is known."""
    known = {SourceState.RELEASED: DestinationEvent.RELEASED, SourceState.CANCELLED: DestinationEvent.ABORT}
    assert known.get(said.state) == decide.destination_answered(state, said, alive=True)
    assert DestinationEvent.ABORT == decide.destination_answered(state, said, alive=False)


ANSWERS = [Settled(state.outcome, state.value) for state in DestinationState]


def _hurry(wish: decide.Wish, *, alive: bool, waited: bool) -> set[tuple[SourceState, str]]:
    """Where a source asks a destination for that, by what both records say."""
    asked = {
        (state, said.state): decide.source_wishes(state, said, alive=alive, waited=waited)
        for state in SourceState
        for said in ANSWERS
    }
    return {place for place, wished in asked.items() if wished is wish}


PENDING = {(SourceState.RELEASED, state.value) for state in decide.OPEN}


def test_a_tombstone_is_asked_for_in_doubt_alone() -> None:
    """Rules 5, 7: only a source that released the guest hurries a destination that has not decided."""
    for waited in (False, True):
        assert _hurry(decide.Wish.TOMBSTONE, alive=True, waited=waited) == PENDING
        assert set() == _hurry(decide.Wish.COMMIT, alive=True, waited=waited)


def test_a_guest_that_is_gone_is_not_asked_back() -> None:
    """A source whose copy died repeats its word; only a destination that never loads the guest is asked for an end."""
    loaded = {(SourceState.RELEASED, state.value) for state in decide.LOADED}
    assert _hurry(decide.Wish.COMMIT, alive=False, waited=False) == PENDING
    assert _hurry(decide.Wish.COMMIT, alive=False, waited=True) == loaded
    assert _hurry(decide.Wish.TOMBSTONE, alive=False, waited=True) == PENDING - loaded


def test_pages_that_are_needed_are_kept() -> None:
    """Rule 7: a destination that runs with pages missing is no proof to give the copy up, and neither is its silence."""
    for state in (SourceState.RELEASED, *decide.SERVES):
        assert decide.source_proved(state, Outcome.POSTCOPY) in (None, SourceEvent.PROVED_POSTCOPY)
        assert decide.source_proved(state, Outcome.PENDING) is None


def test_data_that_flows_is_not_abandoned() -> None:
    """A destination without a coordinator leaves a transfer that goes on to its source."""
    for state in DestinationState:
        assert decide.destination_abandoned(state, loading=True) is None
    assert DestinationEvent.ABORT is decide.destination_abandoned(DestinationState.PREPARED, loading=False)


def test_only_what_has_not_arrived_ends_because_of_a_journal() -> None:
    """What is loaded may have been released at its source, and only the source can tell."""
    ending = {state for state in DestinationState if decide.destination_unwritten(state) is DestinationEvent.ABORT}
    assert {DestinationState.PREPARED} == ending


def test_the_own_hypervisor_proves_two_things_and_no_third() -> None:
    """Where no daemon receives: an acknowledgement gives the copy up, a last part that was kept takes it back."""
    released = SourceState.RELEASED
    assert {
        Fate.ARRIVED: SourceEvent.ARRIVED,
        Fate.KEPT: SourceEvent.NEVER_LEFT,
        Fate.ON_ITS_WAY: None,
        Fate.UNKNOWN: None,
    } == {fate: decide.source_fate(released, fate) for fate in Fate}
    assert not [state for state in SourceState for fate in Fate if state is not released and decide.source_fate(state, fate)]
