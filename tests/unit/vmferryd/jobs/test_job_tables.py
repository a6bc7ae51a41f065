"""The job tables are the promise: its rules, asserted over every state and event."""

from __future__ import annotations

import pytest

from vmferry.errors import PhaseOutOfOrder
from vmferry.flags import NONE, Flag
from vmferry.model import DestinationState, SourceState
from vmferryd.jobs.decisions import SERVES
from vmferryd.jobs.job import (
    DESTINATION,
    DESTINATION_OF_DEFINITION,
    SOURCE,
    SOURCE_OF_DEFINITION,
    Cargo,
    DestinationEffect,
    DestinationEvent,
    SourceEffect,
    SourceEvent,
    cargo,
    destination_step,
    destination_table,
    source_step,
    source_table,
)

TABLES = [(SOURCE, SourceState.BEGUN), (DESTINATION, DestinationState.PREPARED)]
SOURCE_STEPS = [(state, event, step) for state, row in SOURCE.items() for event, step in row.items()]
DESTINATION_STEPS = [(state, event, step) for state, row in DESTINATION.items() for event, step in row.items()]


@pytest.mark.parametrize(("table", "first"), TABLES)
def test_every_state_is_reachable(table, first) -> None:
    """From the first record every state can be reached."""
    assert set(type(first)) == _reachable(table, first)


@pytest.mark.parametrize(("table", "first"), TABLES)
def test_final_states_have_no_exit(table, first) -> None:
    """A final record stays what it is; only a restart may carry its effects out once more."""
    for state in type(first):
        if state.final:
            assert ["restarted"] == list(table[state])
            assert {state} == {step.state for step in table[state].values()}


@pytest.mark.parametrize(("table", "first"), TABLES)
def test_every_state_survives_a_restart(table, first) -> None:
    """A restart has an answer in every state."""
    assert all("restarted" in table[state] for state in type(first))


def test_commit_is_recorded_before_the_guest_runs() -> None:
    """Rule 1: RUN is an effect of COMMITTED alone, and a tombstone never becomes a commit."""
    running = {step.state for _, _, step in DESTINATION_STEPS if DestinationEffect.RUN in step.effects}
    assert {DestinationState.COMMITTED, DestinationState.POSTCOPY} == running
    assert DestinationState.COMMITTED not in {step.state for step in DESTINATION[DestinationState.ABORTED].values()}
    assert DestinationState.ABORTED not in {step.state for step in DESTINATION[DestinationState.COMMITTED].values()}
    assert not [s for _, _, s in DESTINATION_STEPS if {DestinationEffect.RUN, DestinationEffect.DISCARD} <= set(s.effects)]


def test_release_is_recorded_before_the_last_part() -> None:
    """Rules 2, 6: LET_GO belongs to RELEASED alone; then only a proof or an operator takes the guest back.

    The proof is a tombstone, or the own hypervisor's word that the last part was not sent.
    """
    assert {SourceState.RELEASED} == {step.state for _, _, step in SOURCE_STEPS if SourceEffect.LET_GO in step.effects}
    leading = {event for event, step in SOURCE[SourceState.RELEASED].items() if SourceEffect.TAKE_BACK in step.effects}
    proofs = {SourceEvent.PROVED_ABORTED, SourceEvent.NEVER_LEFT, SourceEvent.OPERATOR_KEEPS_HERE}
    assert proofs == leading
    cancelled = {event for event, step in SOURCE[SourceState.RELEASED].items() if step.state is SourceState.CANCELLED}
    assert proofs == cancelled


def test_copy_is_given_up_on_proof_only() -> None:
    """Rules 3, 6: GIVE_UP is an effect of CONFIRMED alone, which only a proof of the commit or an operator leads to.

    The proof is the destination's own word, or in a direct migration the receiver's acknowledgement.
    """
    assert {SourceState.CONFIRMED} == {step.state for _, _, step in SOURCE_STEPS if SourceEffect.GIVE_UP in step.effects}
    leading = {(state, event) for state, event, step in SOURCE_STEPS if step.state is SourceState.CONFIRMED}
    assert {
        (SourceState.RELEASED, SourceEvent.PROVED_COMMITTED),
        (SourceState.RELEASED, SourceEvent.ARRIVED),
        (SourceState.RELEASED, SourceEvent.OPERATOR_KEEPS_THERE),
        (SourceState.CONFIRMED, SourceEvent.RESTARTED),
        *((state, event) for state in SERVES for event in (SourceEvent.PROVED_COMMITTED, SourceEvent.GONE)),
        (SourceState.SERVING_FAILED, SourceEvent.OPERATOR_KEEPS_THERE),
    } == leading


def test_post_copy_has_no_way_back() -> None:
    """Rule 7: once the destination's CPUs run, no state that is reached has the source's copy executing or a tombstone."""
    assert {SourceState.SERVING, SourceState.SERVING_FAILED, SourceState.CONFIRMED} == _reachable(SOURCE, SourceState.SERVING)
    assert {DestinationState.POSTCOPY, DestinationState.POSTCOPY_FAILED, DestinationState.COMMITTED} == _reachable(
        DESTINATION, DestinationState.POSTCOPY
    )


def test_post_copy_is_taken_up_again() -> None:
    """Rule 7: a cut leaves both sides where the same migration is taken up again, also through restarts."""
    for table, state in ((SOURCE, SourceState.SERVING), (DESTINATION, DestinationState.POSTCOPY)):
        failed = table[state]["cut"].state
        assert failed is table[failed]["restarted"].state
        assert state is table[failed]["recover"].state


def _reachable(table, first) -> set:
    reached, before = {first}, set()
    while reached != before:
        before = set(reached)
        reached |= {step.state for state in before for step in table[state].values()}
    return reached


def test_an_operator_decides_in_doubt_alone() -> None:
    """Rule 6: a record that can settle by itself, or is settled, takes no operator's word; both sides end as they say."""
    here, there = SourceEvent.OPERATOR_KEEPS_HERE, SourceEvent.OPERATOR_KEEPS_THERE
    asked = {(state, event): step.state for state, event, step in SOURCE_STEPS if event in (here, there)}
    released, cut = SourceState.RELEASED, SourceState.SERVING_FAILED
    confirmed = SourceState.CONFIRMED
    assert {(released, here): SourceState.CANCELLED, (released, there): confirmed, (cut, there): confirmed} == asked
    keeps, gives = DestinationEvent.OPERATOR_KEEPS_HERE, DestinationEvent.OPERATOR_KEEPS_THERE
    told = {(state, event): step.state for state, event, step in DESTINATION_STEPS if event in (keeps, gives)}
    received, aborted = DestinationState.RECEIVED, DestinationState.ABORTED
    assert {
        (received, keeps): DestinationState.COMMITTED,
        (received, gives): aborted,
        (DestinationState.RUNNABLE, gives): aborted,
    } == told


def test_doubt_changes_nothing() -> None:
    """Doubt and restarts of a side that cannot decide lead to a question, and to no other state."""
    for event in (SourceEvent.DOUBT, SourceEvent.RESTARTED):
        step = source_step(SourceState.RELEASED, event)
        assert (SourceState.RELEASED, (SourceEffect.ASK_PEER,)) == (step.state, step.effects)
    for state in (DestinationState.RECEIVED, DestinationState.RUNNABLE):
        for event in (DestinationEvent.DOUBT, DestinationEvent.RESTARTED):
            step = destination_step(state, event)
            assert (state, (DestinationEffect.ASK_PEER,)) == (step.state, step.effects)


def test_no_word_belongs_to_both_sides() -> None:
    """A record in the journal says its side by its state's word alone."""
    assert set(map(str, SourceState)).isdisjoint(map(str, DestinationState))


def test_the_job_is_closed_last() -> None:
    """Every way into a final state ends with CLOSE_JOB, and nothing else closes a job."""
    for _, _, step in SOURCE_STEPS + DESTINATION_STEPS:
        assert step.state.final == (bool(step.effects) and step.effects[-1].value == "close-job")


@pytest.mark.parametrize(
    ("step", "table", "events"), [(source_step, SOURCE, SourceEvent), (destination_step, DESTINATION, DestinationEvent)]
)
def test_what_the_table_does_not_have_is_refused(step, table, events) -> None:
    """An event that a state does not know is refused, with what it could take."""
    for state, row in table.items():
        for event in set(events) - set(row):
            with pytest.raises(PhaseOutOfOrder) as caught:
                step(state, event)
            assert all(known in caught.value.detail for known in row)


@pytest.mark.parametrize(
    ("flags", "moved"),
    [
        (Flag.LIVE | Flag.NON_SHARED_DISK, Cargo.GUEST),
        (NONE, Cargo.GUEST),
        (Flag.OFFLINE, Cargo.DEFINITION),
        (Flag.OFFLINE | Flag.NON_SHARED_DISK, Cargo.DISKS),
        (Flag.OFFLINE | Flag.NON_SHARED_INC, Cargo.DISKS),
    ],
)
def test_what_is_moved(flags, moved) -> None:
    """The flags say what is moved, and that chooses the tables; disks move as a guest does."""
    assert moved is cargo(flags)
    definition = moved is Cargo.DEFINITION
    assert (definition, definition) == (
        source_table(moved) is SOURCE_OF_DEFINITION,
        destination_table(moved) is DESTINATION_OF_DEFINITION,
    )


def test_a_definition_is_never_committed_without_the_sources_word() -> None:
    """The only way to COMMITTED is RELEASED; FINISH only asks, and a restart before it ends the migration."""
    prepared = DESTINATION_OF_DEFINITION[DestinationState.PREPARED]
    committing = [event for event, step in prepared.items() if step.state is DestinationState.COMMITTED]
    assert [DestinationEvent.RELEASED] == committing
    assert (DestinationEffect.REQUEST_RELEASE,) == prepared[DestinationEvent.FINISH].effects
    assert DestinationState.ABORTED is prepared[DestinationEvent.RESTARTED].state
    assert {} == DESTINATION_OF_DEFINITION[DestinationState.RECEIVED]


def test_a_definition_is_never_forgotten_without_the_destinations_word() -> None:
    """The source of a definition releases it on request alone, has no transfer, and then is bound as any other source."""
    begun = SOURCE_OF_DEFINITION[SourceState.BEGUN]
    assert {SourceEvent.RELEASE_REQUESTED, SourceEvent.END, SourceEvent.RESTARTED} == set(begun)
    assert () == begun[SourceEvent.RELEASE_REQUESTED].effects
    assert {} == SOURCE_OF_DEFINITION[SourceState.PERFORMING]
    for state in (SourceState.RELEASED, SourceState.CONFIRMED, SourceState.CANCELLED):
        assert SOURCE[state] == SOURCE_OF_DEFINITION[state]


def test_a_guest_is_never_released_on_request() -> None:
    """The short cut of definitions is not in the tables of guests and disks."""
    assert all(SourceEvent.RELEASE_REQUESTED not in row for row in SOURCE.values())
    effects = [effect for row in DESTINATION.values() for step in row.values() for effect in step.effects]
    assert DestinationEffect.REQUEST_RELEASE not in effects
