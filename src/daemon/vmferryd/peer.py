"""Peer-to-peer: this daemon coordinates, with the same engine as a client, itself as the source and a peer as destination.

One call is the whole migration. It belongs to the daemon and not to who called: callers come, watch, leave and come back,
and all of them hear the same end. The job is the one that Begin opens; `job watch` shows it like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import structlog

from vmferry.channel import parse_uri
from vmferry.checking import check_along, check_source
from vmferry.client import Connection
from vmferry.endpoint import ProgressListener, Reply, Request, Settled
from vmferry.errors import InvalidParameter, InvalidState, VmferryError
from vmferry.findings import findings_of
from vmferry.flags import Flag
from vmferry.migrate import Patience, migrate
from vmferry.model import GuestLocation, MigrationId, Outcome, Phase, Progress
from vmferry.negotiation import Wanted, choose_peer
from vmferry.params import p2p_forwarded
from vmferry.protocol import PROFILES, ProtocolVersion
from vmferryd.jobs.journal import Record
from vmferryd.phases.context import Context
from vmferryd.phases.local import LocalSource
from vmferryd.phases.source_phases import SourcePhases

log = structlog.get_logger()


class PeerToPeer:
    """Every migration that this daemon coordinates."""

    def __init__(self, context: Context, source: SourcePhases) -> None:
        self._context = context
        self._source = source
        self._walks: dict[MigrationId, _Walk] = {}

    async def perform(self, request: Request) -> AsyncIterator[Progress | Reply]:
        """The newest progress of each phase, then the reply: the guest lives at the destination.

        Whoever asks for the same migration joins it, also after its end.

        Cancellation: the migration goes on.

        Raises:
            InvalidState: there is a cookie, which would mean that somebody else coordinates.
            InvalidParameter: the request is none of peer-to-peer, or of another migration.
            VmferryError: what went wrong; `guest` says where the guest is.
        """
        _check(request)
        if request.validate_only:
            yield await self._checked(request)
            return
        record = None if request.migration_id in self._walks else await self._source.committed(request)
        walk = self._walks.get(request.migration_id)
        if walk is None and record is not None:
            yield await self._committed_before(request, record)
            return
        async for event in (walk or self._start(request)).followed(request):
            yield event

    async def _checked(self, request: Request) -> Reply:
        """What this migration would be refused for, by either host."""
        asked = replace(request, destination_daemon_uri="", domain_xml="")
        wanted = Wanted(request.flags, request.params, request.destination_daemon_uri)
        with ExitStack() as lease:
            local = LocalSource(PROFILES[ProtocolVersion.V3], self._source, self._context.domains, lease)
            try:
                async with self._context.peers.reached(request.destination_daemon_uri) as connection:
                    path = choose_peer(wanted, await connection.answers())
                    findings = await check_along(path, local, connection.speaking(path), asked)
            except VmferryError as error:
                unreached = findings_of(error, self._context.identity.host_name, request.destination_daemon_uri)
                findings = (*unreached, *await check_source(local, asked))
        return Reply(request.migration_id, findings=findings)

    def _start(self, request: Request) -> _Walk:
        walk = self._walks[request.migration_id] = _Walk(request)
        walk.end_with(self._context.tasks.promise(self._walked(walk), f"peer-to-peer {request.migration_id}"))
        walk.result.add_done_callback(lambda _: self._walks.pop(request.migration_id, None))
        return walk

    async def _walked(self, walk: _Walk) -> Reply:
        request = walk.request
        try:
            async with self._context.peers.reached(request.destination_daemon_uri) as connection:
                return await self._migrated(walk, connection)
        except VmferryError as error:
            # An error of the engine has a place already; any other came before the guest was touched.
            raise error.located(migration_id=request.migration_id, guest=GuestLocation.SOURCE) from None

    async def _migrated(self, walk: _Walk, connection: Connection) -> Reply:
        request = walk.request
        wanted = Wanted(request.flags, request.params, request.destination_daemon_uri)
        path = choose_peer(wanted, await connection.answers())
        with ExitStack() as lease:
            try:
                done = await migrate(
                    path.profile,
                    _Watching(path.profile, self._source, self._context.domains, lease, self._context, connection),
                    _Told(connection.speaking(path)),
                    replace(request, flags=path.flags, domain_xml="", destination_daemon_uri=""),
                    listener=walk.hear,
                    patience=Patience.of(connection.bounds),
                )
            except VmferryError as error:
                await self._source.call_off(request.migration_id, error)
                raise
        return Reply(
            done.migration_id,
            outcome=Outcome.COMMITTED,
            domain=done.domain,
            statistics=done.statistics,
            warnings=(*path.warnings, *done.warnings),
        )

    async def _committed_before(self, request: Request, record: Record) -> Reply:
        """The answer for who comes back when all is over: the destination knows the domain."""
        try:
            async with self._context.peers.reached(request.destination_daemon_uri) as connection:
                domain = await connection.domain(record.domain_uuid)
        except VmferryError as error:
            raise error.located(migration_id=record.migration_id, guest=GuestLocation.DESTINATION) from None
        return Reply(
            record.migration_id,
            outcome=Outcome.COMMITTED,
            domain=domain,
            statistics=record.statistics,
            warnings=record.warnings,
        )


def _check(request: Request) -> None:
    if request.cookie:
        raise InvalidState(
            "a cookie means that somebody else coordinates, and peer-to-peer has no coordinator but the source",
            remedy="call Perform without a cookie, or without destination_daemon_uri and PEER2PEER",
        )
    if Flag.PEER2PEER not in request.flags or not request.destination_daemon_uri:
        raise InvalidParameter(
            "peer-to-peer needs both the flag PEER2PEER and the URI of the destination's daemon",
            remedy="give both, or neither",
        )
    if not request.domain:
        raise InvalidParameter("no domain is named", remedy="give its name or UUID")
    parse_uri(request.destination_daemon_uri)


@dataclass(slots=True)
class _Walk:
    """One walk under way, and everyone who watches it. Only the newest progress of each phase is kept."""

    request: Request
    newest: dict[Phase, Progress] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    result: asyncio.Future[Reply] = field(init=False)

    def end_with(self, result: asyncio.Future[Reply]) -> None:
        """`result` is what everyone will be told."""
        self.result = result
        # An error that nobody waits for any more has been heard, too: it is in the journal.
        result.add_done_callback(self._ended)

    def _ended(self, result: asyncio.Future[Reply]) -> None:
        if not result.cancelled():
            result.exception()
        self.changed.set()

    def hear(self, progress: Progress) -> None:
        """Everyone is shown `progress`."""
        self.newest[progress.phase] = progress
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def followed(self, request: Request) -> AsyncIterator[Progress | Reply]:
        """What is known now, then what changes, then the reply."""
        mine = self.request
        if (request.domain, request.destination_daemon_uri) != (mine.domain, mine.destination_daemon_uri):
            raise InvalidParameter(
                f"migration {mine.migration_id} moves domain {mine.domain} to {mine.destination_daemon_uri}",
                remedy="propose a migration id that nobody has used",
            )
        shown: dict[Phase, Progress] = {}
        while True:
            changed, ended = self.changed, self.result.done()
            for phase, progress in tuple(self.newest.items()):
                if shown.get(phase) is not progress:
                    shown[phase] = progress
                    yield progress
            if ended:
                break
            await changed.wait()
        yield await asyncio.shield(self.result)


@dataclass(frozen=True, slots=True)
class _Told:
    """The peer as the engine's destination; it is sent what concerns it (specification 1.7)."""

    peer: Connection

    async def prepare(self, request: Request) -> Reply:
        return await self.peer.prepare(_forwarded(request))

    async def finish(self, request: Request) -> Reply:
        return await self.peer.finish(_forwarded(request))

    async def outcome(self, migration_id: MigrationId) -> Settled:
        return await self.peer.outcome(migration_id)

    async def abort(self, migration_id: MigrationId, why: str) -> Outcome:
        return await self.peer.abort(migration_id, why)


def _forwarded(request: Request) -> Request:
    return replace(request, params=p2p_forwarded(request.params))


class _Watch:
    """Ends the transfer when the peer that is to take the guest falls silent.

    The data channel breaks by itself when the peer dies; this notices a peer that lives and does not answer any more.
    """

    def __init__(self, context: Context, source: SourcePhases, peer: Connection) -> None:
        self._context = context
        self._source = source
        self._peer = peer

    async def over(self, migration_id: MigrationId) -> None:
        """The transfer was ended for the peer's silence; runs until it is cancelled."""
        clock, limits = self._context.clock, self._context.limits
        heard_s = clock.monotonic()
        while True:
            await clock.sleep(min(limits.peer_call_s, limits.peer_silence_s / 2))
            try:
                async with asyncio.timeout(limits.peer_call_s):
                    await self._peer.outcome(migration_id)
                heard_s = clock.monotonic()
            except (VmferryError, TimeoutError) as silence:
                silent_s = clock.monotonic() - heard_s
                log.warning("peer_silent", migration_id=migration_id, silent_s=silent_s, error=str(silence))
                if silent_s > limits.peer_silence_s:
                    await self._source.migrations.abort(migration_id, "lost the connection to the destination's daemon")
                    return


@dataclass(frozen=True, slots=True)
class _Watching(LocalSource):
    """This host as the engine's source, with `_Watch` over each transfer."""

    context: Context
    peer: Connection

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """See `vmferry.endpoint.Source`."""
        watch = _Watch(self.context, self.phases, self.peer)
        task = self.context.tasks.spawn(watch.over(request.migration_id), f"watch over the peer of {request.migration_id}")
        try:
            return await LocalSource.perform(self, request, listener)
        finally:
            task.cancel()
