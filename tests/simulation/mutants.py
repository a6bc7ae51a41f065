"""Defects that the simulation must find: each takes one rule of the handover out of the real code.

A check that cannot fail is worth nothing. Each mutant breaks the promise only when something else goes wrong at the wrong
moment, so finding it shows that the faults are where they have to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from vmferry import coordinator, migrate
from vmferry.coordinator import Walk
from vmferry.endpoint import Request
from vmferry.model import DestinationState, MigrationId, Outcome, Phase, SourceState, Verdict
from vmferryd.jobs.job import SourceEvent
from vmferryd.jobs.job import step as next_step
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.machine import Machine
from vmferryd.phases.source import SourceMigration
from vmferryd.phases.source_phases import SourcePhases


def _takes_back_on_silence() -> Any:
    """Rule 2: a released source that hears nothing starts the CPUs again, as libvirt does."""

    async def ask(self: SourceMigration, ask_peer: Any = SourceMigration._ask_peer) -> SourceEvent | None:
        return await ask_peer(self) or SourceEvent.PROVED_ABORTED

    return mock.patch.object(SourceMigration, "_ask_peer", ask)


def _effects_before(state: DestinationState | SourceState) -> Callable[[], Any]:
    def patched() -> Any:
        async def steps(self: Any, event: Any) -> None:
            following = event
            while following is not None:
                step = next_step(self._table, self.state, following)
                if step.state is state and self.state is not state:
                    first = step.effects[0]
                    following = await self._effects[first]()
                    await self._enter(step)
                    for effect in step.effects[1:]:
                        following = await self._effects[effect]() or following
                    continue
                await self._enter(step)
                following = await self._carry_out(step)

        return mock.patch.object(Machine, "_steps", steps)

    return patched


def _gives_up_on_release() -> Any:
    """Rule 3: the source destroys its copy when it has sent it, without the destination's word."""

    async def let_go(self: SourceMigration, real: Any = SourceMigration._let_go) -> SourceEvent | None:
        following: SourceEvent | None = await real(self)
        return following or SourceEvent.PROVED_COMMITTED

    return mock.patch.object(SourceMigration, "_let_go", let_go)


def _no_tombstone() -> Any:
    """Rules 1 and 4: the destination says that the migration will never be committed, and does not write it down."""

    async def abort(self: DestinationPhases, migration_id: MigrationId, _: str) -> Outcome:
        known = await self._find(migration_id)
        committed = known is not None and known.state.outcome.at_destination
        return Outcome.COMMITTED if committed else Outcome.ABORTED

    return mock.patch.object(DestinationPhases, "abort", abort)


@contextmanager
def lying() -> Iterator[None]:
    """Every coordinator tells every source the opposite of what it has heard of the destination."""

    def verdict(walk: Walk, phase: Phase, real: Callable[[Walk, Phase], Verdict] = coordinator.verdict) -> Verdict:
        truth = real(walk, phase)
        if phase is not Phase.CONFIRM:
            return truth
        return Verdict.ROLL_BACK if truth is Verdict.COMMIT else Verdict.COMMIT

    with mock.patch.object(migrate, "verdict", verdict):
        yield


@contextmanager
def _believes_the_coordinator() -> Iterator[None]:
    """Rule 3: the coordinator's verdict is taken for the destination's word, and the coordinator lies."""

    async def settle(self: SourcePhases, migration: SourceMigration, request: Request) -> None:
        await self._settle_now(migration, Outcome.COMMITTED if request.verdict is Verdict.COMMIT else Outcome.ABORTED)

    with lying(), mock.patch.object(SourcePhases, "_settle", settle):
        yield


MUTANTS: Mapping[str, Callable[[], Any]] = {
    "takes back on silence": _takes_back_on_silence,
    "runs before the commit is recorded": _effects_before(DestinationState.COMMITTED),
    "lets go before the release is recorded": _effects_before(SourceState.RELEASED),
    "gives up without the destination's word": _gives_up_on_release,
    "writes no tombstone": _no_tombstone,
    "believes the coordinator": _believes_the_coordinator,
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The code has that defect meanwhile."""
    with MUTANTS[name]():
        yield
