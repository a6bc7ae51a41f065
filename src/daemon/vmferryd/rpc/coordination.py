"""Who walks the migration that a Perform asks for: its caller, or this daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from vmferry.endpoint import Reply, Request
from vmferry.flags import Flag
from vmferry.model import JobInfo, Progress
from vmferryd.peer import PeerToPeer
from vmferryd.phases.source_phases import SourcePhases


@dataclass(frozen=True, slots=True)
class Coordination:
    """Every Perform of every protocol comes by here."""

    source: SourcePhases
    peer: PeerToPeer

    def perform(self, request: Request) -> AsyncIterator[JobInfo | Progress | Reply]:
        """A Perform of protocol 3, which Confirm follows."""
        return self._by_this_daemon(request) or self.source.perform(request)

    def perform_and_give_up(self, request: Request) -> AsyncIterator[JobInfo | Progress | Reply]:
        """A Perform of protocols 1 and 2, which nothing follows at the source."""
        return self._by_this_daemon(request) or self.source.perform_and_give_up(request)

    def _by_this_daemon(self, request: Request) -> AsyncIterator[JobInfo | Progress | Reply] | None:
        if request.destination_daemon_uri or Flag.PEER2PEER in request.flags:
            return self.peer.perform(request)
        return None
