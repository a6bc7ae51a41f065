"""The program under exploration: the real tables, the real decisions, the real coordinator. Mutants replace one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vmferry import coordinator
from vmferry.coordinator import Heard, Walk
from vmferry.endpoint import Settled
from vmferry.errors import PhaseOutOfOrder
from vmferry.model import DestinationState, Outcome, SourceState, Verdict
from vmferry.protocol import Profile
from vmferryd.jobs import decisions
from vmferryd.jobs.job import DESTINATION, SOURCE, Destination, DestinationEvent, Source, SourceEvent

SourceTable = Mapping[SourceState, Mapping[SourceEvent, Source]]
DestinationTable = Mapping[DestinationState, Mapping[DestinationEvent, Destination]]


@dataclass(frozen=True)
class Rules:
    """What decides. Every default is the code that the daemons and the client run."""

    source: SourceTable = field(default_factory=lambda: SOURCE)
    destination: DestinationTable = field(default_factory=lambda: DESTINATION)
    after: Callable[[Profile, Walk, Heard], Walk] = coordinator.after
    source_outcome: Callable[[SourceState], Outcome] = decisions.source_outcome
    source_ends: Callable[[SourceState], SourceEvent | None] = decisions.source_ends
    source_performed: Callable[..., SourceEvent | None] = decisions.source_performed
    source_proved: Callable[[SourceState, Outcome], SourceEvent | None] = decisions.source_proved
    source_wishes: Callable[..., decisions.Wish | None] = decisions.source_wishes
    source_confirms: Callable[[SourceState, Verdict, Outcome | None], SourceEvent | None] = decisions.source_confirms
    source_silence: Callable[[SourceState], SourceEvent | None] = lambda _: None
    source_cut: Callable[[SourceState], SourceEvent | None] = decisions.source_cut
    source_resumes: Callable[[SourceState], SourceEvent | None] = decisions.source_resumes
    source_gone: Callable[[SourceState], SourceEvent | None] = decisions.source_gone
    destination_outcome: Callable[[DestinationState], Outcome] = lambda state: state.outcome
    destination_loaded: Callable[..., DestinationEvent | None] = decisions.destination_loaded
    destination_runnable: Callable[..., DestinationEvent | None] = decisions.destination_runnable
    destination_released: Callable[..., DestinationEvent | None] = decisions.destination_released
    destination_finishes: Callable[..., DestinationEvent | None] = decisions.destination_finishes
    destination_not_loaded: Callable[[DestinationState], DestinationEvent | None] = decisions.destination_not_loaded
    destination_aborts: Callable[[DestinationState], DestinationEvent | None] = decisions.destination_aborts
    destination_abandoned: Callable[..., DestinationEvent | None] = decisions.destination_abandoned
    destination_answered: Callable[[DestinationState, Settled], DestinationEvent | None] = decisions.destination_answered
    destination_silence: Callable[[DestinationState], DestinationEvent | None] = lambda _: None
    destination_restarted: Callable[..., DestinationEvent] = decisions.destination_restarted
    destination_whole: Callable[[DestinationState], DestinationEvent | None] = decisions.destination_whole
    destination_cut: Callable[[DestinationState], DestinationEvent | None] = decisions.destination_cut
    destination_resumes: Callable[[DestinationState], DestinationEvent | None] = decisions.destination_resumes
    destination_gone: Callable[[DestinationState], DestinationEvent | None] = decisions.destination_gone
    waits_for_prepare: bool = True
    accepts_exclusively: bool = True

    def source_step(self, state: SourceState, event: SourceEvent) -> Source:
        """The table's step.

        Raises:
            PhaseOutOfOrder: there is none, which a daemon would only log: the explorer counts it as a finding.
        """
        try:
            return self.source[state][event]
        except KeyError:
            raise PhaseOutOfOrder(f"the source's {state} cannot take {event}") from None

    def destination_step(self, state: DestinationState, event: DestinationEvent) -> Destination:
        """The table's step.

        Raises:
            PhaseOutOfOrder: as above.
        """
        try:
            return self.destination[state][event]
        except KeyError:
            raise PhaseOutOfOrder(f"the destination's {state} cannot take {event}") from None


REAL = Rules()
