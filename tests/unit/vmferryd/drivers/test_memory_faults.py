"""The fault switches."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable

import pytest
from simulated import World, definition

from support.waiting import eventually
from vmferry.errors import DriverLost, DriverRefused, TransferFailed, VmferryError
from vmferryd.drivers.base import ReceiveSettings, RunState, SendSettings, StartMode, TransferState, Tuning
from vmferryd.drivers.memory import FaultKind, MemoryDriver, MemoryGuest, Verb
from vmferryd.drivers.memory.faults import MOMENTS, FaultPlan

Call = Callable[[MemoryGuest], Awaitable[object]]
GUEST_VERBS: dict[Verb, Call] = {
    Verb.PROBE: lambda guest: guest.probe(),
    Verb.DEVICES: lambda guest: guest.devices(),
    Verb.PAUSE: lambda guest: guest.pause(),
    Verb.RESUME: lambda guest: guest.resume(),
    Verb.SHUTDOWN: lambda guest: guest.shutdown(),
    Verb.DESTROY: lambda guest: guest.destroy(),
    Verb.HELD: lambda guest: guest.outgoing().held(),
    Verb.LET_GO: lambda guest: guest.outgoing().let_go(),
    Verb.CANCEL: lambda guest: guest.outgoing().cancel(),
    Verb.STATISTICS: lambda guest: guest.outgoing().statistics(),
    Verb.TUNE: lambda guest: guest.tune(Tuning()),
    Verb.TUNING: lambda guest: guest.tuning(),
}


@pytest.mark.parametrize("verb", GUEST_VERBS)
@pytest.mark.parametrize("kind", [FaultKind.REFUSE, FaultKind.LOSE_BEFORE])
async def test_a_verb_that_was_refused_or_lost_before_did_nothing(world: World, verb: Verb, kind: FaultKind) -> None:
    """The guest is as it was, and the next call works again."""
    guest, _ = await world.sending(SendSettings())
    await guest.outgoing().held()
    before = await guest.probe()
    world.here.faults.once(verb, kind)
    with pytest.raises(DriverRefused if kind is FaultKind.REFUSE else DriverLost):
        await GUEST_VERBS[verb](guest)
    assert await guest.probe() == before
    assert [(fired, what) for fired, _, what in world.here.faults.fired] == [(verb, kind)]


async def test_a_verb_whose_answer_was_lost_has_happened(world: World) -> None:
    """The guest is paused, although the caller does not know."""
    guest = await world.start()
    world.here.faults.once(Verb.PAUSE, FaultKind.LOSE_AFTER)
    with pytest.raises(DriverLost):
        await guest.pause()
    assert (await guest.probe()).run_state is RunState.PAUSED


async def test_letting_go_with_a_lost_answer_sends_everything(world: World) -> None:
    """The destination has the whole state, and the source stands still for ever."""
    source, incoming = await world.sending(SendSettings())
    await source.outgoing().held()
    world.here.faults.once(Verb.LET_GO, FaultKind.LOSE_AFTER)
    with pytest.raises(DriverLost):
        await source.outgoing().let_go()
    await incoming.received()
    await source.outgoing().cancel()
    assert (await source.probe()).run_state is RunState.GONE_OVER


@pytest.mark.parametrize("kind", [FaultKind.LOSE_BEFORE, FaultKind.LOSE_AFTER])
async def test_a_start_that_was_lost_is_discarded(world: World, kind: FaultKind) -> None:
    """Whether the guest exists or not, discarding its plan leaves nothing."""
    driver = MemoryDriver(world.here)
    plan = driver.plan(definition())
    world.here.faults.once(Verb.START, kind)
    with pytest.raises(DriverLost):
        await driver.start(plan, definition(), StartMode.RUNNING)
    assert (await driver.attach(plan) is not None) == (kind is FaultKind.LOSE_AFTER)
    await driver.discard(plan)
    assert world.here.leftovers() == []


@pytest.mark.parametrize("kind", [FaultKind.LOSE_BEFORE, FaultKind.LOSE_AFTER])
async def test_a_lost_send_leaves_no_channel_after_cancel(world: World, kind: FaultKind) -> None:
    """The channel is the driver's, whether the transfer has begun or not."""
    source, incoming = await world.start(), await world.accept()
    near, far = socket.socketpair()
    await incoming.receive(far)
    world.here.faults.once(Verb.SEND, kind)
    with pytest.raises(DriverLost):
        await source.outgoing().send(near, SendSettings())
    await source.outgoing().cancel()
    assert near.fileno() == -1
    assert (await source.probe()).run_state is RunState.RUNNING
    with pytest.raises(TransferFailed):
        await incoming.received()


async def test_a_hanging_verb_goes_on_when_released(world: World) -> None:
    """Until then nothing has happened."""
    guest = await world.start()
    world.here.faults.once(Verb.PAUSE, FaultKind.HANG)
    pausing = asyncio.create_task(guest.pause())
    await eventually(lambda: world.here.faults.hanging == 1)
    assert (await guest.probe()).run_state is RunState.RUNNING
    world.here.faults.release()
    await pausing
    assert (await guest.probe()).run_state is RunState.PAUSED


async def test_a_guest_killed_before_a_verb_is_lost(world: World) -> None:
    """The verb finds nobody."""
    guest = await world.start()
    world.here.faults.once(Verb.PAUSE, FaultKind.KILL_BEFORE)
    with pytest.raises(DriverLost):
        await guest.pause()
    assert (await guest.probe()).run_state is RunState.GONE


async def test_a_guest_killed_after_a_verb_has_answered(world: World) -> None:
    """The caller believes that the guest lives."""
    driver = MemoryDriver(world.here)
    plan = driver.plan(definition())
    world.here.faults.once(Verb.START, FaultKind.KILL_AFTER)
    guest = await driver.start(plan, definition(), StartMode.RUNNING)
    assert (await guest.probe()).run_state is RunState.GONE


async def test_a_transfer_that_fails_before_letting_go_has_sent_nothing(world: World) -> None:
    """Letting go is refused, and so `cancel` makes the source run."""
    source, _ = await world.sending(SendSettings())
    await source.outgoing().held()
    world.here.faults.once(Verb.LET_GO, FaultKind.FAIL_TRANSFER)
    with pytest.raises(DriverRefused):
        await source.outgoing().let_go()
    assert (await source.probe()).run_state is RunState.PAUSED
    await source.outgoing().cancel()
    assert (await source.probe()).run_state is RunState.RUNNING


@pytest.mark.parametrize(
    ("moment", "at_destination", "arrived"),
    [(Verb.LAST_PART, False, False), (Verb.ACKNOWLEDGE, True, True)],
)
@pytest.mark.parametrize("kind", [FaultKind.FAIL_TRANSFER, FaultKind.KILL_BEFORE])
async def test_a_last_part_in_doubt_leaves_the_source_still(
    world: World, moment: Verb, at_destination: bool, arrived: bool, kind: FaultKind
) -> None:
    """The source cannot tell whether everything arrived, and does not execute."""
    source, incoming = await world.sending(SendSettings())
    await source.outgoing().held()
    victim = world.there if at_destination else world.here
    victim.faults.once(moment, kind)
    with pytest.raises((TransferFailed, DriverLost)):
        await source.outgoing().let_go()
    await source.outgoing().cancel()
    assert not (await source.probe()).run_state.executes
    killed = kind is FaultKind.KILL_BEFORE
    if arrived and not killed:
        await incoming.received()
    if not arrived:
        with pytest.raises(TransferFailed):
            await incoming.received()


async def test_a_round_of_choice_kills_the_source(world: World) -> None:
    """The third round is its last."""
    source, incoming = await world.sending(SendSettings(max_bandwidth_bytes_per_s=1 << 16, max_downtime_ms=0), dirty=50)
    world.here.faults.nth(Verb.ROUND, 3, FaultKind.KILL_BEFORE)
    await world.clock.advance(120)
    assert (await source.probe()).run_state is RunState.GONE
    assert (await source.outgoing().statistics()).memory_iteration == 3
    with pytest.raises(TransferFailed):
        await incoming.received()


async def test_a_fault_may_be_meant_for_one_domain(world: World) -> None:
    """Other domains do not notice."""
    guest = await world.start()
    world.here.faults.always(Verb.PAUSE, FaultKind.REFUSE, domain_uuid="another")
    await guest.pause()
    world.here.faults.always(Verb.RESUME, FaultKind.REFUSE, domain_uuid=guest.plan.domain_uuid)
    for _ in range(2):
        with pytest.raises(DriverRefused):
            await guest.resume()
    world.here.faults.clear()
    await guest.resume()


@pytest.mark.parametrize("moment", sorted(MOMENTS))
def test_a_moment_has_no_answer_to_lose(moment: Verb) -> None:
    """Such a switch would never do anything, so it is refused."""
    with pytest.raises(ValueError, match="means nothing"):
        FaultPlan().once(moment, FaultKind.LOSE_AFTER)


async def attempt(world: World) -> None:
    """One migration, walked as a careful daemon would, whatever goes wrong."""
    source, incoming = await world.start(dirty=20), await world.accept()
    near, far = socket.socketpair()
    try:
        await incoming.receive(far)
        await source.outgoing().send(near, SendSettings())
        await source.outgoing().held()
        await source.outgoing().let_go()
        await incoming.received()
        await source.destroy()
        await incoming.guest.resume()
    except VmferryError:
        world.here.faults.clear()
        world.there.faults.clear()
        await source.outgoing().cancel()
        near.close()
        if far not in world.there.channels:
            far.close()


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_goes_wrong_nobody_executes_twice(world: World, seed: int) -> None:
    """Seeded faults at every verb and moment: one copy at most runs, and none was damaged."""
    dice = random.Random(seed)
    kinds = [kind for kind in FaultKind if kind is not FaultKind.HANG]

    def choose(verb: Verb, _: str) -> FaultKind | None:
        fitting = [FaultKind.FAIL_TRANSFER, FaultKind.KILL_BEFORE] if verb in MOMENTS else kinds
        risky = verb not in (Verb.START, Verb.ACCEPT) and dice.random() < 0.15
        return dice.choice(fitting) if risky else None

    world.here.faults.choose = world.there.faults.choose = choose
    await attempt(world)
    await world.clock.advance(1)
    guests = [*world.here.guests.values(), *world.there.guests.values()]
    running = [guest for guest in guests if guest.run_state.executes]
    assert len(running) <= 1
    assert all(guest.memory_damage() == () for guest in running)


async def test_accepting_again_finds_the_waiting_guest(world: World) -> None:
    """So a restarted daemon gets the arrival's handle back; a guest that was started has none."""
    incoming = await world.accept()
    driver = MemoryDriver(world.there)
    again = await driver.accept(incoming.guest.plan, definition(), ReceiveSettings())
    assert again.guest.simulated is incoming.guest.simulated
    assert (await again.guest.probe()).transfer_state is TransferState.NONE
    started = await world.start()
    with pytest.raises(DriverRefused):
        await MemoryDriver(world.here).accept(started.plan, definition(), ReceiveSettings())
