"""Direct: the guest goes to a hypervisor that listens without a daemon. This host is all there is.

One call is the whole migration, and it belongs to this daemon: callers come, watch, leave and come back. With no peer to
ask, the own hypervisor's word decides. What was not let go can be taken back, and what the receiver has acknowledged has
arrived; when a transfer breaks between the two, only an operator can look at the receiver and say.

Whether the guest runs on arrival is the receiver's business: its command line says so, and `receiver` prints one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from vmferry.combinations import Fact, Place, check
from vmferry.endpoint import Reply, Request
from vmferry.errors import InvalidParameter, InvalidState, NotSupported, VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainState, GuestLocation, JobInfo, MigrationId, Outcome, Phase, SourceState
from vmferry.params import MigrationParams, scheme
from vmferryd.drivers.base import BareReceiver, DriverFeature, StartMode
from vmferryd.phases import admission
from vmferryd.phases.context import Context, once
from vmferryd.phases.departure import leaving
from vmferryd.phases.source import SourceMigration
from vmferryd.phases.source_phases import SourcePhases
from vmferryd.phases.source_words import in_doubt
from vmferryd.transfer import addresses
from vmferryd.transfer.addresses import Address, Scheme, Style
from vmferryd.transfer.routes import bare

_DIRECT = frozenset({Fact.TO_URI_CALL, Fact.DIRECT_OFFERED})


@dataclass(frozen=True, slots=True)
class Receiving:
    """What a bare receiver is to be. `definition_xml` replaces the domain's own, where paths and bridges differ."""

    domain: str
    uri: str
    on_arrival: StartMode = StartMode.RUNNING
    definition_xml: str = ""
    directory: Path = Path()


class Direct:
    """Every migration to a bare hypervisor."""

    def __init__(self, context: Context, source: SourcePhases) -> None:
        self._context = context
        self._source = source
        self._opening: dict[MigrationId, asyncio.Future[SourceMigration]] = {}

    async def concerns(self, request: Request) -> bool:
        """Whether a Perform asks for a direct migration.

        It has no cookie, for nobody has prepared anything, leads to a hypervisor, and no Begin has opened it.
        """
        if request.cookie:
            return False
        if request.migration_id in self._opening:
            return True
        known = await self._source.migrations.find(request.migration_id)
        if known is not None:
            return bool(known.record.receiver_uri)
        return bool(request.domain) and scheme(request.uri) in set(Scheme)

    async def perform(self, request: Request) -> AsyncIterator[JobInfo | Reply]:
        """Every change of the job, then the reply: the receiver has acknowledged the guest, and nothing is left of it here.

        Whoever asks for the same migration joins it, also after its end.

        Cancellation: the migration goes on.

        Raises:
            InvalidParameter, NotSupported, InvalidState: nothing happened.
            InDoubt: the last part was sent and not acknowledged; the guest stands still here until an operator decides.
            VmferryError: what went wrong; `guest` says where the guest is.
        """
        address = _address(request.uri)
        migration = await once(
            self._context.tasks, self._opening, request.migration_id, lambda: self._opened(request, address)
        )
        if migration.record.receiver_uri != str(address):
            raise InvalidParameter(
                f"migration {request.migration_id} is another one", remedy="propose a migration id that nobody has used"
            )
        async for event in self._source.watched(migration):
            if isinstance(event, Reply):
                yield self._acknowledged(migration, event)
            else:
                yield event

    def _acknowledged(self, migration: SourceMigration, reply: Reply) -> Reply:
        if migration.state is not SourceState.CONFIRMED:
            raise in_doubt(migration.record, migration.failure, self._context.identity.host_name)
        return replace(reply, cookie=b"", outcome=Outcome.COMMITTED)

    async def _opened(self, request: Request, address: Address) -> SourceMigration:
        known = await self._source.migrations.find(request.migration_id)
        if known is not None:
            return known
        try:
            self._refuse_what_cannot_be(request, address)
            await self._source.begin(request)
        except VmferryError as error:
            raise error.located(migration_id=request.migration_id, guest=GuestLocation.SOURCE) from None
        migration = await self._source.migrations.get(request.migration_id)
        try:
            await migration.machine.write(receiver_uri=str(address), phase=Phase.PERFORM)
            _refuse_a_guest_that_might_wake(migration, request)
        except VmferryError as error:
            await migration.refuse(error)
            raise error.located(migration_id=request.migration_id, guest=GuestLocation.SOURCE) from None
        task = migration.perform(bare(address), self._source.settings_of(migration.record, request))
        self._context.tasks.spawn(_coordinated(migration, task), f"direct {request.migration_id}")
        return migration

    def _refuse_what_cannot_be(self, request: Request, address: Address) -> None:
        """What a bare receiver cannot do, a hypervisor that hears of no acknowledgement, a way that others can read."""
        if refused := addresses.refusal_of_bare(address, self._context.doors.plain):
            raise refused
        check(request.flags, request.params, Place.CLIENT, _DIRECT)
        entry = self._context.domains.find(request.domain)
        capabilities = self._context.capabilities(entry.definition)
        if DriverFeature.RETURN_PATH not in capabilities.features:
            raise NotSupported(
                f"the {capabilities.name} driver ({capabilities.version}) does not hear whether a guest has arrived",
                remedy="use a newer hypervisor, or migrate to a daemon",
            )

    async def receiver(self, receiving: Receiving) -> tuple[str, ...]:
        """The words of a command line that receives the domain at `receiving.uri`; one that stands still stays so.

        Raises:
            DomainNotFound, InvalidParameter, HostIncompatible: see there.
            DriverRefused: the domain's guests have no command line.
        """
        entry = self._context.domains.find(receiving.domain)
        driver = self._context.domains.driver(entry.definition)
        params = MigrationParams(destination_xml=receiving.definition_xml or None)
        departure = await leaving(entry, params, driver.settle)
        admission.refuse(departure.objections)
        address = str(replace(_address(receiving.uri), style=Style.PLAIN))
        on_arrival = StartMode.PAUSED if entry.state is DomainState.PAUSED else receiving.on_arrival
        return await driver.receiver(departure.definition, BareReceiver(address, receiving.directory, on_arrival))


def _address(uri: str) -> Address:
    """Where the receiver listens.

    Raises:
        InvalidParameter, NotSupported: no socket can be connected there.
    """
    address = addresses.parse(uri)
    if address.scheme is Scheme.RDMA:
        remedy = "use a migration URI with tcp or unix"
        raise NotSupported("the daemon hands a connected socket to its hypervisor, and RDMA has none", remedy=remedy)
    if address.scheme is Scheme.TCP and not address.port:
        raise InvalidParameter(f"{uri!r} names no port, and nobody is there to choose one", remedy="write tcp:HOST:PORT")
    return address


def _refuse_a_guest_that_might_wake(migration: SourceMigration, request: Request) -> None:
    """A guest that stands still stays so only if its receiver knows; PAUSED is its user's word that it does."""
    if not migration.record.was_running and Flag.PAUSED not in request.flags:
        raise InvalidState(
            "the guest stands still, and a receiver without a daemon would start it unless its command line says otherwise",
            remedy="start the receiver with -S, as `vmferry receiver` prints it now, and add PAUSED; or resume the guest",
        )


async def _coordinated(migration: SourceMigration, task: asyncio.Task[None]) -> None:
    with migration.lease.kept():
        await asyncio.wait([task])
