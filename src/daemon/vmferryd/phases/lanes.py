"""The channels of one migration: *main*, and as many others as the hypervisors need. Knows no record and no phase.

========================  =====================================================================================
name                      what goes through it
========================  =====================================================================================
`main`                    memory and devices, where one connection is enough; both hypervisors hold its ends
`memory`                  any number: each connection of a hypervisor that makes several (multifd)
`disk:TARGET`             any number: what is asked of the disk's export at the destination
========================  =====================================================================================

A connection that is one channel's is a *lane*. At the source `Lanes` opens them, the same way over the tunnel and natively;
a hypervisor that connects by itself does so to a socket beside it (`Lanes.listen`), and each of its connections becomes a
lane. At the destination `Landings` knows where each name leads: to a UNIX socket at which the hypervisor listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from vmferry.channel import parse_uri
from vmferry.client import Connection
from vmferry.errors import NotSupported, PeerUnreachable, PhaseOutOfOrder, TransferFailed, VmferryError
from vmferryd.drivers.copies import is_of_disk
from vmferryd.drivers.settings import MEMORY
from vmferryd.phases.context import Context
from vmferryd.transfer import sockets
from vmferryd.transfer.addresses import Address, Scheme
from vmferryd.transfer.doors import remove_socket, unix_listener
from vmferryd.transfer.encryption import is_secret
from vmferryd.transfer.outgoing import MAIN, Opening, OutgoingTunnel, open_tunnel
from vmferryd.transfer.relay import Relay
from vmferryd.transfer.routes import Encryption, Otherwise, Route

log = structlog.get_logger()


@dataclass(slots=True)
class Lanes:
    """The source's channels of one migration. `close` is owed.

    `route` is the way that they take, and `warning` says why that is not the one that was meant; `error` is what a lane that
    was lost ended with, which explains more than what a hypervisor says of its socket.
    `chosen`: the way is known, or the first lane has failed.
    """

    context: Context
    route: Route
    peer: Connection | None
    opening: Opening
    warning: str = ""
    error: VmferryError | None = None
    chosen: asyncio.Event = field(default_factory=asyncio.Event)
    _opened: int = 0
    _made: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self, channel: str = MAIN) -> socket.socket:
        """A socket for the hypervisor that leads to whatever takes `channel` at the destination. It is the caller's.

        Raises:
            TransferFailed: no connection could be made.
            PhaseOutOfOrder: there are too many.
            VmferryError: the destination's own error.
        """
        self._count()
        connection = await self._connected(channel)
        if connection is not None:
            return connection
        tunnel = await self._tunnel(channel)
        self._go_on(self._carry(tunnel), channel, tunnel.abandon)
        return tunnel.hypervisor

    async def join(self, channel: str, near: socket.socket) -> None:
        """What comes in at `near` goes to whatever takes `channel`, and back. `near` is closed in the end, and on failure.

        Raises:
            TransferFailed, PhaseOutOfOrder, VmferryError: see `open`.
        """
        try:
            self._count()
            connection = await self._connected(channel)
            if connection is None:
                near.setblocking(False)  # noqa: FBT003 - the standard library's signature
                tunnel = await self._tunnel(channel, near)
                self._go_on(self._carry(tunnel), channel, tunnel.abandon)
                return
        except BaseException:
            near.close()
            raise
        finally:
            self.chosen.set()
        relay = Relay(near, connection)
        self._go_on(relay.run(), channel, relay.abandon)

    def listen(self, channel: str, path: Path) -> None:
        """Each connection to the UNIX socket `path` becomes a lane of `channel`, in the order in which they come.

        Raises:
            AddressUnavailable: nobody can listen there.
        """
        listener = unix_listener(path)
        self._go_on(self._switch(channel, listener), channel, lambda: _close(listener, path))

    def close(self) -> None:
        """No lane is open."""
        for task in tuple(self._tasks):
            task.cancel()

    def _count(self) -> None:
        if self._opened >= self.context.limits.lanes:
            raise _too_many(self._opened)
        self._opened += 1

    def _go_on(self, work: Coroutine[Any, Any, object], channel: str, abandon: Callable[[], None]) -> None:
        """`work` runs; `abandon` frees what it has, also if it is cancelled before it runs."""
        task = self.context.tasks.spawn(self._told(work), f"lane {channel} of {self.opening.migration_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def ended(_: object) -> None:
            work.close()
            abandon()

        task.add_done_callback(ended)

    async def _told(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except VmferryError as error:
            self.error = self.error or error
            raise

    async def _connected(self, channel: str) -> socket.socket | None:
        """A connection of its own; None when the lanes of this migration go through the tunnel.

        As long as none was made, the tunnel may take its place.
        """
        own = self.route.disks if is_of_disk(channel) else None
        address = own or self.route.address
        if self._goes_with_the_daemons(channel) or address is None:
            return None
        try:
            token = b"" if self.peer is None else await self._token(self.peer, channel)
            connection = await sockets.connect(address, token, self.context.limits)
        except (TransferFailed, NotSupported) as error:
            if own is not None or self.route.otherwise is not Otherwise.TUNNEL or self._made:
                raise
            said = f"{error.message} ({error.detail})" if error.detail else error.message
            log.warning("tunnel_instead", migration_id=self.opening.migration_id, error=said)
            self.route = self.route.tunnel
            self.warning = f"the guest goes through the connection between the daemons, which is slower: {said}"
            return None
        self._made += 1
        return connection

    def _goes_with_the_daemons(self, channel: str) -> bool:
        """Hypervisors encrypt memory alone, and their disks nothing: those go through the daemons' own connection then.

        Raises:
            NotSupported: it is not encrypted either.
        """
        if self.route.encryption is Encryption.NONE or channel in (MAIN, MEMORY):
            return False
        if not is_secret(self.route.daemon_uri):
            raise NotSupported("the disk would travel in the clear", remedy="name the destination's daemon as vmferry+tls://")
        return True

    async def _token(self, peer: Connection, channel: str) -> bytes:
        opening = self.opening
        try:
            async with asyncio.timeout(self.context.limits.connect_s):
                return await peer.grant(
                    opening.migration_id,
                    opening.ticket,
                    channel=channel,
                    proof_secret=opening.proof_secret,
                    daemon_uri=opening.daemon_uri,
                )
        except (PeerUnreachable, TimeoutError) as error:
            raise TransferFailed("no answer from the destination's daemon", detail=str(error)) from None

    async def _tunnel(self, channel: str, near: socket.socket | None = None) -> OutgoingTunnel:
        """An open tunnel; `near` becomes its end here, where there is one already."""
        pair = self.context.channel_pair if near is None else lambda: (near, near)
        dialled = self.context.peers.channel(parse_uri(self.route.daemon_uri))
        opening = replace(self.opening, channel=channel)
        return await open_tunnel(dialled, opening, self.context.limits.connect_s, pair)

    async def _carry(self, tunnel: OutgoingTunnel) -> None:
        try:
            await tunnel.run()
        finally:
            await tunnel.close()

    async def _switch(self, channel: str, listener: socket.socket) -> None:
        """A lane is open to its end before the next begins: a hypervisor may tell its connections apart by their order."""
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            await self.join(channel, connection)


class Landings:
    """Where the channels of one migration but *main* lead at the destination, and the lanes that have come."""

    def __init__(self, context: Context, name: str) -> None:
        self._context = context
        self._name = name
        self._paths: dict[str, Path] = {}
        self._relays: set[asyncio.Task[None]] = set()
        self._tunnels: list[socket.socket] = []
        self._came = 0
        self._in_order = asyncio.Lock()

    def put(self, channel: str, path: Path) -> None:
        """Lanes of `channel` lead to the hypervisor that listens at the UNIX socket `path`."""
        self._paths[channel] = path

    @property
    def names(self) -> frozenset[str]:
        """The channels that are taken here."""
        return frozenset(self._paths)

    @property
    def is_deserted(self) -> bool:
        """Lanes have come, and all of them have ended."""
        return self._came > 0 and not self._relays and all(end.fileno() < 0 for end in self._tunnels)

    @property
    def is_busy(self) -> bool:
        """A lane is open."""
        return self._came > 0 and not self.is_deserted

    def admit(self, channel: str) -> Path:
        """Where a lane of `channel` leads; it counts from now on.

        Raises:
            NotSupported: nothing here takes it.
            PhaseOutOfOrder: there are too many.
        """
        path = self._paths.get(channel)
        if path is None:
            remedy = "use daemons of the same version"
            raise NotSupported(f"this migration has no data channel {channel!r}", remedy=remedy)
        if self._came >= self._context.limits.lanes:
            raise _too_many(self._came)
        self._came += 1
        return path

    async def enter(self, path: Path) -> socket.socket:
        """A tunnel's end at the hypervisor that listens at `path`: whoever carries the tunnel closes it.

        Raises:
            TransferFailed: nobody listens there.
        """
        reached = await self._reach(path)
        self._tunnels = [*(end for end in self._tunnels if end.fileno() >= 0), reached]
        return reached

    def land(self, connection: socket.socket, path: Path) -> None:
        """`connection` from the source and the hypervisor at `path` talk to each other until one of them ends it."""
        taken: list[socket.socket] = [connection]
        task = self._context.tasks.spawn(self._relay(taken, path), f"lane of {self._name}")
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)

        def ended(_: object) -> None:
            for each in taken:
                each.close()

        task.add_done_callback(ended)

    def close(self) -> None:
        """No lane is open, and none leads anywhere."""
        self._paths.clear()
        for task in tuple(self._relays):
            task.cancel()
        for end in self._tunnels:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    async def _reach(self, path: Path) -> socket.socket:
        async with self._in_order:  # whoever came first is first at the hypervisor, too
            return await sockets.connect(Address(Scheme.UNIX, path=str(path)), b"", self._context.limits)

    async def _relay(self, taken: list[socket.socket], path: Path) -> None:
        """`taken` has the connection until a relay owns it."""
        relay = Relay(await self._reach(path), taken.pop())
        await relay.run()


def _close(listener: socket.socket, path: Path) -> None:
    listener.close()
    remove_socket(path)


def _too_many(lanes: int) -> PhaseOutOfOrder:
    return PhaseOutOfOrder(f"the migration has {lanes} data connections already", remedy="raise limits.lanes on both hosts")
