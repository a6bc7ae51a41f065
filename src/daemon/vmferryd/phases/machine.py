"""Carries a job table out: writes the state, then does the effects, for either side.

The table is the program. This file adds only what the table's rule demands: the state is durable before its first effect
begins, one step at a time, `settled` when the last effect is done, and effects that failed are tried again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Generic, TypeVar

import structlog

from vmferry.errors import VmferryError
from vmferry.model import DestinationState, JobChangeKind, JobInfo, JobStep, Phase, Side, SourceState
from vmferryd.database import Change
from vmferryd.jobs.changes import change_between, changed, job_info
from vmferryd.jobs.job import DestinationEffect, DestinationEvent, SourceEffect, SourceEvent, Step
from vmferryd.jobs.job import step as next_step
from vmferryd.jobs.journal import Record
from vmferryd.phases.context import Context
from vmferryd.phases.lease import Lease
from vmferryd.phases.watching import first

log = structlog.get_logger()

S = TypeVar("S", SourceState, DestinationState)
E = TypeVar("E", SourceEvent, DestinationEvent)
F = TypeVar("F", SourceEffect, DestinationEffect)


class Machine(Generic[S, E, F]):
    """One side of one migration.

    Args:
        context: the daemon.
        record: what is durable already, or will be with `open`.
        table: the side's table, for what is moved.
        effects: what carries each effect out; it may answer with the event that follows.
        changes: what is to be written together with a state.
    """

    def __init__(
        self,
        context: Context,
        record: Record,
        table: Mapping[S, Mapping[E, Step[S, F]]],
        effects: Mapping[F, Callable[[], Awaitable[E | None]]],
        changes: Callable[[S], tuple[Change, ...]] = lambda _: (),
    ) -> None:
        self._context = context
        self._record = record
        self._table: Mapping[S, Mapping[E, Step[S, F]]] = table
        self._effects: Mapping[F, Callable[[], Awaitable[E | None]]] = effects
        self._changes: Callable[[S], tuple[Change, ...]] = changes
        self._lock = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._ended = asyncio.Event()
        self._begun_s = context.clock.monotonic() - max(0.0, context.clock.wall() - record.started_s)
        self._told = record if record.changes else None
        self._closed = record.settled and record.state.final
        if self._closed:
            self._ended.set()

    @property
    def record(self) -> Record:
        """What is durable, with what was noted since."""
        return self._record

    @property
    def state(self) -> S:
        """The durable state."""
        state: Any = self._record.state
        return state  # type: ignore[no-any-return]

    def note(self, **facts: Any) -> None:
        """The record says so from its next write on, and whoever watches sees it now."""
        self._record = replace(self._record, **facts)
        self.publish()

    def tell_decision(self, reason: str, step: JobStep = JobStep.NONE) -> None:
        """What was decided, and why, and what began with it, is in the job's history, durably from its next write on."""
        self.publish()
        sequence = self._context.board.next_sequence()
        self._record = changed(self._record, JobChangeKind.DECISION, sequence, self._context.clock.wall(), reason, step)
        self._context.board.publish(self.info())

    async def write(self, **facts: Any) -> None:
        """The record says so, durably.

        Raises:
            StorageFailed: the record on disk is as it was.
        """
        async with self._writing:
            await self._write(**facts)

    async def write_while(self, states: Collection[S], **facts: Any) -> bool:
        """The record says so, durably, if its state is one of `states`; answers whether it is. No state comes in between.

        Raises:
            StorageFailed: the record on disk is as it was.
        """
        async with self._writing:
            if self.state not in states:
                return False
            await self._write(**facts)
            return True

    async def _write(self, *others: Change, **facts: Any) -> None:
        """Whoever calls has `_writing`: two writers would each put back what the other one has changed."""
        await self._context.journal.write(self._durable(replace(self._record, **facts)), *others)
        # What was noted while the disk was busy is kept.
        self._record = replace(self._record, **facts)
        self.publish()

    def _durable(self, record: Record) -> Record:
        """`record` with the change that it will be told as; so that a daemon that dies at once tells it when it is back."""
        kind = change_between(self._told, record, closed=False)
        return (
            record if kind is None else changed(record, kind, self._context.board.next_sequence(), self._context.clock.wall())
        )

    @asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[S]:
        """The state, which stays what it is meanwhile: each event waits until the context is left.

        `drive` within it would wait for ever.
        """
        async with self._lock:
            yield self.state

    async def drive(self, event: E) -> None:
        """`event` and whatever follows from it has been written and done.

        Cancellation: a step that has begun goes on; only the caller leaves.

        Raises:
            PhaseOutOfOrder: the table has no such step.
            StorageFailed: the state could not be written; nothing was done.
        """
        work = self._drive(event)
        await asyncio.shield(self._context.tasks.promise(work, f"{event} {self._record.migration_id}"))

    async def decide(self, decision: Callable[[S], E | None], why: str) -> None:
        """Like `drive`, with the event that `decision` makes of the state; it is asked when nothing else is under way."""
        work = self._decide(decision)
        await asyncio.shield(self._context.tasks.promise(work, f"{why} {self._record.migration_id}"))

    async def drive_unless_final(self, event: E) -> None:
        """Like `drive`; a record that is final already, or has become so meanwhile, stays as it is."""
        await self.decide(lambda state: None if state.final else event, event)

    async def drive_with(self, event: E, **facts: Any) -> None:
        """Like `drive`; the record says `facts` from the write of the new state on, or not at all."""
        work = self._drive_with(event, facts)
        await asyncio.shield(self._context.tasks.promise(work, f"{event} {self._record.migration_id}"))

    async def _drive(self, event: E) -> None:
        async with self._lock:
            await self._steps(event)

    async def _drive_with(self, event: E, facts: Mapping[str, Any]) -> None:
        async with self._lock:
            before, state = {name: getattr(self._record, name) for name in facts}, self.state
            self._record = replace(self._record, **facts)
            try:
                await self._steps(event)
            except BaseException:
                if self.state is state:
                    self._record = replace(self._record, **before)
                raise

    async def _decide(self, decision: Callable[[S], E | None]) -> None:
        async with self._lock:
            event = decision(self.state)
            if event is not None:
                await self._steps(event)

    async def _steps(self, event: E) -> None:
        following: E | None = event
        while following is not None:
            step = next_step(self._table, self.state, following)
            await self._enter(step)
            following = await self._carry_out(step)

    async def settled(self) -> None:
        """The effects of a final state are done, durably.

        The last effect says so before it lets go of the domain: a record that a restart would carry out again must not meet
        a domain that somebody else has used since.

        Raises:
            StorageFailed: the effects are to be done again.
        """
        await self.write(settled=True)

    async def _enter(self, step: Step[S, F]) -> None:
        async with self._writing:
            facts: dict[str, Any] = {"state": step.state, "settled": not step.effects}
            if step.state.final and self._record.ended_s is None:
                facts |= {"ended_s": self._context.clock.wall(), "elapsed_ms": self._elapsed_ms()}
            if any(getattr(self._record, name) != value for name, value in facts.items()):
                await self._write(*self._changes(step.state), **facts)
                record = self._record
                log.info("migration_state", migration_id=record.migration_id, side=record.side, state=step.state)

    async def _carry_out(self, step: Step[S, F]) -> E | None:
        following: E | None = None
        for effect in step.effects:
            try:
                following = await self._effects[effect]() or following
            except (VmferryError, OSError) as error:
                if not step.state.final:
                    raise
                log.warning("effect_failed", migration_id=self._record.migration_id, effect=effect, error=str(error))
                self._context.tasks.spawn(self._again(), f"settle {self._record.migration_id}")
                raise
        return following

    async def _again(self) -> None:
        """The effects of a final state are done, however often it takes (handover rule 10)."""
        limits = self._context.limits
        pause_s = limits.resolver_first_s
        while not self._record.settled:
            await self._context.clock.sleep(pause_s)
            pause_s = min(limits.resolver_longest_s, 2 * pause_s)
            restarted: Any = SourceEvent.RESTARTED if self._record.side is Side.SOURCE else DestinationEvent.RESTARTED
            step = next_step(self._table, self.state, restarted)
            try:
                async with self._lock:
                    for effect in step.effects:
                        await self._effects[effect]()
            except (VmferryError, OSError) as error:
                log.warning("effect_failed_again", migration_id=self._record.migration_id, error=str(error))

    async def ended_or(self, lease: Lease) -> None:
        """The record is final and settled, or the lease has run out."""
        # A final state that is not settled yet is for `_again`, not for the lease.
        await first(self._ended.wait(), lease.ran_out())

    async def ended(self) -> None:
        """The record is final and settled."""
        await self._ended.wait()

    def close(self) -> None:
        """The job has ended, and says so: its effects are done, and its domain is free."""
        self._closed = True
        if not self._ended.is_set():
            self._ended.set()
            self._tell(change_between(self._told, self._record, closed=True))

    def publish(self) -> None:
        """Whoever watches this job sees what the record says."""
        self._tell(None if self._closed else change_between(self._told, self._record, closed=False))

    def _tell(self, kind: JobChangeKind | None) -> None:
        if kind is not None:
            sequence = self._context.board.next_sequence()
            self._record = changed(self._record, kind, sequence, self._context.clock.wall())
        self._told = self._record
        self._context.board.publish(self.info())

    def info(self) -> JobInfo:
        """What others may know of the migration now."""
        elapsed_ms = self._record.elapsed_ms if self.state.final else self._elapsed_ms()
        return job_info(self._record, closed=self._closed, elapsed_ms=elapsed_ms)

    def _elapsed_ms(self) -> int:
        return round((self._context.clock.monotonic() - self._begun_s) * 1000)

    @asynccontextmanager
    async def timing(self, phase: Phase) -> AsyncIterator[None]:
        """The time of the body is the one that `phase` took. One that is repeated, or late, only answers."""
        begun_s, was_closed = self._context.clock.monotonic(), self._closed
        yield
        if phase in self._record.took_ms:
            return
        took_ms = 0 if was_closed else round((self._context.clock.monotonic() - begun_s) * 1000)
        self.note(took_ms={**self._record.took_ms, phase: took_ms})
        if self._closed and not was_closed:
            # Nothing else will be written any more.
            with suppress(VmferryError):
                await self.write()
