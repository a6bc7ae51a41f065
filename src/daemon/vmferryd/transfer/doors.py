"""Where guests' data comes in: each connection proves itself first, and then belongs to the migration that waits for it.

Nobody who has not shown a token that was granted for one migration ever reaches a hypervisor. A stranger costs one small
read that is bounded in time, strangers are bounded in number, and the oldest makes room for the next.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from vmferry.errors import AddressUnavailable, NotSupported, PermissionRefused, VmferryError
from vmferryd.limits import Limits
from vmferryd.transfer import addresses, hello, tickets
from vmferryd.transfer.addresses import Arrangement, Here, OwnPort, OwnSocket, Plain, Shared
from vmferryd.transfer.ports import Ports
from vmferryd.transfer.routes import DataOffer, Encryption, Otherwise
from vmferryd.transfer.sockets import harden, read_exactly

log = structlog.get_logger()

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, object], str], "asyncio.Task[None]"]
Take: TypeAlias = Callable[[socket.socket], None]
"""Gets a connection that has proved itself, and owns it from then on."""

_SOCKET_UMASK = 0o117
_BACKLOG = 64
_BUSY = "stop what listens there, or ask for another port"


class Door:
    """One listening socket. Whoever comes has to show, in time, a token that is expected."""

    def __init__(self, listener: socket.socket, limits: Limits, spawn: Spawn) -> None:
        self._listener = listener
        self._limits = limits
        self._spawn = spawn
        self._expected: dict[bytes, Take] = {}
        self._strangers: dict[asyncio.Task[None], socket.socket] = {}
        self._accepting = spawn(self._accept(), "data connections")
        self._accepting.add_done_callback(lambda _: listener.close())

    def expect(self, token: bytes, take: Take) -> None:
        """The next connection that shows `token` is for `take`, and no other one after it."""
        self._expected[token] = take

    def forget(self, token: bytes) -> None:
        """`token` opens nothing."""
        self._expected.pop(token, None)

    def close(self) -> None:
        """Nobody comes in any more; who has proved itself stays."""
        self._accepting.cancel()
        for stranger in tuple(self._strangers):
            stranger.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # too many open files, or whoever came has gone again
                log.warning("data_connection_lost", error=str(error))
                await asyncio.sleep(self._limits.progress_s)
                continue
            while len(self._strangers) >= self._limits.data_strangers:
                next(iter(self._strangers)).cancel()
                await asyncio.sleep(0)  # until it has left: a crowd that waits is accepted without a pause otherwise
            stranger = self._spawn(self._meet(connection), "data connection")
            self._strangers[stranger] = connection
            stranger.add_done_callback(self._left)

    def _left(self, stranger: asyncio.Task[None]) -> None:
        connection = self._strangers.pop(stranger, None)
        if connection is not None:
            connection.close()

    async def _meet(self, connection: socket.socket) -> None:
        """`connection` belongs to whoever waits for it, or is about to be closed, without an answer."""
        try:
            async with asyncio.timeout(self._limits.data_hello_s):
                take = self._admitted(hello.decode(await read_exactly(connection, hello.HELLO_BYTES)))
                await asyncio.get_running_loop().sock_sendall(connection, hello.ACCEPTED)
            harden(connection, self._limits.data_silence_s)
        except (VmferryError, OSError, TimeoutError) as error:
            log.warning("data_connection_refused", peer=_peer(connection), error=str(error) or "it said nothing in time")
            return
        stranger = asyncio.current_task()
        assert stranger is not None  # noqa: S101 - a coroutine runs in a task
        self._strangers.pop(stranger, None)
        try:
            take(connection)
        except BaseException:
            connection.close()
            raise

    def _admitted(self, shown: bytes) -> Take:
        for token in self._expected:
            if tickets.matches(shown, token):
                return self._expected.pop(token)
        raise PermissionRefused("its token is wrong, used up or taken back")


def _peer(connection: socket.socket) -> str:
    try:
        name = connection.getpeername()
    except OSError:
        return ""
    return f"{name[0]} port {name[1]}" if isinstance(name, tuple) else str(name)


class Berth:
    """Where one migration's data connection comes in.

    `uri` is where the source is to send, `uri_out` what Prepare answers, and `otherwise` what a source that cannot connect
    is to do. `encryption` is what the hypervisor does with what comes in.
    """

    def __init__(self, door: Door, arrangement: Arrangement, port: int, release: Callable[[], None]) -> None:
        self._door = door
        self._release = release
        self._token = b""
        self._lanes: set[bytes] = set()
        self.encryption = Encryption.NONE
        match arrangement:
            case Shared(uri_out):
                self.uri, self.uri_out, self.otherwise = uri_out, uri_out, Otherwise.TUNNEL
            case OwnPort():
                self.uri, self.uri_out, self.otherwise = arrangement.uri(port), arrangement.uri_out(port), Otherwise.FAIL
            case OwnSocket(_, uri):
                self.uri, self.uri_out, self.otherwise = uri, "", Otherwise.FAIL

    @property
    def offer(self) -> DataOffer:
        """The same, for a cookie."""
        return DataOffer(self.uri, self.otherwise, encryption=self.encryption)

    def grant(self, take: Take) -> bytes:
        """A token that opens one connection, which is then for `take`. What was granted before opens none any more."""
        self.revoke()
        self._token = hello.new_token()
        self._door.expect(self._token, take)
        return self._token

    def grant_lane(self, take: Take) -> bytes:
        """A token that opens one more connection, which is for `take`."""
        token = hello.new_token()
        self._lanes.add(token)
        self._door.expect(token, take)
        return token

    def revoke(self) -> None:
        """What `grant` answered opens nothing."""
        self._door.forget(self._token)

    def close(self) -> None:
        """Nothing comes in here any more, and what was the migration's own is free."""
        self.revoke()
        for token in self._lanes:
            self._door.forget(token)
        self._release()
        self._release = _nothing


def _nothing() -> None:
    pass


class Doors:
    """Every place of this host where data comes in: one that all migrations share, and those of single migrations."""

    def __init__(
        self,
        here: Here,
        plain: Plain | None,
        ports: Ports,
        limits: Limits,
        spawn: Spawn,
        certificates: Path | None = None,
    ) -> None:
        self._here = here
        self.certificates = certificates
        self._plain = plain
        self._ports = ports
        self._limits = limits
        self._spawn = spawn
        self._shared: Door | None = None
        self._own: set[Door] = set()

    @property
    def native(self) -> bool:
        """Whether data may travel otherwise than through the tunnel at all."""
        return self._plain is not None

    @property
    def plain(self) -> Plain | None:
        """Whether data may travel unencrypted outside the tunnel; None when it always goes through the tunnel."""
        return self._plain

    async def open_shared(self, port: int) -> None:
        """Every migration may come in through `port`; 0 lets the system choose one.

        Raises:
            AddressUnavailable: somebody has it, or the address is none of this host.
        """
        listener = await _listener(self._here.listen, port)
        self._shared = self._door(listener)
        self._here = Here(self._here.listen, self._here.host, listener.getsockname()[1])
        log.info("data_port", listen=self._here.listen, port=self._here.port)

    def arrange(self, uri: str, listen_address: str, encryption: Encryption = Encryption.NONE) -> Arrangement | None:
        """Where a migration that asks for these is to come in; None for the tunnel.

        Raises:
            InvalidParameter, NotSupported: see `addresses.arrange`; or the data would travel unencrypted and may not.
        """
        if self._plain is None:
            if uri or listen_address:
                raise NotSupported(
                    "this daemon takes guests through the tunnel alone",
                    remedy="leave out the migration URI and the listen address; data.native is false in its configuration",
                )
            return None
        arrangement = addresses.arrange(uri, listen_address, self._here)
        if arrangement is None or encryption is Encryption.TLS:
            return arrangement
        if isinstance(arrangement, Shared) and self._plain in (Plain.NOWHERE, Plain.AS_ASKED):
            return None
        if refused := addresses.refusal(arrangement, self._plain):
            raise refused
        return arrangement

    def arrange_disks(self, port: int, uri: str, listen_address: str) -> Arrangement | None:
        """As `arrange`, for the disks of a migration that asks for `port`, and for `uri` and `listen_address` itself."""
        return self.arrange(addresses.disks_uri(port, uri, listen_address, self._here), listen_address)

    async def open(self, arrangement: Arrangement, encryption: Encryption = Encryption.NONE) -> Berth:
        """The place is open.

        Raises:
            AddressUnavailable: it cannot be had; nothing is left of the try.
        """
        berth = await self._opened(arrangement)
        berth.encryption = encryption
        return berth

    async def _opened(self, arrangement: Arrangement) -> Berth:
        match arrangement:
            case Shared():
                assert self._shared is not None  # noqa: S101 - only a shared door is arranged for
                return Berth(self._shared, arrangement, 0, _nothing)
            case OwnSocket(path):
                door = self._door(unix_listener(Path(path)))
                return self._berth(door, arrangement, 0, lambda: remove_socket(Path(path)))
            case OwnPort():
                listener, port = await self._own_port(arrangement)
                return self._berth(self._door(listener), arrangement, port, lambda: self._ports.release(port))

    def close(self) -> None:
        """Nobody comes in any more."""
        for door in (*self._own, *((self._shared,) if self._shared else ())):
            door.close()

    def _door(self, listener: socket.socket) -> Door:
        return Door(listener, self._limits, self._spawn)

    def _berth(self, door: Door, arrangement: Arrangement, port: int, free: Callable[[], None]) -> Berth:
        self._own.add(door)

        def release() -> None:
            self._own.discard(door)
            door.close()
            free()

        return Berth(door, arrangement, port, release)

    async def _own_port(self, arrangement: OwnPort) -> tuple[socket.socket, int]:
        """A listener and its port, which the migration holds."""
        if arrangement.port:
            listener = await _listener(arrangement.listen, arrangement.port)
            self._ports.hold(arrangement.port)
            return listener, arrangement.port
        for port in self._ports.candidates():
            self._ports.hold(port)
            try:
                return await _bind(arrangement.listen, port), port
            except OSError as error:
                self._ports.release(port)
                if error.errno != errno.EADDRINUSE:
                    raise _unavailable(error, arrangement.listen, port) from None
            except BaseException:
                self._ports.release(port)
                raise
        raise self._ports.exhausted()


async def _listener(host: str, port: int) -> socket.socket:
    """As `_bind`.

    Raises:
        AddressUnavailable: somebody has the port, or the host's addresses are none of this machine.
    """
    try:
        return await _bind(host, port)
    except OSError as error:
        raise _unavailable(error, host, port) from None


def _unavailable(error: OSError, host: str, port: int) -> AddressUnavailable:
    if error.errno == errno.EADDRINUSE:
        return AddressUnavailable(f"cannot wait for data at {host} port {port}: somebody else does", remedy=_BUSY)
    return AddressUnavailable(f"cannot wait for data at {host} port {port}: {error}", remedy="give an address of this host")


async def _bind(host: str, port: int) -> socket.socket:
    """A socket that listens at the first address of `host`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    return _bound(socket.socket(family, kind, protocol), place)


def _bound(listener: socket.socket, place: Any) -> socket.socket:
    try:
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    except BaseException:
        listener.close()
        raise
    return listener


def refuse_path(path: Path) -> None:
    """Nothing is at `path`, or a socket that nobody listens at; else nothing of it may be touched.

    Raises:
        AddressUnavailable: something else is there, or its folder is not.
    """
    if path.is_symlink() or (path.exists() and (not _is_socket(path) or _somebody_listens(path))):
        raise AddressUnavailable(
            f"cannot wait for data at {path}: something is there", remedy="remove it, or give another path"
        )
    if not path.parent.is_dir():
        raise AddressUnavailable(f"cannot wait for data at {path}: there is no such folder", remedy="make it first")


def unix_listener(path: Path) -> socket.socket:
    """A socket that listens at `path`, for this user and group alone.

    Raises:
        AddressUnavailable: something else is there, or nothing can be made there.
    """
    refuse_path(path)
    previous = os.umask(_SOCKET_UMASK)
    try:
        path.unlink(missing_ok=True)
        return _bound(socket.socket(socket.AF_UNIX), str(path))
    except OSError as error:
        raise AddressUnavailable(f"cannot wait for data at {path}: {error}", remedy="give another path") from None
    finally:
        os.umask(previous)


def remove_socket(path: Path) -> None:
    """No socket of ours is at `path`; what is not one stays."""
    if not path.is_symlink() and path.exists() and _is_socket(path):
        path.unlink(missing_ok=True)


def remove_stale_socket(path: Path) -> None:
    """No socket that nobody listens at is at `path`: what a daemon left behind that has ended."""
    if not path.is_symlink() and path.exists() and _is_socket(path) and not _somebody_listens(path):
        path.unlink(missing_ok=True)


def _is_socket(path: Path) -> bool:
    return stat.S_ISSOCK(path.stat().st_mode)


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
