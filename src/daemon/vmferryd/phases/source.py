"""The source's half of one migration, and how it is settled when its coordinator is gone.

Do and undo, side by side (`jobs/job.py` has the table, this file has what is done):

==========  ==========================================  ===================================================
record      do                                          undo
==========  ==========================================  ===================================================
BEGUN       hold the domain                             let go of it; the guest was never touched
PERFORMING  open the tunnel, send, stop the CPUs        end the transfer; the CPUs run if they ran before
RELEASED    send the last part                          none of its own: only the destination's tombstone
                                                        brings the guest back (handover rule 2)
CONFIRMED   destroy the copy                            none
==========  ==========================================  ===================================================
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import structlog

from vmferry.errors import (
    DriverLost,
    InvalidState,
    MigrationAborted,
    MigrationCancelled,
    PermissionRefused,
    PhaseOutOfOrder,
    TransferFailed,
    VmferryError,
)
from vmferry.flags import Flag
from vmferry.model import DomainState, JobStep, Outcome, Phase, SourceState, StateReason, Statistics
from vmferry.wish import RunWish
from vmferryd.domains.entry import Entry
from vmferryd.drivers.base import EventKind, Extent, Guest, GuestEvent, RunState, SendSettings, Tuning
from vmferryd.drivers.settings import tuned
from vmferryd.jobs.decisions import (
    UNRELEASED,
    source_ends,
    source_outcome,
    source_performed,
)
from vmferryd.jobs.job import Cargo, SourceEffect, SourceEvent, cargo, source_table
from vmferryd.jobs.journal import Record
from vmferryd.phases.asking import Asking
from vmferryd.phases.context import Context
from vmferryd.phases.disk_sending import DiskSending, ImageToSend
from vmferryd.phases.lease import Lease
from vmferryd.phases.machine import Machine
from vmferryd.phases.resolver import Backoff
from vmferryd.phases.sending import Sending
from vmferryd.phases.serving import Serving
from vmferryd.phases.settings import disk_copies
from vmferryd.phases.settling import Settling
from vmferryd.phases.source_words import RECEIVER_REMEDY, copied_targets
from vmferryd.phases.wishes import Wishes
from vmferryd.phases.word import give_word
from vmferryd.transfer import tickets
from vmferryd.transfer.outgoing import Opening
from vmferryd.transfer.routes import Carrier, Route

log = structlog.get_logger()


class SourceMigration(Settling):
    """One migration away from this host.

    Args:
        context: the daemon.
        record: durable already when it comes from the journal.
        entry: the domain, held by this migration; None when it is not active any more.
    """

    def __init__(self, context: Context, record: Record, entry: Entry | None) -> None:
        self._context = context
        self._entry = entry
        self._asking = Asking(context, entry)
        self.lease = Lease(context.clock, context.limits.phase_lease_s)
        self.failure: VmferryError | None = None
        self.performing: asyncio.Task[None] | None = None
        self.performed_s: float | None = None
        self._sending: Sending | DiskSending | None = None
        self._resolving = False
        self._route = Route(Carrier.TUNNEL, record.peer_uri)
        self._taken: Route | None = None
        self._cancelled = ""
        self._settings = SendSettings()
        self.machine: Machine[SourceState, SourceEvent, SourceEffect] = Machine(
            context,
            record,
            source_table(cargo(Flag(record.flags))),
            {
                SourceEffect.SEND: self._send,
                SourceEffect.LET_GO: self._let_go,
                SourceEffect.TAKE_BACK: self._take_back,
                SourceEffect.GIVE_UP: self._give_up,
                SourceEffect.ASK_PEER: self._ask_peer,
                SourceEffect.CLOSE_JOB: self._close_job,
                SourceEffect.SERVE: self._serve,
                SourceEffect.SEND_AGAIN: self._send_again,
            },
        )
        self.serving = Serving(context, self, entry, self._told)
        self._pages_follow = False

        self.wishes = Wishes(context, self.machine, entry, self._paused_by_user)

    @property
    def outcome(self) -> Outcome:
        """What this host knows of the end."""
        return source_outcome(self.state)

    @property
    def in_postcopy(self) -> bool:
        """The guest runs at the destination with pages missing, or is about to; its end is waited for."""
        return self.serving.goes_on or (self._pages_follow and self.failure is None and self.state is SourceState.RELEASED)

    # -- what is asked of it ----------------------------------------------------------------------------------------

    async def start_postcopy(self) -> None:
        """The guest goes on to post-copy as soon as it can.

        Raises:
            InvalidState: it is not being sent, or was not begun for post-copy.
        """
        sending = self._sending
        allowed = Flag.POSTCOPY in Flag(self.record.flags)
        if not allowed or not isinstance(sending, Sending) or self.state is not SourceState.PERFORMING:
            raise InvalidState(
                f"no guest of domain {self.record.domain_name} is being sent that may go on to post-copy",
                remedy="begin the migration with --postcopy" if not allowed else "wait until its memory is being sent",
                migration_id=self.record.migration_id,
            )
        await sending.start_postcopy()

    @property
    def bandwidth_bytes_per_s(self) -> int | None:
        """The most that is sent; None is unlimited."""
        return (self._sending.settings if self._sending is not None else self._settings).max_bandwidth_bytes_per_s

    async def tune(self, change: Tuning) -> None:
        """This migration obeys the values that are given, until its end.

        Raises:
            DriverRefused: the hypervisor takes no such value; nothing has changed.
        """
        if self._sending is not None:
            await self._sending.tune(change)
        else:
            self._settings = tuned(self._settings, change)

    def perform(self, route: Route, settings: SendSettings) -> asyncio.Task[None]:
        """The transfer runs, whoever listens; a second call joins the first. The task never fails: see `failure`."""
        if self.performing is None:
            self._route, self._settings = route, settings
            self.performing = self._context.tasks.spawn(self._perform(), f"perform {self.record.migration_id}")
            self._context.tasks.spawn(self._report_progress(), f"progress of {self.record.migration_id}")
        return self.performing

    async def _perform(self) -> None:
        async with self.machine.timing(Phase.PERFORM):
            try:
                await self.machine.drive(SourceEvent.PERFORM)
            except (VmferryError, OSError) as error:
                self._fail(error if isinstance(error, VmferryError) else DriverLost(f"the guest could not be sent: {error}"))
        self.performed_s = self._context.clock.monotonic()
        match source_performed(self.state, failed=self.failure is not None):
            case SourceEvent.END:
                await self._end_unreleased()
            case SourceEvent.DOUBT:
                self._context.tasks.spawn(self.settle(), f"settle {self.record.migration_id}")
            case _:
                pass

    async def _end_unreleased(self) -> None:
        """The guest is here as it was before, and as soon as the journal can be written the migration has ended.

        The journal could not be written when the guest was to be released. Nothing was, and a restart would take the guest
        back too: so it need not stand still until the disk is repaired.
        """
        if self.state is SourceState.PERFORMING:
            with contextlib.suppress(VmferryError, OSError):
                await self._take_back()
        self._context.tasks.spawn(self._end_durably(), f"end {self.record.migration_id}")

    async def _end_durably(self) -> None:
        for pause_s in Backoff(self._context.limits):
            try:
                await self.machine.decide(source_ends, "end")
            except (VmferryError, OSError) as error:
                log.warning("not_ended", migration_id=self.record.migration_id, error=str(error), next_s=pause_s)
            if self.state.final:
                return
            await self._context.clock.sleep(pause_s)

    async def abort(self, why: str) -> Outcome:
        """The migration has ended if it still could; answers what then holds."""
        if self.performing is not None and not self.performing.done():
            self._cancelled = self._cancelled or why
            if self._sending is not None:
                self._sending.cancel(why)
            await asyncio.wait([self.performing])
        elif self.state in UNRELEASED:
            self._fail(MigrationCancelled(why))
        await self.machine.decide(source_ends, "abort")
        return self.outcome

    async def refuse(self, error: VmferryError) -> None:
        """The migration, which had only begun, has ended with `error`, or will as soon as the journal can be written."""
        self._fail(error)
        with contextlib.suppress(VmferryError):
            await self.machine.decide(source_ends, "refuse")
        await self.end_at_last()

    async def end_at_last(self) -> None:
        """A migration that was to end, and was not released, has ended as soon as the journal can be written."""
        if self.state in UNRELEASED:
            await self._end_unreleased()

    async def request_release(self, ticket: bytes, destination_uri: str) -> bytes:
        """RELEASED is durable, for a definition that moves alone; answers the secret that signs the outcome.

        Raises:
            PermissionRefused: the ticket is not this migration's.
            PhaseOutOfOrder: the migration has ended here, or moves more than a definition.
        """
        if not tickets.matches(ticket, self.record.ticket) or cargo(Flag(self.record.flags)) is not Cargo.DEFINITION:
            raise PermissionRefused("only the destination of this migration's definition can ask for its release")
        with contextlib.suppress(PhaseOutOfOrder):  # a repeated request finds it done
            await self.machine.drive_with(SourceEvent.RELEASE_REQUESTED, peer_uri=destination_uri)
        if self.state not in (SourceState.RELEASED, SourceState.CONFIRMED):
            raise PhaseOutOfOrder(f"the migration is {self.state} at the source", detail=self.record.error)
        if self.record.peer_uri != destination_uri:
            raise PermissionRefused(f"the definition was released to {self.record.peer_uri}, and to nobody else")
        if self.state is SourceState.RELEASED:
            self._context.tasks.spawn(self.hear_alone(), f"word of {self.record.migration_id}")
        return self.record.proof_secret

    # -- the effects ------------------------------------------------------------------------------------------------

    async def _send(self) -> SourceEvent:
        record = self.record
        own_uri = self._context.identity.daemon_uri
        opening = Opening(record.migration_id, record.ticket, record.proof_secret, daemon_uri=own_uri)
        try:
            # Not before: whoever tunes it until then changes what it is begun with, and nothing that is the guest's own.
            self._sending = await self._new_sending()
            if self._cancelled:
                self._sending.cancel(self._cancelled)
            await self._sending.until_held(self._route, opening, self._settings)
        except VmferryError as error:
            if self.record.receiver_uri and isinstance(error, TransferFailed):
                error.remedy = error.remedy or RECEIVER_REMEDY
            self._fail(error)
            if self._sending is not None:
                # A hypervisor soon forgets the figures of what failed.
                self.note_figures(await self._sending.look())
            return SourceEvent.END
        return SourceEvent.HELD

    def _told(self, route: Route, warning: str) -> None:
        """Whoever watches this job knows which way the data goes, and what the user should know of it."""
        log.info("data_channel", migration_id=self.record.migration_id, way=str(route))
        self._taken = route
        warnings = (*self.record.warnings, warning) if warning else self.record.warnings
        self.machine.note(data_channel=str(route), warnings=warnings)

    def _advised(self, event: GuestEvent) -> None:
        """The log and the job's history say why the pause is as long as it is, a warning why the job does not end."""
        log.info(event.kind.value.replace("-", "_"), migration_id=self.record.migration_id, reason=event.detail)
        self.machine.tell_decision(event.detail)
        if event.kind is EventKind.STUCK:
            self.machine.note(warnings=(*self.record.warnings, event.detail))

    def _stepped(self, step: JobStep, what: str) -> None:
        """The job's history says when a part of the transfer began, with the figures of that moment."""
        if self._sending is not None:
            self.note_figures(self._sending.statistics)
        self.machine.tell_decision(what, step)

    async def _new_sending(self) -> Sending | DiskSending:
        flags = Flag(self.record.flags)
        if cargo(flags) is Cargo.DISKS:
            return DiskSending(self._context, tuple(self._images()))
        copies = disk_copies(flags, copied_targets(self.record))
        sending = Sending(
            self._context, self._guest(), self._told, flags, copies, advised=self._advised, stepped=self._stepped
        )
        await sending.outgoing.begin()
        return sending

    def _images(self) -> Iterator[ImageToSend]:
        """The images as they are here, in the order in which the destination expects them."""
        if self._entry is None:
            raise DriverLost("the domain of this migration is gone")
        paths = {disk.target: disk.source_path or "" for disk in self._entry.definition.devices.disks}
        for image in self.record.disks or ():
            yield ImageToSend(
                image.target, paths[image.target], image.size_bytes, image.target in self._settings.detect_zeroes
            )

    async def _let_go(self) -> SourceEvent | None:
        sending = self._sending
        assert sending is not None  # noqa: S101 - the table has LET_GO only after SEND
        if not self.record.receiver_uri:
            work = give_word(self._context, self.machine, sending)
            self._context.tasks.spawn(work, f"release {self.record.migration_id}")
        try:
            extent = await sending.let_go()
        except VmferryError as error:
            self._fail(error)
            return SourceEvent.DOUBT
        if extent is Extent.RUNNABLE:
            self._pages_follow, self.serving.route = True, self._taken
            self._context.tasks.spawn(self.hear(), f"word about {self.record.migration_id}")
        pause_ms = sending.paused_for_us // 1000
        self.note_figures(sending.statistics)
        if not self.record.receiver_uri:
            self._context.tasks.spawn(self._bound_the_pause(), f"pause of {self.record.migration_id}")
            self._context.tasks.spawn(self.hear_alone(), f"word of {self.record.migration_id}")
            return None
        # The receiver acknowledges after it has started the CPUs, so the guest has stood still no longer than until now.
        self.machine.note(statistics=self.record.statistics.measured(guest_pause_ms=pause_ms))
        return SourceEvent.ARRIVED

    async def _serve(self) -> None:
        await self.serving.serve()

    async def _send_again(self) -> SourceEvent | None:
        return await self.serving.send_again()

    async def _bound_the_pause(self) -> None:
        """A guest whose last part was sent does not stand still for ever: the source asks for an end, or says: in doubt."""
        await self._ended_or(self._context.limits.longest_pause_s)
        if self.state is SourceState.RELEASED:
            log.warning("pause_too_long", migration_id=self.record.migration_id, peer=self.record.peer_uri)
            await self.settle()

    async def _take_back(self) -> None:
        """The guest is here as it was before; it runs only if it ran, and no I/O error has stopped it."""
        if isinstance(self._sending, DiskSending) or self.record.disks:
            # A hypervisor that waits for a disk's channel which has fallen silent hears that it is no more.
            self._close_channels()
        guest = await self.reached()
        if guest is None or self._entry is None:
            return
        try:
            await guest.outgoing().cancel()
            if self._may_run() and (await guest.probe()).run_state in _STANDING:
                await guest.resume()
            elif self.record.wish is RunWish.SUSPENDED:
                await guest.pause()  # a daemon may have died between the wish and its effect
        except DriverLost:
            if (await guest.probe()).run_state is not RunState.GONE:
                raise  # only its monitor is: the guest may stand still, and is asked again
        run_state = (await guest.probe()).run_state
        if run_state is RunState.GONE:
            await self._context.domains.lost(self._entry, StateReason.CRASHED)
        elif not (run_state.executes and self._entry.state is DomainState.RUNNING):  # one that never stopped is as it was
            self._context.domains.mark_as(self._entry, run_state, StateReason.MIGRATION_CANCELED)

    def _close_channels(self) -> None:
        if self._sending is not None:
            self._sending.close()

    def _paused_by_user(self) -> None:
        if isinstance(self._sending, Sending):
            self._sending.paused_by_user = True

    def _may_run(self) -> bool:
        """The guest ran before, and neither a user nor a failed disk has stopped it since."""
        return self.record.wish.applied_to(self.record.was_running) and not (
            self._sending is not None and self._sending.disk_failed
        )

    async def _give_up(self) -> None:
        """Nothing is left of the copy here."""
        if self._entry is None:
            return
        guest = await self.reached()
        if guest is not None:
            if self._sending is not None:
                self.note_figures(await self._sending.look())
            await guest.destroy()
            await self._context.domains.lost(self._entry, StateReason.MIGRATED)
        if self._forgets(self._entry):
            await self._context.domains.undefine_now(self._entry)

    def _forgets(self, entry: Entry) -> bool:
        """The stored definition goes, too. One whose domain was moved offline and is active here stays (1.10)."""
        wished = Flag.UNDEFINE_SOURCE in Flag(self.record.flags)
        return wished and entry.persistent is not None and entry.live is None

    async def _ask_peer(self) -> SourceEvent | None:
        """See `Asking`. Without a daemon at the destination it is the own hypervisor that is asked."""
        event = await self._asking.ask(self.record, self.state, str(self.failure or "the source is in doubt"))
        if event is SourceEvent.NEVER_LEFT:
            self._fail(MigrationAborted("the last part had not been sent when vmferryd ended"))
        return event

    async def _close_job(self) -> None:
        await self.wishes.grant_resume()
        if self._sending is not None:
            self._sending.close()
        await self.machine.settled()
        try:
            if self._entry is not None:
                await self._context.domains.release(self._entry)
        finally:
            self.machine.close()

    # -- small things -----------------------------------------------------------------------------------------------

    async def reached(self) -> Guest | None:
        """The copy that this migration is about, also one that could not be reached when the daemon started.

        Raises:
            DriverLost, DriverRefused: it still cannot be, and may be there: what is to be done with it is to be tried again.
        """
        if self._entry is None or self._entry.plan != self.record.plan:
            return None
        return await self._context.domains.reached(self._entry)

    def _guest(self) -> Guest:
        if self._entry is None:
            raise DriverLost("the guest of this migration is gone")
        return self._context.domains.active(self._entry)

    def _fail(self, error: VmferryError) -> None:
        """The first failure stands."""
        self.failure = self.failure or error
        self.machine.note(error=str(self.failure), error_reason=self.failure.reason)

    async def _report_progress(self) -> None:
        while self.performing is not None and not self.performing.done():
            await asyncio.wait([self.performing], timeout=self._context.limits.progress_s)
            if self._sending is not None and self.state in (SourceState.PERFORMING, SourceState.RELEASED):
                self.note_figures(await self._sending.look())

    def note_figures(self, figures: Statistics) -> None:
        """The hypervisor's newest figures; what the daemons have measured stays."""
        pause_ms = self.record.statistics.guest_pause_ms
        self.machine.note(statistics=figures.measured(guest_pause_ms=pause_ms))


_STANDING = (RunState.PAUSED, RunState.HELD, RunState.GONE_OVER)
"""What a transfer leaves behind of a guest that ran."""
