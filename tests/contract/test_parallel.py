"""Memory over several connections: a driver does it and says so, or refuses it and says that."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from contract.stage import DIRTY, FAST, Stage
from support.waiting import eventually
from vmferry.errors import DriverRefused, TransferFailed
from vmferryd.drivers.base import (
    DriverFeature,
    Guest,
    IncomingGuest,
    OutgoingGuest,
    Parallel,
    ReceiveSettings,
    RunState,
    SendSettings,
    StartMode,
)
from vmferryd.transfer.relay import Relay

METHODS = {"": DriverFeature.PARALLEL, "zlib": DriverFeature.PARALLEL_ZLIB, "zstd": DriverFeature.PARALLEL_ZSTD}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="vmf") as directory:
        yield Path(directory) / "out"


async def _relayed(relay: Relay, far: socket.socket, there: Path) -> None:
    """A hypervisor may still connect when the transfer has been cancelled, and nobody listens any more."""
    with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
        far.connect(str(there))
        await relay.run()


def _abandoned(relay: Relay, _: asyncio.Task[object]) -> None:
    relay.abandon()


@contextlib.asynccontextmanager
async def led(place: Path, there: Path) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Every connection to `place` leads to `there`, as daemons do it."""
    relays: list[asyncio.Task[object]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        listener.setblocking(False)

        async def accept() -> None:
            while True:
                near, _ = await asyncio.get_running_loop().sock_accept(listener)
                far = socket.socket(socket.AF_UNIX)
                relays.append(asyncio.create_task(_relayed(relay := Relay(near, far), far, there)))
                relays[-1].add_done_callback(partial(_abandoned, relay))

        accepting = asyncio.create_task(accept())
        try:
            yield relays
        finally:
            for task in (accepting, *relays):
                task.cancel()
            await asyncio.gather(accepting, *relays, return_exceptions=True)


async def pair(stage: Stage, parallel: Parallel) -> tuple[Guest, IncomingGuest]:
    """A guest that runs, and one that waits for it."""
    definition = stage.harness.definition("guest", dirty=DIRTY)
    source = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    await stage.runs(source)
    plan = stage.plan(definition)
    return source, await stage.harness.driver.accept(plan, definition, ReceiveSettings(parallel=parallel))


async def features(stage: Stage) -> frozenset[DriverFeature]:
    """What the driver says that it can do."""
    return (await stage.harness.driver.capabilities()).features


async def refused(stage: Stage, place: Path) -> None:
    """Both ends say no, and the guest runs on as if nobody had asked."""
    definition = stage.harness.definition("guest", dirty=DIRTY)
    source = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    with pytest.raises(DriverRefused):
        await source.outgoing().send(place, SendSettings(parallel=Parallel()))
    with pytest.raises(DriverRefused):
        await stage.harness.driver.accept(stage.plan(definition), definition, ReceiveSettings(parallel=Parallel()))
    await stage.runs(source)


@pytest.mark.option("--parallel", "--parallel-connections", "--comp-zlib-level", "--comp-zstd-level")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("live", [True, False], ids=["live", "not live"])
async def test_over_several_connections(stage: Stage, place: Path, method: str, *, live: bool) -> None:
    """The guest arrives whole over one connection more than was asked for, and ran at one place at a time."""
    if METHODS[method] not in await features(stage):
        await refused(stage, place)
        return
    parallel = Parallel(3, method, 1 if method else None)
    source, incoming = await pair(stage, parallel)
    async with led(place, incoming.landings["memory"]) as relays, asyncio.timeout(stage.harness.patience_s):
        outgoing = source.outgoing()
        await outgoing.send(place, SendSettings(live=live, parallel=parallel))
        await outgoing.held()
        await stage.stands_still(source)
        await asyncio.gather(outgoing.let_go(), incoming.received())
        assert len(relays) == 4
    await stage.stands_still(source)
    await incoming.guest.resume()
    await stage.runs(incoming.guest)
    assert "" == await stage.harness.damage(incoming.guest)


async def _is_under_way(outgoing: OutgoingGuest) -> bool:
    return (await outgoing.statistics()).memory_processed_bytes > 0


async def test_cancelled(stage: Stage, place: Path) -> None:
    """The guest runs on at the source, and is sent over one connection the next time."""
    if DriverFeature.PARALLEL not in await features(stage):
        await refused(stage, place)
        return
    parallel = Parallel(3)
    source, incoming = await pair(stage, parallel)
    async with led(place, incoming.landings["memory"]), asyncio.timeout(stage.harness.patience_s):
        outgoing = source.outgoing()
        await outgoing.send(place, SendSettings(max_bandwidth_bytes_per_s=1 << 20, parallel=parallel))
        await eventually(lambda: _is_under_way(outgoing), stage.harness.patience_s, what="memory is sent")
        await outgoing.cancel()
        with pytest.raises(TransferFailed):
            await outgoing.held()
    await stage.becomes(incoming.guest, RunState.GONE)
    await stage.runs(source)
    plan = stage.plan(definition := stage.harness.definition("guest", dirty=DIRTY))
    again = await stage.harness.driver.accept(plan, definition, ReceiveSettings())
    near, far = socket.socketpair()
    await again.receive(far)
    outgoing = source.outgoing()
    await outgoing.send(near, FAST)
    await outgoing.held()
    await asyncio.gather(outgoing.let_go(), again.received())
    await again.guest.resume()
    await stage.runs(again.guest)
