"""What every driver promises (`vmferryd.drivers.base`)."""

from __future__ import annotations

import socket

import pytest

from contract.harness import Harness
from contract.stage import DIRTY, ENDLESS, FAST, QUICK, Stage, open_pair
from vmferry.errors import DriverLost, DriverRefused, TransferFailed
from vmferryd.drivers.base import (
    DriverFeature,
    EventKind,
    Guest,
    ReceiveSettings,
    RunState,
    SendSettings,
    StartMode,
    TransferState,
    Tuning,
)
from vmferryd.drivers.fate import Fate

DEFAULT_DOWNTIME_MS = 300


async def test_capabilities_name_the_hypervisor(harness: Harness) -> None:
    """A driver says who it is, what it runs, and that it can send a guest while that runs."""
    found = await harness.driver.capabilities()
    assert found.name == harness.driver.name
    assert found.version
    assert found.domain_types
    assert DriverFeature.LIVE in found.features


async def test_nothing_keeps_a_plain_definition_from_starting(harness: Harness) -> None:
    """A definition that starts here has no violations."""
    assert await harness.driver.check(harness.definition("guest")) == ()


async def test_no_two_plans_are_alike(harness: Harness) -> None:
    """Two plans for one definition differ in their directory, and neither has made anything."""
    definition = harness.definition("guest")
    one, other = harness.driver.plan(definition), harness.driver.plan(definition)
    assert one.directory != other.directory
    assert one.domain_uuid == str(definition.uuid)
    assert harness.leftovers() == []


async def test_a_guest_starts_running(stage: Stage) -> None:
    """A guest that was started running executes."""
    guest = await stage.start(StartMode.RUNNING)
    await stage.runs(guest)
    probe = await guest.probe()
    assert (probe.run_state, probe.transfer_state) == (RunState.RUNNING, TransferState.NONE)


async def test_a_guest_starts_paused(stage: Stage) -> None:
    """A guest that was started paused stands still until it is resumed."""
    guest = await stage.start(StartMode.PAUSED)
    await stage.stands_still(guest)
    await guest.resume()
    await stage.runs(guest)


async def test_pause_and_resume_may_be_called_twice(stage: Stage) -> None:
    """The second pause and the second resume find the work done."""
    guest = await stage.start()
    await guest.pause()
    await guest.pause()
    await stage.stands_still(guest)
    await guest.resume()
    await guest.resume()
    await stage.runs(guest)


async def test_destroy_may_be_called_twice(stage: Stage) -> None:
    """After the first destroy the guest is gone, and the second succeeds."""
    guest = await stage.start()
    await guest.destroy()
    await guest.destroy()
    assert (await guest.probe()).run_state is RunState.GONE
    assert stage.harness.leftovers() == []


async def test_a_plan_that_was_never_carried_out_is_discarded(stage: Stage) -> None:
    """Discarding finds nothing to do, twice."""
    plan = stage.plan(stage.harness.definition("guest"))
    await stage.harness.driver.discard(plan)
    await stage.harness.driver.discard(plan)
    assert stage.harness.leftovers() == []


async def test_discard_removes_a_running_guest(stage: Stage) -> None:
    """Nothing is left of a plan that was carried out."""
    guest = await stage.start()
    await stage.harness.driver.discard(guest.plan)
    assert (await guest.probe()).run_state is RunState.GONE
    assert stage.harness.leftovers() == []


async def test_a_guest_outlives_its_daemon(stage: Stage) -> None:
    """A new driver over the same host finds a running guest by its plan, still running."""
    guest = await stage.start()
    driver = await stage.harness.restart()
    found = await driver.attach(guest.plan)
    assert found is not None
    assert found.plan == guest.plan
    await stage.runs(found)
    await found.pause()
    await stage.stands_still(found)


async def test_a_guest_that_is_gone_is_not_found(stage: Stage) -> None:
    """Attaching to a destroyed guest, and to one that never was, gives None."""
    guest = await stage.start()
    await guest.destroy()
    assert await stage.harness.driver.attach(guest.plan) is None
    assert await stage.harness.driver.attach(stage.plan(stage.harness.definition("other"))) is None


async def test_closing_a_handle_leaves_the_guest(stage: Stage) -> None:
    """A guest whose handle was closed runs on and can be attached to."""
    guest = await stage.start()
    await guest.close()
    found = await stage.harness.driver.attach(guest.plan)
    assert found is not None
    await stage.runs(found)


async def test_a_killed_guest_is_gone(stage: Stage) -> None:
    """A guest whose hypervisor was killed reports it, answers GONE, and is not found again."""
    guest = await stage.start()
    events = stage.listen(guest)
    await stage.harness.kill(guest)
    await events.seen(EventKind.GONE)
    await stage.becomes(guest, RunState.GONE)
    assert await stage.harness.driver.attach(guest.plan) is None


async def test_a_guest_reports_that_it_stops_and_resumes(stage: Stage) -> None:
    """Listeners hear STOPPED and RESUMED, until they leave."""
    guest = await stage.start()
    heard: list[EventKind] = []
    leave = guest.subscribe(lambda event: heard.append(event.kind))
    events = stage.listen(guest)
    await guest.pause()
    await events.seen(EventKind.STOPPED)
    leave()
    await guest.resume()
    await events.seen(EventKind.RESUMED)
    assert EventKind.STOPPED in heard
    assert EventKind.RESUMED not in heard


async def test_a_guest_moves_whole(stage: Stage) -> None:
    """Held: nobody executes. Let go: the source does not, nor the destination until resumed. Its memory is intact."""
    migration = await stage.held(dirty=DIRTY)
    await stage.stands_still(migration.source)
    assert (await migration.source.probe()).run_state is RunState.HELD
    await migration.let_go()
    assert await migration.state() is TransferState.COMPLETED
    await stage.stands_still(migration.source)
    await stage.stands_still(migration.destination)
    await migration.destination.resume()
    await stage.runs(migration.destination)
    await stage.stands_still(migration.source)
    assert await stage.harness.damage(migration.destination) == ""


async def test_a_moved_guest_can_come_back(stage: Stage) -> None:
    """After a move that nobody committed, the source runs on when it is resumed."""
    migration = await stage.held(dirty=DIRTY)
    await migration.let_go()
    await migration.destination.destroy()
    await migration.source.resume()
    await stage.runs(migration.source)
    assert await stage.harness.damage(migration.source) == ""


async def test_the_waits_of_a_finished_transfer_return_at_once(stage: Stage) -> None:
    """`held`, `let_go`, `received` and `cancel` may be called again; the source stands still all the same."""
    migration = await stage.held()
    await migration.held()
    await migration.let_go()
    await migration.let_go()
    await migration.outgoing.cancel()
    await stage.stands_still(migration.source)


async def test_a_transfer_outlives_its_daemon(stage: Stage) -> None:
    """A new driver finds the held transfer of an earlier one, and lets it go."""
    migration = await stage.held(dirty=DIRTY)
    driver = await stage.harness.restart()
    source = await driver.attach(migration.source.plan)
    incoming = await driver.accept(migration.destination.plan, migration.definition, ReceiveSettings())
    assert source is not None
    assert (await source.probe()).transfer_state is TransferState.HELD
    await migration.within(source.outgoing().let_go())
    await migration.within(incoming.received())
    await incoming.guest.resume()
    await stage.runs(incoming.guest)
    await stage.stands_still(source)


async def test_a_cancelled_transfer_leaves_the_source_running(stage: Stage) -> None:
    """Cancelling an active transfer, twice, leaves the source running and the destination without a guest."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    await migration.outgoing.cancel()
    await migration.outgoing.cancel()
    await stage.runs(migration.source)
    with pytest.raises(TransferFailed):
        await migration.within(migration.incoming.received())
    assert await migration.state() is TransferState.CANCELLED


async def test_a_cancelled_guest_can_be_sent_again(stage: Stage) -> None:
    """The next attempt has a destination of its own and brings the guest over."""
    first = await stage.begun(ENDLESS, dirty=DIRTY)
    await first.outgoing.cancel()
    definition = first.definition
    plan = stage.plan(definition)
    first.incoming = await stage.harness.driver.accept(plan, definition, ReceiveSettings())
    await first.begin(FAST)
    await first.held()
    await first.let_go()
    await first.destination.resume()
    await stage.runs(first.destination)
    assert await stage.harness.damage(first.destination) == ""


async def test_cancelling_a_held_transfer_makes_the_source_run(stage: Stage) -> None:
    """CPUs that ran before the transfer run again after it was cancelled."""
    migration = await stage.held()
    await migration.outgoing.cancel()
    await stage.runs(migration.source)


async def test_nothing_resumes_a_held_guest_but_cancel(stage: Stage) -> None:
    """A held guest cannot be resumed behind its transfer's back."""
    migration = await stage.held()
    with pytest.raises(DriverRefused):
        await migration.source.resume()
    await stage.stands_still(migration.source)


async def test_a_waiting_guest_cannot_be_resumed(stage: Stage) -> None:
    """A guest without its state has nothing to execute."""
    migration = await stage.migration()
    with pytest.raises(DriverRefused):
        await migration.destination.resume()
    await stage.stands_still(migration.destination)


async def test_a_paused_guest_stays_paused(stage: Stage) -> None:
    """A paused guest is sent and executes nowhere, until the destination is resumed."""
    migration = await stage.held(StartMode.PAUSED)
    await migration.let_go()
    await stage.stands_still(migration.source)
    await stage.stands_still(migration.destination)
    await migration.destination.resume()
    await stage.runs(migration.destination)


async def test_cancelling_leaves_a_paused_guest_paused(stage: Stage) -> None:
    """CPUs that stood still before the transfer stand still after it was cancelled."""
    migration = await stage.held(StartMode.PAUSED)
    await migration.outgoing.cancel()
    await stage.stands_still(migration.source)
    await migration.source.resume()
    await stage.runs(migration.source)


async def test_a_guest_that_is_not_sent_live_stands_still_at_once(stage: Stage) -> None:
    """Not live: the CPUs stop before the first byte, and run again when the transfer is cancelled."""
    migration = await stage.migration(dirty=DIRTY)
    await migration.begin(SendSettings(live=False, max_bandwidth_bytes_per_s=256 * 1024))
    await stage.stands_still(migration.source)
    await migration.outgoing.cancel()
    await stage.runs(migration.source)


async def test_a_guest_moves_without_live(stage: Stage) -> None:
    """Not live: the guest arrives whole."""
    migration = await stage.migration(dirty=DIRTY)
    await migration.begin(SendSettings(live=False))
    await migration.held()
    await migration.let_go()
    await migration.destination.resume()
    await stage.runs(migration.destination)
    assert await stage.harness.damage(migration.destination) == ""


async def test_a_running_transfer_can_be_tuned(stage: Stage) -> None:
    """A transfer that would never end does when it may send faster and stop longer."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    await migration.source.tune(QUICK)
    await migration.held()
    await migration.let_go()


async def test_what_a_transfer_obeys_can_be_asked(stage: Stage) -> None:
    """The answer is what the user has set, and not what the driver makes of it; and the transfer's own values go with it.

    Also those that were set when the attempt had begun, and no memory was sent yet.
    """
    migration = await stage.migration(dirty=DIRTY)
    assert (await migration.source.tuning()).max_downtime_ms == DEFAULT_DOWNTIME_MS
    await migration.outgoing.begin()
    await migration.source.tune(Tuning(max_downtime_ms=5))
    await migration.begin(ENDLESS)
    await migration.under_way()
    begun = await migration.source.tuning()
    assert begun.max_downtime_ms == ENDLESS.max_downtime_ms
    assert begun.max_bandwidth_bytes_per_s == ENDLESS.max_bandwidth_bytes_per_s
    await migration.source.tune(Tuning(max_downtime_ms=2))
    await migration.source.tune(Tuning(max_bandwidth_bytes_per_s=512 * 1024))
    tuned = await migration.source.tuning()
    assert (tuned.max_downtime_ms, tuned.max_bandwidth_bytes_per_s) == (2, 512 * 1024)
    await migration.outgoing.cancel()
    assert (await migration.source.tuning()).max_downtime_ms == DEFAULT_DOWNTIME_MS


async def test_a_pause_that_is_kept_counts_for_the_next_transfer(stage: Stage) -> None:
    """A longest pause that was set while nothing was sent is obeyed by a transfer that names none, and survives its end."""
    migration = await stage.migration(dirty=DIRTY)
    await migration.source.tune(Tuning(max_downtime_ms=1_234))
    await migration.begin(SendSettings(max_bandwidth_bytes_per_s=256 * 1024))
    await migration.under_way()
    assert (await migration.source.tuning()).max_downtime_ms == 1_234
    await migration.outgoing.cancel()
    assert (await migration.source.tuning()).max_downtime_ms == 1_234
    await _is_as_before_an_attempt_that_sends_nothing(migration.source)


async def _is_as_before_an_attempt_that_sends_nothing(guest: Guest) -> None:
    """Whatever an earlier attempt has left, and however often it is cancelled; what is set after its end is kept."""
    for kept_ms in (987, 654):
        await guest.tune(Tuning(max_downtime_ms=kept_ms))
        for _ in range(2):
            await guest.outgoing().begin()
        await guest.tune(Tuning(max_downtime_ms=70, postcopy_bandwidth_bytes_per_s=1 << 20))
        await guest.outgoing().cancel()
        found = await guest.tuning()
        assert (found.max_downtime_ms, found.postcopy_bandwidth_bytes_per_s) == (kept_ms, 0)
        await guest.tune(Tuning(max_downtime_ms=55))
        await guest.outgoing().cancel()
        assert (await guest.tuning()).max_downtime_ms == 55


async def test_a_compression_cache_is_set_or_refused(stage: Stage) -> None:
    """A driver with xbzrle keeps the size of its cache, and one without refuses it; a size that is none is refused."""
    guest = await stage.start()
    if DriverFeature.XBZRLE in (await stage.harness.driver.capabilities()).features:
        await guest.tune(Tuning(xbzrle_cache_bytes=1 << 20))
        assert (await guest.tuning()).xbzrle_cache_bytes == 1 << 20
        size = 3
    else:
        assert (await guest.tuning()).xbzrle_cache_bytes is None
        size = 1 << 20
    with pytest.raises(DriverRefused):
        await guest.tune(Tuning(xbzrle_cache_bytes=size))


async def test_a_guest_that_is_paused_while_it_is_sent_stays_paused(stage: Stage) -> None:
    """A transfer whose guest was paused on the way comes to its end, and cancelling it does not start the guest."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    await migration.source.pause()
    await migration.source.tune(QUICK)
    await migration.held()
    await migration.outgoing.cancel()
    await stage.stands_still(migration.source)
    await migration.source.resume()
    await stage.runs(migration.source)
    assert await stage.harness.damage(migration.source) == ""


async def test_a_guest_that_is_paused_while_it_is_held_stays_paused(stage: Stage) -> None:
    """A guest that stands still for its transfer, and is paused then, does not run when the transfer is cancelled."""
    migration = await stage.held(dirty=DIRTY)
    await migration.source.pause()
    await migration.outgoing.cancel()
    await stage.stands_still(migration.source)
    await migration.source.resume()
    await stage.runs(migration.source)


async def test_a_destination_killed_in_mid_transfer(stage: Stage) -> None:
    """The transfer fails, and after `cancel` the source runs."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    await stage.harness.kill(migration.destination)
    with pytest.raises(TransferFailed):
        await migration.held()
    await migration.outgoing.cancel()
    await stage.runs(migration.source)


async def test_a_destination_killed_while_held(stage: Stage) -> None:
    """`let_go` fails and the source stands still; only `resume` makes it run, or `cancel` if nothing was let go."""
    migration = await stage.held()
    await stage.harness.kill(migration.destination)
    with pytest.raises((TransferFailed, DriverRefused, DriverLost)):
        await migration.within(migration.outgoing.let_go())
    await stage.stands_still(migration.source)
    await migration.outgoing.cancel()
    await migration.source.resume()
    await stage.runs(migration.source)


async def test_a_last_part_that_was_not_let_go_is_kept(stage: Stage) -> None:
    """While nothing was let go the sender can prove it: during the rounds, while held, after a failure, after a restart."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    assert await migration.outgoing.fate() is Fate.KEPT
    await migration.source.tune(QUICK)
    await migration.held()
    assert await migration.outgoing.fate() is Fate.KEPT
    driver = await stage.harness.restart()
    source = await driver.attach(migration.source.plan)
    assert source is not None
    assert await source.outgoing().fate() is Fate.KEPT
    await source.outgoing().cancel()
    await stage.runs(source)


async def test_a_last_part_that_was_acknowledged_has_arrived(stage: Stage) -> None:
    """The acknowledgement is the proof, and is still there after a restart."""
    migration = await stage.held()
    await migration.let_go()
    assert await migration.outgoing.fate() is Fate.ARRIVED
    source = await (await stage.harness.restart()).attach(migration.source.plan)
    assert source is not None
    assert await source.outgoing().fate() is Fate.ARRIVED
    await stage.stands_still(source)


async def test_a_last_part_without_an_acknowledgement_proves_nothing(stage: Stage) -> None:
    """It was let go and the receiver died: whether it had taken the guest is not known, not even after a cancel."""
    migration = await stage.held()
    await stage.harness.kill(migration.destination)
    with pytest.raises((TransferFailed, DriverLost)):
        await migration.within(migration.outgoing.let_go())
    assert await migration.outgoing.fate() is Fate.UNKNOWN
    await migration.outgoing.cancel()
    assert await migration.outgoing.fate() is Fate.UNKNOWN
    await stage.stands_still(migration.source)


async def test_the_fate_of_a_guest_that_is_gone(stage: Stage) -> None:
    """A dead hypervisor proves nothing, and says nothing."""
    migration = await stage.held()
    await stage.harness.kill(migration.source)
    with pytest.raises(DriverLost):
        await migration.outgoing.fate()


async def test_a_source_killed_in_mid_transfer(stage: Stage) -> None:
    """The destination says that its state will never arrive."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    await stage.harness.kill(migration.source)
    with pytest.raises(TransferFailed):
        await migration.within(migration.incoming.received())
    await stage.stands_still(migration.destination)


async def test_a_source_killed_while_held(stage: Stage) -> None:
    """Without the last part the destination does not have its state."""
    migration = await stage.held()
    await stage.harness.kill(migration.source)
    with pytest.raises(TransferFailed):
        await migration.within(migration.incoming.received())


async def test_a_second_send_is_refused(stage: Stage) -> None:
    """One transfer at a time: the second is refused, and the first goes on."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    async with open_pair() as (near, _):
        with pytest.raises(DriverRefused):
            await migration.outgoing.send(near, FAST)
    assert await migration.state() is TransferState.ACTIVE
    await stage.runs(migration.source)


async def test_a_transfer_that_is_not_held_cannot_be_let_go(stage: Stage) -> None:
    """Letting go too early is refused, and the source runs on."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    with pytest.raises(DriverRefused):
        await migration.outgoing.let_go()
    await stage.runs(migration.source)


async def test_a_channel_closed_early_fails_the_sender(stage: Stage) -> None:
    """A peer that goes away fails the transfer; the source runs after `cancel`."""
    guest = await stage.start(dirty=DIRTY)
    await stage.runs(guest)
    async with open_pair() as (near, far):
        await guest.outgoing().send(near, ENDLESS)
        far.close()
        with pytest.raises(TransferFailed):
            await guest.outgoing().held()
    await guest.outgoing().cancel()
    await stage.runs(guest)


@pytest.mark.parametrize("raw", [b"", b"this is no guest's state " * 4096], ids=["nothing", "garbage"])
async def test_a_stream_that_is_none_fails_the_receiver(stage: Stage, raw: bytes) -> None:
    """A channel that ends early or carries something else: the state never arrives."""
    migration = await stage.migration()
    near, far = socket.socketpair()
    await migration.incoming.receive(far)
    near.settimeout(migration.patience_s)
    try:
        near.sendall(raw[:65536])
    finally:
        near.close()
    with pytest.raises(TransferFailed):
        await migration.within(migration.incoming.received())


async def test_statistics_are_plausible(stage: Stage) -> None:
    """What was sent only grows, is counted in pages, and the pause is known at the end."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    early = await migration.outgoing.statistics()
    await migration.source.tune(QUICK)
    await migration.held()
    await migration.let_go()
    late = await migration.outgoing.statistics()
    assert 0 < early.memory_processed_bytes <= late.memory_processed_bytes
    assert late.memory_iteration >= 1
    assert late.memory_page_size_bytes > 0
    assert late.memory_total_bytes > 0
    assert late.memory_remaining_bytes == 0
    assert late.elapsed_ms >= late.downtime_ms >= 0


async def test_a_transfer_reports_itself(stage: Stage) -> None:
    """Listeners hear that the CPUs stopped and that the transfer changed."""
    migration = await stage.migration()
    events = stage.listen(migration.source)
    await migration.begin(FAST)
    await migration.held()
    await migration.let_go()
    await events.seen(EventKind.STOPPED)
    await events.seen(EventKind.TRANSFER)


async def test_a_waiting_guest_can_be_discarded(stage: Stage) -> None:
    """A destination that never received anything goes without a trace."""
    migration = await stage.migration()
    await stage.harness.driver.discard(migration.destination.plan)
    assert (await migration.destination.probe()).run_state is RunState.GONE
    await stage.runs(migration.source)
