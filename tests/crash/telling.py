"""A connection that tells the points around the calls of a migration."""

from __future__ import annotations

from typing import Any

from crash.points import Teller
from vmferry.client import Connection
from vmferry.endpoint import ProgressListener, Reply, Request
from vmferry.model import MigrationId, Outcome
from vmferry.wish import RunWish


def telling(teller: Teller, who: str) -> type[Connection]:
    """The class of connections that tell `before WHO calls prepare`, and so on."""

    class Telling(Connection):
        async def _pointed(self, call: str, work: Any) -> Any:
            return await teller.around(f"{who} calls {call}", work)

        async def begin(self, request: Request) -> Reply:
            return await self._pointed("begin", lambda: Connection.begin(self, request))

        async def prepare(self, request: Request) -> Reply:
            return await self._pointed("prepare", lambda: Connection.prepare(self, request))

        async def perform(self, request: Request, listener: ProgressListener) -> Reply:
            return await self._pointed("perform", lambda: Connection.perform(self, request, listener))

        async def finish(self, request: Request) -> Reply:
            return await self._pointed("finish", lambda: Connection.finish(self, request))

        async def confirm(self, request: Request) -> Reply:
            return await self._pointed("confirm", lambda: Connection.confirm(self, request))

        async def release(self, migration_id: MigrationId, ticket: bytes, paused_for_us: int, wish: RunWish) -> Outcome:
            return await self._pointed("release", lambda: Connection.release(self, migration_id, ticket, paused_for_us, wish))

    return Telling
