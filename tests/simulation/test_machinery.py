"""The parts of the simulation, each by itself: what they promise to the runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from simulation import oracle
from simulation.disk import Disk
from simulation.loop import Order, Stuck, VirtualLoop, simulated
from simulation.network import Mishap, Network
from simulation.plan import draw
from simulation.rpc import Faces
from simulation.running import silent_daemons
from simulation.sockets import pair
from simulation.world import World
from vmferry.api.v1 import handover_pb2, handover_pb2_grpc
from vmferry.channel import parse_uri
from vmferry.client import Connection
from vmferry.errors import FateUnknown, PeerUnreachable, StorageFailed
from vmferry.model import new_migration_id
from vmferryd.database import Database


def ran(work: Any, order: Order = Order.FIFO, seed: int = 0) -> Any:
    """What `work`, which is given the loop, answers."""
    with simulated(Random(seed), order) as loop:
        return loop.run_until_complete(loop.world.spawn(work(loop)))


def test_time_costs_nothing() -> None:
    """An hour of waiting is over at once, and the clock says that it has passed."""

    async def wait(loop: VirtualLoop) -> float:
        await asyncio.sleep(3600)
        return loop.time()

    begun_s = time.monotonic()
    assert 4600.0 == ran(wait)
    assert time.monotonic() - begun_s < 60


def test_a_killed_process_does_nothing_more() -> None:
    """Not even what stands in a `finally`; whoever is alive goes on."""
    said: list[str] = []

    async def live(name: str) -> None:
        try:
            while True:
                await asyncio.sleep(1)
                said.append(name)
        finally:
            said.append(f"{name} cleans up")

    async def scene(loop: VirtualLoop) -> list[str]:
        one, other = loop.process("one", "here"), loop.process("other", "here")
        one.spawn(live("one"))
        other.spawn(live("other"))
        await asyncio.sleep(2.5)
        one.kill()
        await asyncio.sleep(2)
        return sorted(said)

    assert ["one", "one", "other", "other", "other", "other"] == ran(scene)


def test_a_frozen_process_goes_on_where_it_stood() -> None:
    """What was due meanwhile happens when it is thawed."""
    said: list[float] = []

    async def scene(loop: VirtualLoop) -> None:
        async def tick() -> None:
            await asyncio.sleep(1)
            said.append(loop.time() - 1000)

        process = loop.process("one", "here")
        process.spawn(tick())
        await asyncio.sleep(0.5)
        process.freeze()
        await asyncio.sleep(9.5)
        process.thaw()
        await asyncio.sleep(1)

    ran(scene)
    assert [10.0] == said


def test_the_seed_decides_the_order() -> None:
    """Processes have no order among them; another seed is another order, and the same seed the same."""

    async def scene(loop: VirtualLoop) -> str:
        said: list[str] = []

        async def say(name: str) -> None:
            for _ in range(8):
                said.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(*(loop.process(name, "here").spawn(say(name)) for name in "xyz"))
        return "".join(said)

    orders = [ran(scene, seed=seed) for seed in range(5)]
    assert orders == [ran(scene, seed=seed) for seed in range(5)]
    assert 5 == len(set(orders))


def test_standstill_is_an_error() -> None:
    """A run that waits for what will never come ends, with a sentence, and so does one without end."""

    async def wait(loop: VirtualLoop) -> None:
        await loop.create_future()

    async def hurry(_: VirtualLoop) -> None:
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)

    for endless in (wait, hurry):
        with pytest.raises(Stuck):
            ran(endless)


# -- the network -------------------------------------------------------------------------------------------------------

METHOD = "/vmferry.api.v1.HandoverService/GetOutcome"


class Scene:
    """A server that answers nothing but what it is asked, and a client."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.network = Network(loop, Random(1))
        self.daemon = loop.process("daemon", "there")
        self.client = loop.process("client", "here")
        self.faces = Faces(self.network)
        self.asked = 0
        self.heard = asyncio.Event()

    async def serve(self) -> None:
        """The server answers."""
        await self.daemon.spawn(self._serve())

    async def _serve(self) -> None:
        scene = self

        class Service(handover_pb2_grpc.HandoverServiceServicer):
            async def GetOutcome(self, request: Any, context: Any) -> Any:  # noqa: N802
                scene.asked += 1
                scene.heard.set()
                await asyncio.sleep(0.1)
                return handover_pb2.GetOutcomeResponse(outcome=1, state="performing")

        server = self.faces.server([], [])
        handover_pb2_grpc.add_HandoverServiceServicer_to_server(Service(), server)
        server.add_insecure_port("there:1")
        await server.start()

    def ask(self) -> Coroutine[Any, Any, Any]:
        """The client asks."""

        async def asking() -> Any:
            uri = parse_uri("vmferry+tcp://there:1")
            return await Connection(uri, self.faces.dial(uri)).outcome(new_migration_id())

        return self.client.spawn(asking())  # type: ignore[return-value]


def test_a_call_arrives_and_is_answered() -> None:
    """Through real stubs and messages."""

    async def scene(loop: VirtualLoop) -> str:
        played = Scene(loop)
        await played.serve()
        return (await played.ask()).state  # type: ignore[no-any-return]

    assert "performing" == ran(scene)


def test_nobody_listens() -> None:
    """A call to a place where nobody listens fails, and nothing has happened."""

    async def scene(loop: VirtualLoop) -> None:
        await Scene(loop).ask()

    with pytest.raises(PeerUnreachable):
        ran(scene)


@pytest.mark.parametrize(("mishap", "asked"), [(Mishap.LOSE_REQUEST, 0), (Mishap.LOSE_REPLY, 1)])
def test_lost_messages(mishap: Mishap, asked: int) -> None:
    """A lost request was never seen at the server, a lost reply was; the client cannot tell."""

    async def scene(loop: VirtualLoop) -> int:
        played = Scene(loop)
        await played.serve()
        played.network.called = lambda _, __: (mishap, 0.1)
        with pytest.raises((PeerUnreachable, FateUnknown)):
            await played.ask()
        await asyncio.sleep(1)
        return played.asked

    assert asked == ran(scene)


def test_a_doubled_message() -> None:
    """The server is asked twice, the client answered once."""

    async def scene(loop: VirtualLoop) -> int:
        played = Scene(loop)
        await played.serve()
        played.network.called = lambda _, __: (Mishap.DUPLICATE, 5.0)
        await played.ask()
        await asyncio.sleep(10)
        return played.asked

    assert 2 == ran(scene)


def test_a_cut_that_heals() -> None:
    """What is sent into a cut arrives when it heals, unless the keepalive has given the connection up before."""

    async def scene(loop: VirtualLoop, length_s: float) -> float:
        played = Scene(loop)
        await played.serve()
        asking = asyncio.ensure_future(played.ask())
        await played.heard.wait()
        played.network.cut([("there", "here")])
        played.network.later(length_s, lambda: played.network.heal([("there", "here")]))
        begun_s = loop.time()
        await asking
        return loop.time() - begun_s

    assert 3.0 <= ran(lambda loop: scene(loop, 3.0)) < 3.5
    with pytest.raises(PeerUnreachable):
        ran(lambda loop: scene(loop, 60.0))


def test_what_is_on_its_way_is_counted() -> None:
    """A message into a cut waits; when the cut heals it is on its way until it arrives, and a late twin is too."""

    async def scene(loop: VirtualLoop) -> list[tuple[int, int]]:
        played = Scene(loop)
        await played.serve()
        network, seen = played.network, []
        asking = asyncio.ensure_future(played.ask())
        await played.heard.wait()
        network.cut([("there", "here")])
        await asyncio.sleep(1.0)
        seen.append((network.waiting, network.under_way))
        network.heal([("there", "here")])
        seen.append((network.waiting, network.under_way))
        await asking
        network.called = lambda _, __: (Mishap.DUPLICATE, 5.0)
        await played.ask()
        seen.append((network.waiting, network.under_way))
        await asyncio.sleep(10.0)
        return [*seen, (network.waiting, network.under_way)]

    answer_and_end = 2
    assert [(answer_and_end, 0), (0, answer_and_end), (0, 1), (0, 0)] == ran(scene)


def test_a_killed_server_is_noticed_at_once() -> None:
    """Its machine says so; a machine that cannot be reached says nothing, and the keepalive does."""

    async def scene(loop: VirtualLoop, *, cut: bool) -> float:
        played = Scene(loop)
        await played.serve()
        asking = asyncio.ensure_future(played.ask())
        await played.heard.wait()
        begun_s = loop.time()
        if cut:
            played.network.cut([("there", "here")])
        played.daemon.kill()
        played.network.died(played.daemon)
        with pytest.raises(PeerUnreachable):
            await asking
        return loop.time() - begun_s

    assert ran(lambda loop: scene(loop, cut=False)) < 1.0
    assert 5.0 <= ran(lambda loop: scene(loop, cut=True)) <= 10.5


# -- the oracle --------------------------------------------------------------------------------------------------------


def test_the_oracle_waits_for_what_is_on_its_way(tmp_path: Path) -> None:
    """Hosts that seem to be of one mind are not judged while a message is on its way: a late Prepare makes a guest."""

    async def scene(world: World) -> tuple[list[str], list[str]]:
        await world.begin()
        arrived: list[str] = []
        world.network.arrives(20.0, lambda: arrived.append("late"))
        verdict: list[str] = []
        await oracle._settled(world, verdict)
        return arrived, verdict

    plan = replace(draw(0), faults=())
    with silent_daemons(), simulated(Random(0), plan.order) as loop:
        seen = loop.run_until_complete(loop.world.spawn(scene(World(plan, loop, tmp_path))))
    assert (["late"], []) == seen


# -- sockets and disk --------------------------------------------------------------------------------------------------


def test_sockets() -> None:
    """What one end sends the other receives, in order and to the end; a slow reader holds the writer up."""

    async def scene(loop: VirtualLoop) -> tuple[bool, bytes]:
        ours, theirs = pair(loop.current())
        data = bytes(range(256)) * 2000
        sending = asyncio.ensure_future(loop.sock_sendall(ours, data))
        await asyncio.sleep(1)
        held_up = not sending.done()
        received = b""
        while len(received) < len(data):
            received += await loop.sock_recv(theirs, 100_000)
        await sending
        ours.close()
        assert b"" == await loop.sock_recv(theirs, 1)
        with pytest.raises(BrokenPipeError):
            await loop.sock_sendall(theirs, b"x")
        return held_up, received

    held_up, received = ran(scene)
    assert held_up
    assert bytes(range(256)) * 2000 == received


def _insert(name: str) -> Any:
    return lambda connection: connection.execute("INSERT INTO host VALUES (?, '')", (name,))


async def _names(database: Database) -> list[str]:
    return await database.read(
        lambda c: [row[0] for row in c.execute("SELECT name FROM host WHERE value = '' ORDER BY name")]
    )


def test_the_disk(tmp_path: Path) -> None:
    """What was written stays; on a full disk nothing is written; what failed at its end may be found after a crash alone."""

    async def scene(loop: VirtualLoop) -> list[list[str]]:
        disk = Disk(tmp_path / "j", Random(1), lambda _: None)
        database = await Database.open(disk.path, disk.worker())
        await database.write(_insert("a"))
        disk.full = True
        with pytest.raises(StorageFailed):
            await database.write(_insert("b"))
        disk.full = False
        disk.breaks = 1
        with pytest.raises(StorageFailed):
            await database.write(_insert("c"))
        before = await _names(database)
        disk.killed()
        again = await Database.open(disk.path, disk.worker())
        return [before, await _names(again)]

    assert [["a"], ["a", "c"]] == ran(scene)


def test_a_write_after_a_failed_one_wins(tmp_path: Path) -> None:
    """A write that succeeds takes the place of the one before that failed at its end."""

    async def scene(loop: VirtualLoop) -> list[str]:
        disk = Disk(tmp_path / "j", Random(1), lambda _: None)
        database = await Database.open(disk.path, disk.worker())
        disk.breaks = 1
        with pytest.raises(StorageFailed):
            await database.write(_insert("c"))
        await database.write(_insert("d"))
        disk.killed()
        return await _names(await Database.open(disk.path, disk.worker()))

    assert ["d"] == ran(scene)
