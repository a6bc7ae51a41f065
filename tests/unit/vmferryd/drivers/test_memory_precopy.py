"""The pre-copy loop, on a clock that stands still until it is told."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop
from simulated import PAGE, World, definition

from vmferry.errors import DriverRefused, TransferFailed
from vmferryd.drivers.base import RunState, SendSettings, StartMode, TransferState, Tuning
from vmferryd.drivers.memory import MemoryDriver, MemoryGuest

SLOW = SendSettings(max_bandwidth_bytes_per_s=16 * PAGE, max_downtime_ms=100)
"""16 pages a second: 64 resident pages take four seconds, and one page fits into the downtime."""


async def held(world: World, source: MemoryGuest) -> None:
    """The transfer is held, whatever time that took on the driven clock."""
    await world.until(asyncio.create_task(source.outgoing().held()))


async def test_an_unlimited_transfer_takes_no_time(world: World) -> None:
    """Without a limit, nothing waits for the clock."""
    source, incoming = await world.sending(SendSettings(), dirty=1000)
    await source.outgoing().held()
    await source.outgoing().let_go()
    await incoming.received()
    assert world.clock.monotonic() == 1_001.0


async def test_a_transfer_keeps_to_its_bandwidth(world: World) -> None:
    """64 pages at 16 pages a second are sent in four seconds, not less."""
    source, _ = await world.sending(SLOW)
    await world.clock.advance(3.5)
    assert (await source.probe()).transfer_state is TransferState.ACTIVE
    await world.clock.advance(1.0)
    assert (await source.probe()).transfer_state is TransferState.HELD
    found = await source.outgoing().statistics()
    assert found.memory_bytes_per_s == pytest.approx(16 * PAGE, rel=0.1)


async def test_the_line_limits_every_transfer(world: World) -> None:
    """What the machine's network carries is a limit, whatever the settings say."""
    world.here.line_bytes_per_s = 16 * PAGE
    source, _ = await world.sending(SendSettings())
    await world.clock.advance(3.5)
    assert (await source.probe()).transfer_state is TransferState.ACTIVE


async def test_beats_go_on_without_gap_or_doubling(world: World) -> None:
    """The heart's count and the memory go over; what the guest wrote here is what it has there."""
    source, incoming = await world.sending(SLOW, dirty=2)
    await held(world, source)
    await source.outgoing().let_go()
    await incoming.received()
    beat, digest = source.simulated.beat, source.simulated.memory_digest()
    await world.clock.advance(5)
    assert (source.simulated.beat, incoming.guest.simulated.beat) == (beat, beat)
    assert incoming.guest.simulated.memory_digest() == digest
    await incoming.guest.resume()
    await world.clock.advance(1)
    assert incoming.guest.simulated.beat == beat + 100
    assert incoming.guest.simulated.memory_damage() == ()
    assert [span.host for span in world.log.spans()] == ["here", "there"]


async def test_two_running_copies_would_be_found() -> None:
    """The evidence works: a source that is resumed although the destination runs is a finding."""
    world = World()
    source, incoming = await world.sending(SendSettings())
    await source.outgoing().held()
    await source.outgoing().let_go()
    await incoming.received()
    await incoming.guest.resume()
    await source.resume()
    await world.clock.advance(1)
    assert world.log.findings()
    await world.power_off()


async def test_a_guest_that_writes_faster_than_the_line_is_never_held(world: World) -> None:
    """Rounds follow each other until somebody tunes, pauses or cancels."""
    source, _ = await world.sending(SLOW, dirty=100)
    await world.clock.advance(60)
    found = await source.outgoing().statistics()
    assert (await source.probe()).transfer_state is TransferState.ACTIVE
    assert found.memory_iteration > 10
    assert found.memory_dirty_rate_pages_per_s == pytest.approx(100, rel=0.05)
    assert found.expected_downtime_ms > 100
    await source.pause()
    await held(world, source)


async def test_auto_converge_slows_the_guest_until_it_fits(world: World) -> None:
    """The guest is throttled round by round, and runs at full speed again afterwards."""
    settings = SendSettings(max_bandwidth_bytes_per_s=16 * PAGE, max_downtime_ms=500, auto_converge=True)
    source, _ = await world.sending(settings, dirty=40)
    await held(world, source)
    throttled = (await source.outgoing().statistics()).auto_converge_throttle_percent
    assert throttled > 20
    await source.outgoing().cancel()
    beat = source.simulated.beat
    await world.clock.advance(1)
    assert source.simulated.beat == beat + 100


async def test_tuning_wakes_a_waiting_transfer(world: World) -> None:
    """A sender that would wait for hours obeys a new bandwidth at once."""
    source, _ = await world.sending(SendSettings(max_bandwidth_bytes_per_s=1))
    await world.clock.advance(1)
    await source.tune(Tuning(max_bandwidth_bytes_per_s=1 << 30))
    await world.clock.advance(1)
    assert (await source.probe()).transfer_state is TransferState.HELD


async def test_pages_that_are_zero_are_not_sent_as_pages(world: World) -> None:
    """A guest of 1 MiB has 256 pages, of which 64 have content."""
    source, _ = await world.sending(SendSettings())
    await source.outgoing().held()
    found = await source.outgoing().statistics()
    assert (found.memory_constant_pages, found.memory_normal_pages) == (192, 64)
    assert found.memory_total_bytes == 1 << 20


async def test_a_guest_that_crashes_ends_its_transfer(world: World) -> None:
    """A crashed guest is not sent, and `cancel` does not make it run."""
    source, incoming = await world.sending(SLOW)
    source.simulated.crash()
    with pytest.raises(TransferFailed, match="failed"):
        await source.outgoing().held()
    await source.outgoing().cancel()
    assert (await source.probe()).run_state is RunState.CRASHED
    with pytest.raises(TransferFailed):
        await incoming.received()


async def test_only_resume_runs_a_guest_that_was_let_go(world: World) -> None:
    """After `let_go` neither failure nor `cancel` starts the CPUs."""
    source, incoming = await world.sending(SendSettings())
    await source.outgoing().held()
    letting_go = asyncio.create_task(source.outgoing().let_go())
    await asyncio.sleep(0)
    incoming.guest.simulated.kill()
    with pytest.raises(TransferFailed):
        await letting_go
    await source.outgoing().cancel()
    assert (await source.probe()).run_state is RunState.PAUSED
    await source.resume()
    assert (await source.probe()).run_state is RunState.RUNNING


async def test_a_guest_that_has_gone_over_is_not_sent_again(world: World) -> None:
    """Its memory belongs to the destination until somebody resumes it here."""
    source, incoming = await world.sending(SendSettings())
    await source.outgoing().held()
    await source.outgoing().let_go()
    await incoming.received()
    near, far = socket.socketpair()
    with near, far, pytest.raises(DriverRefused):
        await source.outgoing().send(near, SendSettings())


async def test_shutdown_is_obeyed_once_the_guest_has_booted(world: World) -> None:
    """A guest that is booting does not notice; later it shuts down, unless it does not want to."""
    guest = await world.start(boot_time_ms=2_000)
    await guest.shutdown()
    assert (await guest.probe()).run_state is RunState.RUNNING
    await world.clock.advance(3)
    guest.simulated.obeys_shutdown = False
    await guest.shutdown()
    assert (await guest.probe()).run_state is RunState.RUNNING
    guest.simulated.obeys_shutdown = True
    await guest.shutdown()
    assert (await guest.probe()).run_state is RunState.SHUT_DOWN
    with pytest.raises(DriverRefused):
        await guest.resume()


async def test_a_guest_with_a_failed_disk_runs_on_when_resumed(world: World) -> None:
    """An input or output error stops the CPUs, and the probe says why."""
    guest = await world.start()
    guest.simulated.fail_io("disk full")
    probe = await guest.probe()
    assert (probe.run_state, probe.detail) == (RunState.IO_ERROR, "disk full")
    await guest.resume()
    assert (await guest.probe()).run_state is RunState.RUNNING


async def test_a_thousand_guests_cost_nothing(world: World) -> None:
    """A day in the life of 1000 guests is worked out only for who asks."""
    guests = [await world.start(dirty=1000) for _ in range(1000)]
    await world.clock.advance(86_400)
    assert {guest.simulated.beat for guest in guests} == {8_640_000}


def test_uvloop_carries_a_whole_migration() -> None:
    """The loop of the daemon's choice makes no difference: held, let go, cancelled, killed."""

    async def migrate() -> None:
        world = World()
        source, incoming = await world.sending(SLOW, dirty=2)
        await world.clock.advance(1)
        await source.outgoing().cancel()
        with pytest.raises(TransferFailed):
            await incoming.received()
        near, far = socket.socketpair()
        again = await world.accept()
        await again.receive(far)
        await source.outgoing().send(near, SLOW)
        await held(world, source)
        await source.outgoing().let_go()
        await again.received()
        await again.guest.resume()
        await world.clock.advance(1)
        assert again.guest.simulated.memory_damage() == ()
        assert world.log.findings() == []
        await world.power_off()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(migrate())


async def test_a_plan_that_was_started_is_not_started_again(world: World) -> None:
    """The second start of a plan finds the guest as it is."""
    guest = await world.start()
    await guest.pause()
    asked = MemoryDriver(world.here)
    again = await asked.start(guest.plan, definition(), StartMode.RUNNING)
    assert again.simulated is guest.simulated
    assert (await again.probe()).run_state is RunState.PAUSED
