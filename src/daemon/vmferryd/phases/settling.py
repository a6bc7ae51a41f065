"""How a migration away from this host is settled: by its destination's word, by an operator's, or by the end of a lease.

Whoever settles asks, for ever; nothing is taken for an answer but an answer (handover rules 2 and 5).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import structlog

from vmferry.errors import MigrationAborted, MigrationCancelled, VmferryError
from vmferry.model import Keep, Outcome, Resolution, SourceState
from vmferryd.jobs.decisions import source_ends, source_proved
from vmferryd.jobs.job import SourceEffect, SourceEvent
from vmferryd.jobs.journal import Record
from vmferryd.phases.asking import Asking
from vmferryd.phases.context import Context
from vmferryd.phases.lease import Lease
from vmferryd.phases.machine import Machine
from vmferryd.phases.resolver import Backoff
from vmferryd.phases.watching import first

log = structlog.get_logger()


class Settling(ABC):
    """The part of `SourceMigration` that brings it to its end, whoever is gone."""

    _context: Context
    _asking: Asking
    _resolving: bool
    lease: Lease
    machine: Machine[SourceState, SourceEvent, SourceEffect]

    @abstractmethod
    async def abort(self, why: str) -> Outcome:
        """The migration has ended if it still could; answers what then holds."""

    @abstractmethod
    def _fail(self, error: VmferryError) -> None:
        """The migration has failed for that reason, if for none before."""

    @property
    def record(self) -> Record:
        """What is durable."""
        return self.machine.record

    @property
    def state(self) -> SourceState:
        """The durable state."""
        return self.machine.state

    async def prove(self, outcome: Outcome) -> None:
        """The destination's own word is known."""
        await self.machine.decide(lambda state: source_proved(state, outcome), f"prove {outcome}")

    async def hear(self) -> None:
        """The destination's own word is known, and was acted upon. It is asked for and never hurried, for ever.

        For protocols without Confirm. Who has waited long enough leaves, and lets `settle` ask for an end.
        """
        while await self._is_undecided():
            await self._context.clock.sleep(self._context.limits.resolver_first_s)

    async def hear_alone(self) -> None:
        """As `hear`, for a coordinator that is silent: it may be gone, and the destination can tell what it was to tell."""
        await self._ended_or(self._context.limits.coordinator_silence_s)
        for pause_s in Backoff(self._context.limits):
            if not await self._is_undecided():
                return
            await self._ended_or(pause_s)

    async def _ended_or(self, pause_s: float) -> None:
        await first(self.machine.ended(), self._context.clock.sleep(pause_s))

    async def _is_undecided(self) -> bool:
        """The destination was asked, and has said nothing that decides."""
        if self.state is not SourceState.RELEASED:
            return False
        try:
            async with asyncio.timeout(self._context.limits.peer_call_s):
                outcome = (await self._context.peers.at(self.record.peer_uri).outcome(self.record.migration_id)).outcome
            if outcome is Outcome.ABORTED:
                self._fail(MigrationAborted("the destination did not take the guest", remedy="see its log for the reason"))
            if outcome is not Outcome.PENDING:
                await self.prove(outcome)
        except (VmferryError, OSError) as error:  # a silence too
            log.info("no_word", migration_id=self.record.migration_id, error=str(error))
        return self.state is SourceState.RELEASED

    async def settle(self) -> None:
        """The migration has ended; asks the peer with growing pauses until it answers, for ever (handover rule 5).

        While another call does that already, this one only asks once more.
        """
        if self._resolving:
            await self._ask_again()
            return
        self._resolving = True
        try:
            for pause_s in Backoff(self._context.limits):
                await self._ask_again()
                if self.state is not SourceState.RELEASED or self._asking.is_vain:
                    return
                log.warning("in_doubt", migration_id=self.record.migration_id, peer=self.record.peer_uri, next_s=pause_s)
                await self._context.clock.sleep(pause_s)
        finally:
            self._resolving = False

    async def _ask_again(self) -> None:
        if self.state is SourceState.RELEASED:
            try:
                await self.machine.decide(source_ends, "ask")
            except (VmferryError, OSError) as error:
                log.warning("not_settled", migration_id=self.record.migration_id, error=str(error))

    async def resolve(self, resolution: Resolution) -> None:
        """What an operator decided is durable, and was acted upon (handover rule 6).

        Raises:
            PhaseOutOfOrder: the record is not in doubt any more.
            StorageFailed: nothing was decided.
        """
        here = resolution.keep is Keep.HERE
        error = f"an operator kept the guest here: {resolution.why}" if here else ""
        await self.machine.drive_with(
            SourceEvent.OPERATOR_KEEPS_HERE if here else SourceEvent.OPERATOR_KEEPS_THERE,
            resolution=resolution,
            error=error,
            error_reason=MigrationCancelled.reason if here else "",
        )

    async def watch_lease(self) -> None:
        """The migration has ended. When its coordinator's lease runs out, the source settles it alone."""
        while not self.state.final:
            await self.machine.ended_or(self.lease)
            if self.lease.left_s > 0 or self.state.final:
                continue
            if self.record.receiver_uri:
                break  # this daemon has coordinated it, and left it in doubt: nobody can be asked
            log.warning("coordinator_gone", migration_id=self.record.migration_id, state=self.state)
            self.lease.renew()
            try:
                await self.abort("the coordinator of the migration is gone")
            except VmferryError as error:
                log.warning("not_ended", migration_id=self.record.migration_id, error=str(error))
            await self.settle()
        await self.machine.ended()
