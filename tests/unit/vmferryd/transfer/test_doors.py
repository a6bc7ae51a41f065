"""Doors over real sockets: only who shows a granted token comes in, once, and strangers cost next to nothing."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.ports import free_ports
from support.waiting import eventually
from vmferry.errors import AddressUnavailable, NotSupported, TransferFailed
from vmferryd.limits import Limits
from vmferryd.transfer import hello
from vmferryd.transfer.addresses import Address, Here, Plain, Scheme, parse
from vmferryd.transfer.doors import Berth, Doors, remove_stale_socket
from vmferryd.transfer.ports import Ports
from vmferryd.transfer.routes import Otherwise
from vmferryd.transfer.sockets import connect, spoken

LIMITS = Limits(data_hello_s=5.0, data_strangers=2, connect_s=5.0, data_silence_s=12.0)
HERE = Here("127.0.0.1", "127.0.0.1")


class Hall:
    """Doors, and who came in."""

    def __init__(self, limits: Limits, ports: Ports) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.doors = Doors(HERE, Plain.THIS_MACHINE, ports, limits, self._spawn)
        self.came: list[socket.socket] = []

    def _spawn(self, work, name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def berth(self, uri: str = "", listen_address: str = "") -> Berth:
        """A place for one migration."""
        arrangement = self.doors.arrange(uri, listen_address)
        assert arrangement is not None
        return await self.doors.open(arrangement)

    async def close(self) -> None:
        """No task and no socket is left."""
        self.doors.close()
        await eventually(lambda: not self.tasks)
        for connection in self.came:
            connection.close()


@pytest.fixture
def limits() -> Limits:
    """Bounds; a test may have others."""
    return LIMITS


@pytest.fixture
async def hall(limits: Limits, two_ports: tuple[int, ...]) -> AsyncIterator[Hall]:
    """Doors, with a shared one."""
    made = Hall(limits, Ports(*two_ports))
    await made.doors.open_shared(0)
    yield made
    await made.close()


@pytest.fixture
def two_ports() -> tuple[int, ...]:
    """Two ports, one after the other, that nobody listens at."""
    return free_ports(2)


async def dialled(uri: str) -> socket.socket:
    """A stranger who has connected."""
    address = parse(uri)
    stranger = socket.socket()
    stranger.setblocking(False)
    await asyncio.get_running_loop().sock_connect(stranger, (address.host, address.port))
    return stranger


async def told(stranger: socket.socket) -> bytes:
    """What a stranger is told in the end: nothing."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(stranger, 10), 10)
    except ConnectionResetError:
        return b""
    finally:
        stranger.close()


@pytest.mark.parametrize("asks", [("", ""), ("", "127.0.0.1"), ("tcp:127.0.0.1", ""), ("tcp://localhost", "127.0.0.1")])
async def test_who_shows_the_token_comes_in(hall: Hall, asks: tuple[str, str]) -> None:
    """Both ends have one connection, over which nothing of ours is left to be read."""
    berth = await hall.berth(*asks)
    token = berth.grant(hall.came.append)
    mine = await connect(parse(berth.uri), token, LIMITS)
    await eventually(lambda: len(hall.came) == 1)
    await asyncio.get_running_loop().sock_sendall(mine, b"state")
    assert await spoken(hall.came[0])
    assert b"state" == await asyncio.get_running_loop().sock_recv(hall.came[0], 100)
    await asyncio.get_running_loop().sock_sendall(hall.came[0], b"ack")
    assert b"ack" == await asyncio.get_running_loop().sock_recv(mine, 100)
    mine.close()


async def test_both_ends_are_hardened(hall: Hall) -> None:
    """Small messages leave at once, and a peer that falls silent is noticed by the kernel."""
    berth = await hall.berth()
    mine = await connect(parse(berth.uri), berth.grant(hall.came.append), LIMITS)
    await eventually(lambda: len(hall.came) == 1)
    for end in (mine, hall.came[0]):
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert 12_000 == end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert 6 == end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    mine.close()


async def test_a_token_opens_once(hall: Hall) -> None:
    """Whoever shows it again is not answered."""
    berth = await hall.berth()
    token = berth.grant(hall.came.append)
    (await connect(parse(berth.uri), token, LIMITS)).close()
    with pytest.raises(TransferFailed, match="no data connection"):
        await connect(parse(berth.uri), token, LIMITS)
    assert 1 == len(hall.came)


async def test_tokens_that_open_nothing(hall: Hall) -> None:
    """One that was replaced, one that was taken back, one of another migration's own place, and one that never was."""
    berth, other = await hall.berth(), await hall.berth("", "127.0.0.1")
    replaced = berth.grant(hall.came.append)
    taken_back = berth.grant(hall.came.append)
    berth.revoke()
    of_the_other = other.grant(hall.came.append)
    for token in (replaced, taken_back, of_the_other, hello.new_token()):
        with pytest.raises(TransferFailed):
            await connect(parse(berth.uri), token, LIMITS)
    assert [] == hall.came
    (await connect(parse(other.uri), of_the_other, LIMITS)).close()


@pytest.mark.parametrize("says", [b"GET / HTTP/1.1\r\nHost: somewhere.example.org\r\n\r\n", bytes(hello.HELLO_BYTES)])
async def test_strangers_are_not_answered(hall: Hall, says: bytes) -> None:
    """What is no hello ends the connection, and nobody hears of it."""
    berth = await hall.berth()
    berth.grant(hall.came.append)
    stranger = await dialled(berth.uri)
    stranger.send(says)
    assert b"" == await told(stranger)
    assert [] == hall.came


@pytest.mark.parametrize("limits", [Limits(data_hello_s=0.05)])
async def test_who_says_nothing_is_not_waited_for(hall: Hall) -> None:
    """A connection that does not prove itself in time is closed, also one that has begun to."""
    berth = await hall.berth()
    silent, slow = await dialled(berth.uri), await dialled(berth.uri)
    slow.send(hello.MAGIC)
    assert (b"", b"") == (await told(silent), await told(slow))


async def test_the_oldest_stranger_makes_room(hall: Hall) -> None:
    """However many strangers come and say nothing, whoever has a token comes in."""
    berth = await hall.berth()
    token = berth.grant(hall.came.append)
    strangers = [await dialled(berth.uri) for _ in range(LIMITS.data_strangers + 3)]
    mine = await connect(parse(berth.uri), token, LIMITS)
    assert [b""] * 3 == [await told(stranger) for stranger in strangers[:3]]
    for held in (mine, *strangers[3:]):
        held.close()


@pytest.mark.parametrize("limits", [Limits(data_hello_s=60.0, data_strangers=2)])
async def test_a_crowd_is_no_larger_than_its_bound(hall: Hall) -> None:
    """Strangers who have all come before the first of them was met are turned out but for the newest ones."""
    address = parse((await hall.berth()).uri)
    crowd = [socket.create_connection((address.host, address.port)) for _ in range(20)]
    for stranger in crowd:
        stranger.setblocking(False)
    assert [b""] * 18 == [await told(stranger) for stranger in crowd[:18]]
    for stranger in crowd[18:]:
        stranger.close()


async def test_who_leaves_at_once_does_no_harm(hall: Hall) -> None:
    """Nor does it to those who come after."""
    berth = await hall.berth()
    for _ in range(5):
        (await dialled(berth.uri)).close()
    (await connect(parse(berth.uri), berth.grant(hall.came.append), LIMITS)).close()


async def test_a_range_is_used_up_and_given_back(hall: Hall, two_ports: tuple[int, ...]) -> None:
    """Each migration has a port of its own; one too many is told so, and a closed place is free again."""
    first, second = [await hall.berth("tcp:127.0.0.1") for _ in two_ports]
    assert [f"tcp:127.0.0.1:{port}" for port in two_ports] == [first.uri, second.uri] == [first.uri_out, second.uri_out]
    with pytest.raises(AddressUnavailable, match="hold 2 of them") as caught:
        await hall.berth("tcp:127.0.0.1")
    assert "data.last_port" in caught.value.remedy
    first.close()
    first.close()
    await eventually(lambda: _free(two_ports[0]))
    assert first.uri == (await hall.berth("tcp:127.0.0.1")).uri


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_port_that_somebody_else_has_is_passed_over(hall: Hall, two_ports: tuple[int, ...]) -> None:
    """Within the range; one that was asked for is an error that says what helps."""
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", two_ports[0]))
        somebody.listen()
        assert f"tcp:127.0.0.1:{two_ports[1]}" == (await hall.berth("tcp:127.0.0.1")).uri
        with pytest.raises(AddressUnavailable, match="somebody else does") as caught:
            await hall.berth(f"tcp:127.0.0.1:{two_ports[0]}")
        assert caught.value.remedy
        with pytest.raises(AddressUnavailable):
            await hall.doors.open_shared(two_ports[0])


async def test_a_port_that_was_asked_for(hall: Hall, two_ports: tuple[int, ...]) -> None:
    """It is that one, nothing is answered, and a source that cannot connect goes no other way."""
    berth = await hall.berth(f"tcp:127.0.0.1:{two_ports[1]}")
    assert (f"tcp:127.0.0.1:{two_ports[1]}", "", Otherwise.FAIL) == (berth.uri, berth.uri_out, berth.otherwise)
    assert Otherwise.TUNNEL is (await hall.berth()).otherwise


async def test_an_address_of_another_host(hall: Hall) -> None:
    """Nobody can listen there, and no port is lost by the try."""
    made = Hall(LIMITS, Ports(49152, 49152))
    made.doors = Doors(HERE, Plain.ANYWHERE, Ports(49152, 49152), LIMITS, made._spawn)
    for _ in range(2):
        with pytest.raises(AddressUnavailable, match=r"203\.0\.113\.1"):
            await made.berth("", "203.0.113.1")


async def test_plain_data_is_refused(hall: Hall) -> None:
    """Nothing that others could read is opened unless the operator has said so."""
    with pytest.raises(NotSupported, match="unencrypted"):
        hall.doors.arrange("", "0.0.0.0")  # noqa: S104 - refused
    closed = Doors(HERE, None, Ports(1, 2), LIMITS, hall._spawn)
    assert closed.arrange("", "") is None
    with pytest.raises(NotSupported, match="tunnel alone"):
        closed.arrange("tcp:127.0.0.1", "")


async def test_unix_socket(hall: Hall, tmp_path: Path) -> None:
    """It belongs to owner and group, carries a connection, and is gone when the place is closed."""
    path = tmp_path / "data"
    berth = await hall.berth(f"unix://{path}")
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert 0o660 == path.stat().st_mode & 0o777
    mine = await connect(Address(Scheme.UNIX, path=str(path)), berth.grant(hall.came.append), LIMITS)
    await eventually(lambda: len(hall.came) == 1)
    mine.close()
    assert not await spoken(hall.came[0])
    berth.close()
    assert not path.exists()


async def test_what_is_at_the_path_is_left_alone(hall: Hall, tmp_path: Path) -> None:
    """A file, a socket that somebody listens at, a link: refused and untouched. A socket that nobody has is replaced."""
    file, taken, link, stale = (tmp_path / name for name in ("file", "taken", "link", "stale"))
    file.write_text("mine")
    link.symlink_to(stale)
    with socket.socket(socket.AF_UNIX) as somebody, socket.socket(socket.AF_UNIX) as nobody:
        somebody.bind(str(taken))
        somebody.listen()
        nobody.bind(str(stale))
        for path in (file, taken, link, tmp_path / "no folder" / "data"):
            with pytest.raises(AddressUnavailable, match="cannot wait"):
                await hall.berth(f"unix://{path}")
            remove_stale_socket(path)
    assert ("mine", True, True) == (file.read_text(), taken.exists(), link.is_symlink())
    (await hall.berth(f"unix://{stale}")).close()
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(stale))
    remove_stale_socket(stale)
    assert not stale.exists()


async def test_nobody_listens() -> None:
    """A source is told so, with what helps."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(TransferFailed, match="no data connection") as caught:
            await connect(parse(f"tcp:127.0.0.1:{port}"), hello.new_token(), LIMITS)
    assert "firewall" in caught.value.remedy


@pytest.mark.parametrize("answer", [b"", b"220 smtp ready\r\n"])
async def test_somebody_else_listens(answer: bytes) -> None:
    """A server that is no daemon of ours gets no guest, whatever it answers."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransferFailed, match="no data connection"):
            await connect(parse(f"tcp:127.0.0.1:{port}"), hello.new_token(), LIMITS)


async def test_who_listens_says_nothing() -> None:
    """A source does not wait longer than its bound."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TransferFailed) as caught:
            await connect(parse(f"tcp:127.0.0.1:{silent.getsockname()[1]}"), hello.new_token(), Limits(connect_s=0.05))
    assert "within 0.05 s" in caught.value.detail
