"""The guest's pause does not depend on how far away the client is (handover rule 8)."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.distance import far_away
from support.hosts import Host, connections
from support.traveller import NAME, Traveller
from vmferry.attempt import Attempt
from vmferry.client import Connection, connect
from vmferry.flags import Flag
from vmferry.model import Phase, Progress
from vmferry.params import MigrationParams

pytestmark = pytest.mark.qemu

ONE_WAY_S = 0.05
WITHIN_MS = 20.0
"""A client that is 100 ms away may lengthen the guest's pause by no more. One that is shorter by chance costs nothing."""
ROUNDS = 6
MEASUREMENTS = 3
"""A machine that is busy with something else can spoil a few pairs, and then more of them are asked for, twice at most."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One migration as the guest had it. `ahead_ms`: how long before Finish could reach its daemon the guest beat there."""

    pause_ms: float
    ahead_ms: float


@dataclass(slots=True)
class Measurement:
    """As many hops with a near client as with a far one, in pairs of the same direction, made one after the other."""

    near: list[Hop] = field(default_factory=list)
    far: list[Hop] = field(default_factory=list)

    @property
    def cost_ms(self) -> float:
        """How much longer the guest stands still when its client is far away: the median of the pairs' differences."""
        return statistics.median(far.pause_ms - near.pause_ms for near, far in zip(self.near, self.far, strict=True))

    @property
    def ahead_ms(self) -> float:
        """How long the guest usually has run already when the far client's Finish can have arrived."""
        return statistics.median(hop.ahead_ms for hop in self.far)

    def holds(self) -> bool:
        """The pause does not depend on the client, and the guest does not wait for its Finish."""
        return self.cost_ms <= WITHIN_MS and self.ahead_ms > 0

    def lines(self) -> list[str]:
        """It, for people."""
        named = {"near": self.near, "far": self.far}
        rows = [f"{name:5} {' '.join(f'{hop.pause_ms:4.0f}' for hop in hops)}" for name, hops in named.items()]
        near_ms, far_ms = (statistics.median(hop.pause_ms for hop in hops) for hops in named.values())
        return [
            "guest-visible pause in ms, by the guest's own beats",
            *rows,
            f"medians: near {near_ms:.0f} ms, far {far_ms:.0f} ms",
            f"a client 100 ms away costs the guest {self.cost_ms:.0f} ms (median of the differences of pairs)",
            f"the guest runs {self.ahead_ms:.0f} ms before the far client's Finish can have arrived (median)",
        ]


@pytest.mark.parametrize("traveller", [256], indirect=True)
async def test_a_client_on_a_slow_line(
    two_hosts: tuple[Host, Host], traveller: Traveller, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a round trip of 100 ms to both daemons the guest's pause is within 20 ms of the pause with a client beside them.

    The median of the differences of 12 pairs has to say so, or else that of 24, or of 36; see `MEASUREMENTS`.
    """
    measured = Measurement()
    async with AsyncExitStack() as stack:
        near = tuple(await stack.enter_async_context(connections(*two_hosts)))
        far = tuple([await stack.enter_async_context(_seen_from_afar(host)) for host in two_hosts])
        await traveller.start(near[0])
        await _there_and_back(near, traveller, 0.0)  # memory and caches are warm from now on
        for _ in range(MEASUREMENTS):
            await _measure(measured, near, far, traveller)
            with capsys.disabled():
                sys.stdout.write("\n".join(["", *measured.lines(), ""]))
            if measured.holds():
                break
        await traveller.verified()
        assert [] == traveller.judgement().faults()
    assert measured.holds(), measured.lines()


async def _measure(
    measured: Measurement, near: tuple[Connection, ...], far: tuple[Connection, ...], traveller: Traveller
) -> None:
    """Twelve more pairs; near and far are each the first in half of them."""
    for number in range(ROUNDS):
        kinds = [(measured.near, near, 0.0), (measured.far, far, ONE_WAY_S)]
        for hops, client, one_way_s in kinds if number % 2 == 0 else reversed(kinds):
            hops.extend(await _there_and_back(client, traveller, one_way_s))


async def _there_and_back(client: tuple[Connection, ...], traveller: Traveller, one_way_s: float) -> list[Hop]:
    return [await _hop(source, there, traveller, one_way_s) for source, there in (client, tuple(reversed(client)))]


async def _hop(source: Connection, destination: Connection, traveller: Traveller, one_way_s: float) -> Hop:
    """What the guest had of its way from `source` to `destination`, by its own beats."""
    called: dict[Phase, float] = {}

    def hear(progress: Progress) -> None:
        called.setdefault(progress.phase, time.monotonic())

    params = MigrationParams(destination_xml=await traveller.next_xml(source))
    await source.migrate(NAME, destination, flags=Flag.LIVE, params=params, attempt=Attempt(listener=hear))
    await traveller.heard(20)
    over = traveller.judgement().hand_overs[-1]
    return Hop(over.pause_ms, (called[Phase.FINISH] + one_way_s - over.first.host_time_s) * 1000)


@asynccontextmanager
async def _seen_from_afar(host: Host) -> AsyncIterator[Connection]:
    """A connection to the host's daemon over a line on which a round trip takes 100 ms."""
    socket = Path(host.uri.removeprefix("vmferry+unix://"))
    async with far_away(socket, socket.with_name("far.sock"), ONE_WAY_S) as uri, connect(uri) as connection:
        yield connection
