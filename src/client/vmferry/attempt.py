"""One attempt to move a guest, as its caller follows it, and the one call that is a whole migration.

Peer-to-peer and direct migrations are a single Perform at the source. Whoever calls only watches: the migration goes on when
the caller leaves, and the same call with the same migration id joins it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from vmferry.endpoint import ProgressListener, Reply, Request, ignore_progress
from vmferry.errors import DomainNotFound, FateUnknown, PeerUnreachable
from vmferry.migrate import Migrated, Patience
from vmferry.model import DomainInfo, GuestLocation, MigrationId, Progress, new_migration_id
from vmferry.negotiation import Mode, Path

Perform: TypeAlias = Callable[[Request, ProgressListener], Awaitable[Reply]]
"""`vmferry.endpoint.Source.perform`."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How the caller follows one attempt.

    `migration_id` is the caller's proposal: by it other calls watch, end or join the migration, from its first moment on.
    `listener` hears every step, and `patience` bounds how long a lost reply is asked for again.
    """

    migration_id: MigrationId = field(default_factory=new_migration_id)
    listener: ProgressListener = ignore_progress
    patience: Patience = field(default_factory=Patience)


async def in_one_call(perform: Perform, path: Path, request: Request, attempt: Attempt) -> Migrated:
    """The guest lives where `request` says; of a direct migration nobody knows its domain there.

    Raises:
        FateUnknown: the source does not answer; it goes on by itself.
        VmferryError: the first thing that went wrong; `guest` says where the guest is.
    """
    reply = await _performed(perform, request, attempt)
    if reply.domain is None and path.mode is Mode.PEER_TO_PEER:
        raise _ended_since(request.migration_id)
    return Migrated(reply.migration_id, reply.domain, reply.statistics, (*path.warnings, *reply.warnings))


async def seen(done: Migrated, domain: Awaitable[DomainInfo]) -> Migrated:
    """The same, with the domain as the destination itself answers for it (specification 2.3 step 3).

    Raises:
        DomainNotFound: the guest has ended there since.
    """
    try:
        return replace(done, domain=await domain)
    except DomainNotFound:
        raise _ended_since(done.migration_id) from None
    except PeerUnreachable as silence:
        warning = f"the guest lives at the destination, which could not be asked for it: {silence}"
        return replace(done, warnings=(*done.warnings, warning))


async def _performed(perform: Perform, request: Request, attempt: Attempt) -> Reply:
    """Perform's reply. A lost call is repeated, and joins the migration, until the source was silent for too long."""
    loop = asyncio.get_running_loop()
    lost_s: float | None = None

    def hear(progress: Progress) -> None:
        nonlocal lost_s
        lost_s = None
        attempt.listener(progress)

    while True:
        try:
            return await perform(request, hear)
        except FateUnknown as error:
            lost_s = loop.time() if lost_s is None else lost_s
            # A daemon's own word names its host.
            if error.host or loop.time() - lost_s >= attempt.patience.total_s:
                raise error.located(migration_id=request.migration_id) from None
            await asyncio.sleep(attempt.patience.delay_s)


def _ended_since(migration_id: MigrationId) -> DomainNotFound:
    return DomainNotFound(
        "the destination took the guest, and there it has ended since",
        remedy="look at the domain and its log at the destination",
        migration_id=migration_id,
        guest=GuestLocation.NOWHERE,
    )
