"""One migration under a person's eyes: it runs, it is shown, and it can be interrupted.

The first interrupt asks the source to end the migration and waits for the true answer, because what was asked for is not yet
what holds. The second one leaves: the daemons then settle the migration between themselves, whatever this client does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from vmferry.attempt import Attempt
from vmferry.cli import render
from vmferry.cli.advice import Circumstances
from vmferry.cli.display import Display
from vmferry.cli.exits import ExitCode, exit_code
from vmferry.cli.forecast import USUAL_PAUSE_MS
from vmferry.cli.progress import Mark
from vmferry.cli.timeouts import Action, Timeout, why_not_postcopy
from vmferry.cli.units import counted
from vmferry.client import Connection
from vmferry.errors import FateUnknown, MigrationNotFound, VmferryError
from vmferry.flags import NONE, Flag
from vmferry.in_effect import UNLIMITED_MIB_PER_S
from vmferry.migrate import Migrated, Patience
from vmferry.model import GuestLocation, MigrationId, Outcome, Phase, Progress
from vmferry.params import LONGEST_DOWNTIME_MS, MigrationParams

ANSWERS: Mapping[Outcome, str] = {
    Outcome.ABORTED: "the source has ended the migration; waiting until both hosts have closed it",
    Outcome.PENDING: "the source cannot end it alone at this point; waiting for what holds",
    Outcome.POSTCOPY: "too late to end it: the guest runs at the destination, and its pages follow",
    Outcome.COMMITTED: "too late to end it: the guest lives at the destination",
}

WHEN_LATE: Mapping[Action, str] = {
    Action.SUSPEND: "the guest stands still for the rest, and then runs at the destination",
    Action.POSTCOPY: "going on to post-copy: the guest runs at the destination, and its pages follow",
    Action.ABORT: "the migration is ended if it still can be",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be moved, and how, and what happens if that takes too long."""

    migration_id: MigrationId
    domain: str
    flags: Flag = NONE
    params: MigrationParams = field(default_factory=MigrationParams)
    timeout: Timeout | None = None
    postcopy_after_precopy: bool = False


@dataclass(slots=True)
class Interrupts:
    """What the user has asked for by signals."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def interrupt(self) -> None:
        """The first asks for the end, every later one leaves."""
        (self.left if self.asked.is_set() else self.asked).set()

    def terminate(self) -> None:
        """It asks for the end, however often."""
        self.asked.set()

    @contextmanager
    def from_signals(self) -> Iterator[None]:
        """Within, SIGINT and SIGTERM come here; afterwards they do what they usually do."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        loop.add_signal_handler(signal.SIGTERM, self.terminate)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)


@dataclass(slots=True)
class Conductor:
    """Runs `order` from `source` to `destination`. `begun` is set once the source has recorded the migration.

    `passed` is set once all memory was sent.

    The destination is a connection if this client coordinates, and a URI if the source's daemon does.
    """

    source: Connection
    destination: Connection | str
    order: Order
    display: Display
    interrupts: Interrupts = field(default_factory=Interrupts)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    passed: asyncio.Event = field(default_factory=asyncio.Event)

    async def conduct(self) -> Migrated:
        """The guest lives at the destination.

        Raises:
            FateUnknown: the user has left.
            VmferryError: what went wrong; the display shows where.
        """
        done = await self._followed(self.interrupts.left.wait())
        if done is None:
            raise self._failed(self._left_alone())
        self.display.succeed()
        return done

    async def set_going(self) -> Migrated | None:
        """The source has recorded the migration and goes on with it alone; answers what came of it if it is over already.

        Raises:
            VmferryError: what went wrong until then.
        """
        return await self._followed(self._begun_or_left())

    async def _begun_or_left(self) -> None:
        async with asyncio.TaskGroup() as group:
            events = [group.create_task(event.wait()) for event in (self.begun, self.interrupts.left)]
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            for event in events:
                event.cancel()

    async def _followed(self, until: Coroutine[None, None, object]) -> Migrated | None:
        """What came of the migration; None if `until` was over before it."""
        async with asyncio.TaskGroup() as group:
            walk = group.create_task(self._walk())
            enough = group.create_task(until)
            meanwhile = [group.create_task(self._abort_when_asked()), group.create_task(self._act_in_time())]
            meanwhile += [group.create_task(self._switch_after_precopy()), group.create_task(self._get_ready_to_tell())]
            await asyncio.wait({walk, enough}, return_when=asyncio.FIRST_COMPLETED)
            for task in (walk, enough, *meanwhile):
                task.cancel()
        if walk.cancelled():
            return None
        result = walk.result()
        if isinstance(result, VmferryError):
            raise self._failed(result)
        return result

    def _failed(self, error: VmferryError) -> VmferryError:
        """The same error, which is shown where it happened."""
        in_doubt = exit_code(error) is ExitCode.IN_DOUBT
        self.display.fail(error.phase, Mark.UNKNOWN if in_doubt else Mark.FAILED)
        return error

    async def _walk(self) -> Migrated | VmferryError:
        """The result as a value: an error must not tear the group down."""
        order = self.order
        attempt = Attempt(order.migration_id, self._hear, Patience.of(self.source.bounds))
        move: Callable[..., Awaitable[Migrated]]
        if isinstance(self.destination, str):
            move = partial(self.source.migrate_to_uri, order.domain, self.destination)
        else:
            move = partial(self.source.migrate, order.domain, self.destination)
        try:
            return await move(flags=order.flags, params=order.params, attempt=attempt)
        except VmferryError as error:
            return error

    def _hear(self, progress: Progress) -> None:
        if progress.phase is not Phase.BEGIN:
            self.begun.set()
        if progress.statistics is not None and progress.statistics.memory_iteration > 1:
            self.passed.set()
        self._show(lambda: self.display.hear(progress))

    def _say(self, text: str) -> None:
        self._show(lambda: self.display.say(text))

    def _show(self, showing: Callable[[], None]) -> None:
        """A reader that has gone away is no reason to drop a guest half way."""
        with suppress(OSError):
            showing()

    async def _abort_when_asked(self) -> None:
        await self.interrupts.asked.wait()
        self._say("asking the source to end the migration; Ctrl-C once more leaves it alone")
        try:
            outcome = await self._abort()
        except VmferryError as error:
            self._say(f"the source could not be asked to end it: {error}")
        else:
            self._say(ANSWERS[outcome])

    async def _act_in_time(self) -> None:
        """What was asked for happens when the time is over; that it fails is said, and the migration goes on."""
        timeout = self.order.timeout
        if timeout is None:
            return
        await asyncio.sleep(timeout.after_s)
        await self.begun.wait()
        self._say(f"not done after {counted(timeout.after_s, 'second')}: {WHEN_LATE[timeout.action]}")
        if timeout.action is Action.ABORT:
            self.interrupts.terminate()
            return
        if timeout.action is Action.POSTCOPY:
            await self._start_postcopy()
            return
        try:
            await self.source.set_max_downtime(self.order.domain, LONGEST_DOWNTIME_MS)
        except VmferryError as error:
            self._say(f"that could not be done, and the migration goes on: {error}")

    async def _switch_after_precopy(self) -> None:
        """With --postcopy-after-precopy: post-copy begins when all memory was sent once."""
        if not self.order.postcopy_after_precopy:
            return
        await self.passed.wait()
        await self._start_postcopy()

    async def _get_ready_to_tell(self) -> None:
        """What draws the summary is imported while the destination gets ready, and not when the guest has moved."""
        await self.begun.wait()
        await asyncio.to_thread(render.get_ready)

    async def _start_postcopy(self) -> None:
        """The source goes on to post-copy as soon as it can; if it does not, the user hears why."""
        try:
            await self.source.start_postcopy(self.order.domain)
        except VmferryError as error:
            job = None
            with suppress(VmferryError):
                job = await self.source.job(self.order.migration_id)
            self._say(why_not_postcopy(job, error))

    async def _abort(self) -> Outcome:
        if not self.begun.is_set():
            # Asked while Begin is on its way, the source may not know the migration yet.
            with suppress(MigrationNotFound):
                return await self.source.abort_job(self.order.migration_id)
            await self.begun.wait()
        return await self.source.abort_job(self.order.migration_id)

    def _left_alone(self) -> FateUnknown:
        goes_on = (
            "the source goes on with it"
            if isinstance(self.destination, str)
            else "the two hosts settle it between themselves"
        )
        return FateUnknown(
            f"left the migration alone; {goes_on}",
            remedy=f"see how it ends with: vmferry -c {self.source.uri} job watch {self.order.migration_id}",
            migration_id=self.order.migration_id,
            guest=GuestLocation.IN_DOUBT,
        )


def _asked_pause_ms(params: MigrationParams | None) -> int | None:
    return (params.fixed_downtime_ms or params.max_downtime_ms) if params else None


async def circumstances(
    source: Connection, domain: str, flags: Flag | None = None, params: MigrationParams | None = None
) -> Circumstances:
    """What the source allows a migration of `domain`; what it does not say is as usual."""
    allowed_ms, limit_mib = USUAL_PAUSE_MS, (params.bandwidth_mib_per_s if params else None) or 0
    with suppress(VmferryError):
        kept_ms, kept_mib = await asyncio.gather(source.max_downtime_ms(domain), source.max_speed_mib_per_s(domain))
        allowed_ms = _asked_pause_ms(params) or kept_ms or USUAL_PAUSE_MS
        limit_mib = limit_mib or (0 if kept_mib >= UNLIMITED_MIB_PER_S else kept_mib)
    return Circumstances(domain, flags, allowed_ms, limit_mib << 20)
