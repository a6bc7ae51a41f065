"""Who walks the migration that a Perform asks for: its caller, or this daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

from vmferry.endpoint import Reply, Request
from vmferry.errors import NotSupported
from vmferry.features import Feature
from vmferry.flags import Flag
from vmferry.model import JobInfo, Progress
from vmferryd.peer import PeerToPeer
from vmferryd.phases.direct import Direct
from vmferryd.phases.source_phases import SourcePhases

Event: TypeAlias = JobInfo | Progress | Reply


@dataclass(frozen=True, slots=True)
class Coordination:
    """Every Perform of every protocol comes by here. `announced` is what this daemon says that it can."""

    source: SourcePhases
    peer: PeerToPeer
    direct: Direct
    announced: Collection[Feature]

    async def perform(self, request: Request) -> AsyncIterator[Event]:
        """A Perform of protocol 3, which Confirm follows where its caller coordinates."""
        async with aclosing(await self._by_this_daemon(request) or self.source.perform(request)) as events:  # type: ignore[type-var]
            async for event in events:
                yield event

    async def perform_and_give_up(self, request: Request) -> AsyncIterator[Event]:
        """A Perform of protocols 1 and 2, which nothing follows at the source."""
        performed = await self._by_this_daemon(request) or self.source.perform_and_give_up(request)
        async with aclosing(performed) as events:  # type: ignore[type-var]
            async for event in events:
                yield event

    async def _by_this_daemon(self, request: Request) -> AsyncIterator[Event] | None:
        if request.destination_daemon_uri or Flag.PEER2PEER in request.flags:
            return self.peer.perform(request)
        if await self.direct.concerns(request):
            self._refuse_unless_announced()
            return self.direct.perform(request)
        return None

    def _refuse_unless_announced(self) -> None:
        feature = Feature.MIGRATION_DIRECT
        if feature not in self.announced:
            raise NotSupported(
                f"this daemon does not announce {feature.name}, and nobody has prepared this migration",
                remedy=f"call Prepare first, and hand Perform its cookie; or list {feature.value} in announce.features",
            )
