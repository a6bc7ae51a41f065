"""Channels besides the main one: they lead where the destination says, the same way natively and through the tunnel."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scenario.by_hand import ByHand
from scenario.test_data_channel import nobody_home, prepared
from support.daemons import Host, TwoHosts
from support.waiting import eventually
from vmferry.client import Connection
from vmferry.errors import NotSupported, PermissionRefused, PhaseOutOfOrder, VmferryError
from vmferry.flags import NONE, Flag
from vmferry.model import Phase
from vmferryd.drivers.copies import disk_channel as disk
from vmferryd.phases.destination import DestinationMigration
from vmferryd.phases.lanes import MEMORY, Lanes
from vmferryd.transfer.outgoing import Opening
from vmferryd.transfer.routes import choose

WAYS = pytest.mark.parametrize("way", [NONE, Flag.TUNNELLED], ids=["native", "tunnelled"])
DATA = os.urandom(5 << 20)


@dataclass
class Export:
    """A server at the destination that answers with what it reads; `began` has the first byte of each connection."""

    path: Path
    began: list[bytes] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Export]:
        """It listens."""
        server = await asyncio.start_unix_server(self._answer, self.path)
        try:
            yield self
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.began.append(b"")
        number = len(self.began) - 1
        while data := await reader.read(1 << 20):
            self.began[number] = self.began[number] or data[:1]
            writer.write(data)
            await writer.drain()
        writer.close()


@dataclass
class Opened:
    """A migration that is prepared, and the source's lanes of it."""

    walk: ByHand
    lanes: Lanes
    export: Export
    destination: DestinationMigration

    async def everything(self, end: socket.socket) -> bytes:
        """What comes back until the other side has said all."""
        end.setblocking(False)
        data = b""
        while more := await asyncio.get_running_loop().sock_recv(end, 1 << 20):
            data += more
        return data


@asynccontextmanager
async def opened(hosts: TwoHosts, tmp_path: Path, way: Flag, *, limit: int = 8) -> AsyncIterator[Opened]:
    """A guest waits, and an export of its disk vda beside it; then the guest moves all the same, and no lane is left."""
    for host in (hosts.source, hosts.destination):
        host.limit(lanes=limit)
        await host.restart()
    walk = await ByHand(hosts, flags=Flag.LIVE | way).up_to(Phase.PREPARE)
    destination = hosts.destination.daemon.destination._migrations[walk.migration_id]
    cookie = prepared(walk)
    route = choose(walk.flags, walk.replies[Phase.PREPARE].uri if not way else "", cookie.data, cookie.daemon_uri)
    context = hosts.source.daemon.context
    async with Export(tmp_path / "export").serving() as export, dialled(hosts.source, cookie.daemon_uri) as peer:
        destination.reception.landings.put(disk("vda"), export.path)
        lanes = Lanes(context, route, peer, Opening(walk.migration_id, cookie.ticket, b"secret"))
        yield Opened(walk, lanes, export, destination)
        await walk.perform()
        await hosts.lives_at_last(walk)
        lanes.close()
        await eventually(lambda: not lanes._tasks and destination.reception.landings.is_deserted)


@asynccontextmanager
async def dialled(host: Host, uri: str) -> AsyncIterator[Connection]:
    """The source's own connection to the destination's daemon."""
    async with host.daemon.context.peers.reached(uri) as peer:
        yield peer


@WAYS
async def test_a_lane_carries_both_ways(two_hosts: TwoHosts, tmp_path: Path, way: Flag) -> None:
    """Several at once; each reads back what it wrote, whole, after it has said that this was all."""
    async with opened(two_hosts, tmp_path, way) as made:
        ends = [await made.lanes.open(disk("vda")) for _ in range(3)]
        reading = [asyncio.create_task(made.everything(end)) for end in ends]
        for end in ends:
            await asyncio.get_running_loop().sock_sendall(end, DATA)
            end.shutdown(socket.SHUT_WR)
        assert [DATA] * 3 == await asyncio.gather(*reading)
        for end in ends:
            end.close()


@WAYS
async def test_a_hypervisor_connects_by_itself(two_hosts: TwoHosts, tmp_path: Path, way: Flag) -> None:
    """Each of its connections becomes a lane, and they come to the other hypervisor in their order."""
    async with opened(two_hosts, tmp_path, way) as made:
        path = tmp_path / "memory"
        made.lanes.listen(disk("vda"), path)
        ends = []
        for number in range(5):
            end = socket.socket(socket.AF_UNIX)
            end.connect(str(path))
            end.sendall(bytes((65 + number,)))
            ends.append(end)
        await eventually(lambda: made.export.began == [b"A", b"B", b"C", b"D", b"E"], what=str(made.export.began))
        made.lanes.close()
        for end in ends:
            await made.everything(end)  # the socket closes: its lane is gone
            end.close()
        await eventually(lambda: not path.exists())


@WAYS
async def test_names_that_nobody_takes(two_hosts: TwoHosts, tmp_path: Path, way: Flag) -> None:
    """They are refused with a reason, and cost nothing."""
    async with opened(two_hosts, tmp_path, way) as made:
        for name in (MEMORY, disk("vdb"), "", "../export"):
            if name:
                with pytest.raises(NotSupported, match="no data channel"):
                    await made.lanes.open(name)
        (await made.lanes.open(disk("vda"))).close()


@WAYS
async def test_lanes_are_counted(two_hosts: TwoHosts, tmp_path: Path, way: Flag) -> None:
    """Neither side opens more than its limit, which counts the refused ones too."""
    async with opened(two_hosts, tmp_path, way, limit=2) as made:
        ends = [await made.lanes.open(disk("vda")) for _ in range(2)]
        with pytest.raises(PhaseOutOfOrder, match="2 data connections"):
            await made.lanes.open(disk("vda"))
        made.lanes._opened = 0
        with pytest.raises(PhaseOutOfOrder, match="2 data connections"):
            await made.lanes.open(disk("vda"))
        for end in ends:
            end.close()


@WAYS
async def test_a_stranger_opens_none(two_hosts: TwoHosts, tmp_path: Path, way: Flag) -> None:
    """A lane needs the migration's ticket as well as the main channel does."""
    async with opened(two_hosts, tmp_path, way) as made:
        ticket = made.lanes.opening
        made.lanes.opening = Opening(ticket.migration_id, b"guessed", b"secret")
        with pytest.raises(PermissionRefused):
            await made.lanes.open(disk("vda"))
        made.lanes.opening = ticket
        (await made.lanes.open(disk("vda"))).close()


async def test_the_tunnel_takes_the_place(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """Where no connection can be made the lanes go through the tunnel, all of them, and the reason is known."""
    async with opened(two_hosts, tmp_path, NONE) as made:
        await nobody_home(two_hosts)
        end = await made.lanes.open(disk("vda"))
        assert made.lanes.route.address is None
        assert "no data connection" in made.lanes.warning
        end.close()


@WAYS
async def test_no_lane_after_the_end(two_hosts: TwoHosts, tmp_path: Path, way: Flag) -> None:
    """A migration that has ended takes none, and those that were open have closed."""
    for host in (two_hosts.source, two_hosts.destination):
        await host.restart()
    walk = await ByHand(two_hosts, flags=Flag.LIVE | way).up_to(Phase.PREPARE)
    cookie = prepared(walk)
    destination = two_hosts.destination.daemon.destination._migrations[walk.migration_id]
    async with Export(tmp_path / "export").serving() as export, dialled(two_hosts.source, cookie.daemon_uri) as peer:
        destination.reception.landings.put(disk("vda"), export.path)
        route = choose(walk.flags, "", cookie.data, cookie.daemon_uri)
        opening = Opening(walk.migration_id, cookie.ticket, b"secret")
        lanes = Lanes(two_hosts.source.daemon.context, route, peer, opening)
        end = await lanes.open(disk("vda"))
        await two_hosts.destination.connection.abort(walk.migration_id, "a test")
        end.setblocking(False)
        assert b"" == await asyncio.get_running_loop().sock_recv(end, 1)
        with pytest.raises(VmferryError):
            await lanes.open(disk("vda"))
        end.close()
        await eventually(lambda: not lanes._tasks)
    await two_hosts.source.connection.abort(walk.migration_id, "a test")
    await two_hosts.again()
