"""What is done to a data connection before a hypervisor gets it, and to make one."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from vmferry.errors import TransferStopped
from vmferryd.limits import Limits
from vmferryd.transfer import hello
from vmferryd.transfer.addresses import Address, Scheme

_PROBES = 3


def harden(connection: socket.socket, silence_s: float) -> None:
    """Small messages leave at once, and the kernel ends a connection whose peer was silent for `silence_s`.

    A UNIX socket needs none of that.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    probe_s = max(1, round(silence_s / (2 * _PROBES)))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, max(1, round(silence_s / 2))),
        (socket.TCP_KEEPINTVL, probe_s),
        (socket.TCP_KEEPCNT, _PROBES),
        (socket.TCP_USER_TIMEOUT, max(1, round(silence_s * 1000))),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


async def read_exactly(connection: socket.socket, size: int) -> bytes:
    """The next `size` bytes and not one more, or fewer when the other side has closed."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size and (more := await loop.sock_recv(connection, size - len(data))):
        data += more
    return data


async def spoken(connection: socket.socket) -> bool:
    """The other side has sent a byte, which is still to be read; False when it has closed without one."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


async def connect(address: Address, token: bytes, limits: Limits) -> socket.socket:
    """A connection to `address` for the hypervisor. With a `token`, which may be empty, it has proved itself there.

    Raises:
        TransferStopped: it could not be made within `limits.connect_s`; the token may be used up, and nothing was sent.
    """
    try:
        async with asyncio.timeout(limits.connect_s):
            connection = await _dialled(address)
            try:
                if token:
                    await _proved(connection, token)
                harden(connection, limits.data_silence_s)
            except BaseException:
                connection.close()
                raise
    except (OSError, TimeoutError) as error:
        silent = isinstance(error, TimeoutError)
        raise TransferStopped(
            f"no data connection to {address}",
            remedy="check the address and the firewall between the hosts, or migrate with TUNNELLED"
            if token
            else "start the receiver with the command line that `vmferry receiver` prints, and check the address",
            detail=f"nothing answered within {limits.connect_s:g} s" if silent else str(error),
        ) from None
    return connection


async def _proved(connection: socket.socket, token: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, hello.encode(token))
    answer = await read_exactly(connection, len(hello.ACCEPTED))
    if answer != hello.ACCEPTED:
        raise ConnectionError("who listens there is not the destination's daemon" if answer else "it was closed at once")


async def _dialled(address: Address) -> socket.socket:
    """A connection to the first of the address's places that answers."""
    if address.scheme is Scheme.UNIX:
        return await _dial(socket.AF_UNIX, address.path)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    for family, _, _, _, place in found[:-1]:
        try:
            return await _dial(family, place)
        except OSError:
            continue
    family, _, _, _, place = found[-1]
    return await _dial(family, place)


async def _dial(family: int, place: Any) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        await asyncio.get_running_loop().sock_connect(connection, place)
    except BaseException:
        connection.close()
        raise
    return connection
