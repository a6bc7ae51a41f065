"""The other daemon, as this one sees it: connections that are opened when needed, with this daemon's own credentials."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol
from weakref import WeakValueDictionary

from grpc import aio

from vmferry.bounds import Bounds
from vmferry.channel import ChannelOptions, Credentials, Transport, Uri, open_channel, parse_uri
from vmferry.client import Connection
from vmferry.endpoint import Settled
from vmferry.model import MigrationId, Outcome
from vmferry.wish import RunWish
from vmferryd.certificates import Certificates


class Peer(Protocol):
    """What one daemon asks the other about a migration."""

    async def outcome(self, migration_id: MigrationId) -> Settled:
        """See `vmferry.endpoint.Handover`."""
        ...

    async def abort(self, migration_id: MigrationId, why: str) -> Outcome:
        """See `vmferry.endpoint.Handover`."""
        ...

    async def release(self, migration_id: MigrationId, ticket: bytes, paused_for_us: int, wish: RunWish) -> Outcome:
        """See `vmferry.client.Connection.release`."""
        ...

    async def request_release(self, migration_id: MigrationId, ticket: bytes, daemon_uri: str) -> bytes:
        """See `vmferry.client.Connection.request_release`."""
        ...


OpenChannel = Callable[[Uri, ChannelOptions, Credentials | None], aio.Channel]
"""See `vmferry.channel.open_channel`."""


class Peers:
    """One connection for each peer, kept while the daemon lives, and others, whose owners may end before they close them."""

    def __init__(self, bounds: Bounds, certificates: Certificates | None, dial: OpenChannel = open_channel) -> None:
        self._bounds = bounds
        self._certificates = certificates
        self._dial = dial
        self._connections: dict[tuple[str, Credentials | None], Connection] = {}
        self._numbers = itertools.count()
        self._channels: WeakValueDictionary[int, aio.Channel] = WeakValueDictionary()

    def at(self, uri: str) -> Connection:
        """The daemon at `uri`; it is not asked anything yet.

        Raises:
            InvalidParameter: the URI is none of ours.
        """
        key = (uri, self._credentials)
        if key not in self._connections:
            parsed = parse_uri(uri)
            self._connections[key] = Connection(parsed, self.channel(parsed), bounds=self._bounds)
        return self._connections[key]

    @asynccontextmanager
    async def reached(self, uri: str) -> AsyncIterator[Connection]:
        """A connection of its own to the daemon at `uri`, which is closed when the context is left.

        Raises:
            InvalidParameter: the URI is none of ours.
        """
        connection = self.dial(uri)
        try:
            yield connection
        finally:
            await connection.channel.close()

    def dial(self, uri: str) -> Connection:
        """A connection of its own to the daemon at `uri`; whoever asked for it closes its channel.

        Raises:
            InvalidParameter: the URI is none of ours.
        """
        parsed = parse_uri(uri)
        return Connection(parsed, self.channel(parsed), bounds=self._bounds)

    def channel(self, uri: Uri) -> aio.Channel:
        """A channel of its own to the daemon at `uri`: bulk data does not stand in the way of control calls."""
        channel = self._dial(uri, ChannelOptions.of(self._bounds), self._credentials)
        self._channels[next(self._numbers)] = channel
        return channel

    @property
    def _credentials(self) -> Credentials | None:
        return None if self._certificates is None else self._certificates.client

    async def close(self) -> None:
        """Every connection is closed, also those that were given away."""
        await asyncio.gather(*(channel.close() for channel in tuple(self._channels.values())))
        self._connections.clear()


def advertised(uri: Uri) -> Uri:
    """The same place, named so that another host finds it: a wildcard address becomes this host's name."""
    if uri.transport is Transport.UNIX or uri.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return uri
    return Uri(uri.transport, host=socket.getfqdn(), port=uri.port)
