"""The public library: a connection to one daemon, and what can be asked of it.

::

    async with connect("vmferry+tcp://host-a") as source, connect("vmferry+tcp://host-b") as destination:
        done = await source.migrate("web", destination, flags=Flag.LIVE)
        print(done.statistics.guest_pause_ms)

Every call raises the error tree of `vmferry.errors`. Calls that change nothing say `PeerUnreachable` when nobody answers;
calls of a migration's phases say `FateUnknown`, because they may have happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from grpc import aio

from vmferry import wire
from vmferry.api.v1 import (
    handover_pb2,
    handover_pb2_grpc,
    legacy_pb2_grpc,
    migration_pb2_grpc,
    transfer_pb2,
    transfer_pb2_grpc,
)
from vmferry.attempt import Attempt, in_one_call, seen
from vmferry.bounds import DEFAULTS, Bounds
from vmferry.channel import ChannelOptions, Credentials, Uri, open_channel, parse_uri
from vmferry.checking import check_along, check_source, notes, witnessed
from vmferry.endpoint import ProgressListener, Reply, Request, Settled, ignore_progress
from vmferry.errors import FateUnknown, VmferryError
from vmferry.features import Feature
from vmferry.findings import Finding, findings_of
from vmferry.flags import NONE, Flag, without
from vmferry.host_calls import HostCalls
from vmferry.job_calls import JobCalls
from vmferry.legacy_calls import TunnelV2Calls, V1Calls, V2Calls
from vmferry.migrate import Migrated, Patience, migrate
from vmferry.model import (
    GuestLocation,
    MigrationId,
    Outcome,
    new_migration_id,
)
from vmferry.negotiation import (
    Mode,
    Path,
    Uris,
    Wanted,
    choose_managed,
    choose_managed_fixed,
    choose_to_uri,
    uris_of_migrate,
    uris_of_to_uri,
)
from vmferry.params import MigrationParams
from vmferry.phase_calls import FixedCalls, ParamsCalls, PhaseCalls, TunnelCalls, TunnelParamsCalls
from vmferry.protocol import PrepareKind, ProtocolVersion, Spelling
from vmferry.tuning_calls import TuningCalls
from vmferry.wish import RunWish

if TYPE_CHECKING:
    from vmferry.api.v1.handover_pb2_grpc import HandoverServiceAsyncStub
    from vmferry.api.v1.transfer_pb2_grpc import TransferServiceAsyncStub


@asynccontextmanager
async def connect(
    uri: str | Uri, *, bounds: Bounds = DEFAULTS, credentials: Credentials | None = None
) -> AsyncIterator[Connection]:
    """A connection to the daemon at `uri`, which has answered; `bounds` are those of every wait on it.

    Raises:
        InvalidParameter: the URI or its certificates are wrong.
        PeerUnreachable: nobody answers there.
    """
    parsed = parse_uri(uri) if isinstance(uri, str) else uri
    async with open_channel(parsed, ChannelOptions.of(bounds), credentials) as channel:
        connection = Connection(parsed, channel, bounds=bounds)
        await connection.version()
        yield connection


class Connection(HostCalls, JobCalls, TuningCalls):
    """One daemon. It is also an endpoint of the engine: a source and a destination.

    `version`, `spelling` and `prepare` say which calls the phases are; `migrate` and `migrate_to_uri` find out by themselves
    which ones the daemons share. A connection that writes fixed arguments leaves typed parameters out of that.
    """

    _speaks = (ProtocolVersion.V3, Spelling.PARAMS, PrepareKind.ADDRESS)

    def __init__(
        self,
        uri: Uri,
        channel: aio.Channel,
        *,
        version: ProtocolVersion = ProtocolVersion.V3,
        spelling: Spelling = Spelling.PARAMS,
        prepare: PrepareKind = PrepareKind.ADDRESS,
        bounds: Bounds = DEFAULTS,
    ) -> None:
        self.uri = uri
        self.channel = channel
        self.bounds = bounds
        self._speaks = (version, spelling, prepare)

    @cached_property
    def _phases(self) -> PhaseCalls:
        return _phase_calls(self.channel, self._speaks, self.bounds)

    @cached_property
    def _handover(self) -> HandoverServiceAsyncStub:
        return handover_pb2_grpc.HandoverServiceStub(self.channel)

    @cached_property
    def _transfer(self) -> TransferServiceAsyncStub:
        return transfer_pb2_grpc.TransferServiceStub(self.channel)

    def speaking(self, path: Path) -> Connection:
        """The same daemon over the same channel, with phases called in the way of `path`."""
        version, spelling, prepare = path.version, path.spelling, path.profile.prepare
        if (version, spelling, prepare) == self._speaks:
            return self
        return Connection(self.uri, self.channel, version=version, spelling=spelling, prepare=prepare, bounds=self.bounds)

    # -- migration --------------------------------------------------------------------------------------------------

    async def migrate(
        self,
        domain: str,
        destination: Connection,
        *,
        flags: Flag = NONE,
        params: MigrationParams | None = None,
        uri: str | None = None,
        attempt: Attempt | None = None,
    ) -> Migrated:
        """The guest lives at `destination`. This connection is the source; see `vmferry.migrate.migrate` for the errors.

        It is libvirt's virDomainMigrate3 with typed parameters, and its virDomainMigrate and virDomainMigrate2 over a
        connection that writes fixed arguments: only those two leave the walk to the source's daemon, with PEER2PEER.

        Args:
            domain: its name or UUID.
            destination: the daemon there, as this client reaches it.
            flags: what to do.
            params: how to do it.
            uri: the only URI of virDomainMigrate: with PEER2PEER where the source's daemon finds the destination's, if that
                differs from where this client does; otherwise another spelling of `migrate_uri`.
            attempt: how the caller follows it.

        Raises:
            InvalidParameter, NotSupported, NoCommonProtocol: the two daemons do not share what this needs; nothing happened.
            PeerUnreachable: a daemon could not be asked what it can; nothing happened.
        """
        attempt = attempt or Attempt(patience=Patience.of(self.bounds))
        uris = uris_of_migrate(flags, uri, str(destination.uri))
        params = _leading_to(params, uris.migration)
        path = await self._path_to(destination, Wanted(flags, params, uris.daemon))
        request = _request(domain, path, params, attempt)
        if path.mode is Mode.PEER_TO_PEER:
            done = await self._in_one_call(path, replace(request, destination_daemon_uri=uris.daemon), attempt)
            return await seen(done, destination.domain(params.destination_name or domain))
        done = await migrate(
            path.profile,
            self.speaking(path),
            destination.speaking(path),
            request,
            listener=attempt.listener,
            protection=path.protection,
            patience=attempt.patience,
        )
        return replace(done, warnings=path.warnings + done.warnings)

    async def check(
        self,
        domain: str,
        destination: Connection,
        *,
        flags: Flag = NONE,
        params: MigrationParams | None = None,
        uri: str | None = None,
    ) -> tuple[Finding, ...]:
        """Everything that is known to speak against `migrate` with the same arguments, and what its user should know.

        Nothing is opened, made, held or recorded on either host. What no finding speaks against is not refused later for a
        reason that could have been known now.
        """
        uris = uris_of_migrate(flags, uri, str(destination.uri))
        params = _leading_to(params, uris.migration)
        request = Request(new_migration_id(), domain, flags, params, uri=params.migrate_uri or "")
        here = await witnessed(self)
        try:
            there = await witnessed(destination)
            findings = await self._checked(destination, request, uris.daemon)
        except VmferryError as error:
            unreached = findings_of(error, here.host.host_name, str(destination.uri))
            return (*unreached, *await self.check_alone(domain, flags=flags, params=params))
        return (*findings, *notes(here, there))

    async def check_alone(
        self, domain: str, *, flags: Flag = NONE, params: MigrationParams | None = None
    ) -> tuple[Finding, ...]:
        """What this daemon alone would refuse a migration for, as its source."""
        asked = without(flags, Flag.PEER2PEER)
        return await check_source(self, Request(new_migration_id(), domain, asked, params or MigrationParams()))

    async def _checked(self, destination: Connection, request: Request, daemon_uri: str) -> tuple[Finding, ...]:
        if Flag.PEER2PEER in request.flags:  # the source's daemon finds out what the two share
            asked = replace(request, destination_daemon_uri=daemon_uri, validate_only=True)
            return (await self.perform(asked, ignore_progress)).findings
        path = await self._path_to(destination, Wanted(request.flags, request.params, daemon_uri))
        return await check_along(path, self.speaking(path), destination.speaking(path), request)

    async def _path_to(self, destination: Connection, wanted: Wanted) -> Path:
        """The way that both daemons share for what is wanted; both are asked, at the same time."""
        here, there = await asyncio.gather(self.answers(), destination.answers())
        if self._writes_params:
            return _chosen(lambda: choose_managed(wanted, here, there))
        here = here.without(Feature.MIGRATION_PARAMS)
        return _chosen(lambda: choose_managed_fixed(wanted, here, there))

    async def migrate_to_uri(
        self,
        domain: str,
        uri: str,
        *,
        flags: Flag = Flag.PEER2PEER,
        params: MigrationParams | None = None,
        attempt: Attempt | None = None,
    ) -> Migrated:
        """The guest lives where `uri` leads, by one call to this daemon, which goes on when its caller leaves.

        With PEER2PEER `uri` names the destination's daemon, and the source's daemon coordinates. Without, the migration is
        direct: no daemon is there, and `uri` is where a hypervisor listens; in place of it that may be said by `migrate_uri`.
        It is libvirt's virDomainMigrateToURI, 2 and 3.

        Raises:
            InvalidParameter, NotSupported, NoCommonProtocol: nothing happened.
            FateUnknown: the source does not answer; it goes on by itself, and the same call with the same id joins it.
            VmferryError: the first thing that went wrong; `guest` says where the guest is.
        """
        attempt = attempt or Attempt(patience=Patience.of(self.bounds))
        named = params.migrate_uri if params else None
        uris = Uris(uri, named) if named else uris_of_to_uri(flags, uri)
        params = _leading_to(params, uris.migration)
        answers = await self.answers()
        asked = answers if self._writes_params else answers.without(Feature.MIGRATION_PARAMS)
        path = _chosen(lambda: choose_to_uri(Wanted(flags, params, uris.daemon), asked))
        daemon_uri = uris.daemon if path.mode is Mode.PEER_TO_PEER else ""
        request = replace(_request(domain, path, params, attempt), destination_daemon_uri=daemon_uri)
        return await self._in_one_call(path, request, attempt)

    async def _in_one_call(self, path: Path, request: Request, attempt: Attempt) -> Migrated:
        request = replace(request, domain_xml=request.params.destination_xml or "")
        return await in_one_call(self.speaking(path).perform, path, request, attempt)

    @property
    def _writes_params(self) -> bool:
        return self._speaks[1] is Spelling.PARAMS

    # -- the endpoint of the engine ---------------------------------------------------------------------------------

    async def begin(self, request: Request) -> Reply:
        """See `vmferry.endpoint.Source`."""
        return await self._ask(self._phases.begin(request), FateUnknown)

    async def prepare(self, request: Request) -> Reply:
        """See `vmferry.endpoint.Destination`."""
        return await self._ask(self._phases.prepare(request), FateUnknown)

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """See `vmferry.endpoint.Source`."""
        return await self._ask(self._phases.perform(request, listener), FateUnknown)

    async def finish(self, request: Request) -> Reply:
        """See `vmferry.endpoint.Destination`."""
        return await self._ask(self._phases.finish(request), FateUnknown)

    async def confirm(self, request: Request) -> Reply:
        """See `vmferry.endpoint.Source`."""
        return await self._ask(self._phases.confirm(request), FateUnknown)

    async def outcome(self, migration_id: MigrationId) -> Settled:
        """See `vmferry.endpoint.Handover`."""
        request = handover_pb2.GetOutcomeRequest(migration_id=migration_id)
        reply = await self._ask(self._handover.GetOutcome(request, timeout=self.bounds.call_s))
        return Settled(wire.enum_from_wire(Outcome, reply.outcome), reply.state, wire.wish_from_wire(reply.wish))

    async def abort(self, migration_id: MigrationId, why: str) -> Outcome:
        """See `vmferry.endpoint.Handover`."""
        request = handover_pb2.AbortRequest(migration_id=migration_id, why=why)
        reply = await self._ask(self._handover.Abort(request, timeout=self.bounds.call_s), FateUnknown)
        return wire.enum_from_wire(Outcome, reply.outcome)

    async def release(self, migration_id: MigrationId, ticket: bytes, paused_for_us: int, wish: RunWish) -> Outcome:
        """The destination has the source's word; answers what then holds. For daemons."""
        request = handover_pb2.ReleaseRequest(
            migration_id=migration_id, ticket=ticket, paused_for_us=paused_for_us, wish=wire.enum_to_wire(wish)
        )
        reply = await self._ask(self._handover.Release(request, timeout=self.bounds.call_s), FateUnknown)
        return wire.enum_from_wire(Outcome, reply.outcome)

    async def grant(
        self, migration_id: MigrationId, ticket: bytes, *, proof_secret: bytes, daemon_uri: str, channel: str = "main"
    ) -> bytes:
        """What opens one data connection to the guest that waits there. For daemons."""
        request = transfer_pb2.GrantRequest(
            migration_id=migration_id, ticket=ticket, channel=channel, proof_secret=proof_secret, daemon_uri=daemon_uri
        )
        return (await self._ask(self._transfer.Grant(request, timeout=self.bounds.call_s))).token

    async def request_release(self, migration_id: MigrationId, ticket: bytes, daemon_uri: str) -> bytes:
        """The source of a definition has recorded its word; answers the secret that the outcome is signed with. For daemons.

        Raises:
            PermissionRefused: the ticket is not this migration's.
            PhaseOutOfOrder: the migration has ended there, or is none of a definition alone.
        """
        request = handover_pb2.RequestReleaseRequest(migration_id=migration_id, ticket=ticket, daemon_uri=daemon_uri)
        reply = await self._ask(self._handover.RequestRelease(request, timeout=self.bounds.call_s), FateUnknown)
        return reply.proof_secret


def _leading_to(params: MigrationParams | None, uri: str | None) -> MigrationParams:
    """The parameters, with `uri` as the migration's if there is one."""
    params = params or MigrationParams()
    return replace(params, migrate_uri=uri) if uri else params


def _request(domain: str, path: Path, params: MigrationParams, attempt: Attempt) -> Request:
    return Request(attempt.migration_id, domain, path.flags, params, uri=params.migrate_uri or "")


def _chosen(choice: Callable[[], Path]) -> Path:
    """What a decision tree says; whatever it refuses, the guest is where it was."""
    try:
        return choice()
    except VmferryError as error:
        raise error.located(guest=GuestLocation.SOURCE) from None


def _phase_calls(channel: aio.Channel, speaks: tuple[ProtocolVersion, Spelling, PrepareKind], bounds: Bounds) -> PhaseCalls:
    version, spelling, prepare = speaks
    through_tunnel = prepare is PrepareKind.TUNNEL
    match version:
        case ProtocolVersion.V1:
            return V1Calls(legacy_pb2_grpc.MigrationV1ServiceStub(channel), bounds)
        case ProtocolVersion.V2:
            return (TunnelV2Calls if through_tunnel else V2Calls)(legacy_pb2_grpc.MigrationV2ServiceStub(channel), bounds)
        case ProtocolVersion.V3:
            stub = migration_pb2_grpc.MigrationServiceStub(channel)
            if spelling is Spelling.PARAMS:
                return (TunnelParamsCalls if through_tunnel else ParamsCalls)(stub, bounds)
            return (TunnelCalls if through_tunnel else FixedCalls)(stub, bounds)
