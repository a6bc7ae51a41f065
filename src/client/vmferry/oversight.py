"""What an operator asks a daemon, and tells it, when something went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from vmferry import oversight_wire, wire
from vmferry.api.v1 import oversight_pb2, oversight_pb2_grpc
from vmferry.client import Connection
from vmferry.errors import FateUnknown, VmferryError
from vmferry.evidence import HostEvidence, RecordEvidence
from vmferry.model import Keep, MigrationId
from vmferry.whereabouts import Look

Connect = Callable[[str], AbstractAsyncContextManager[Connection]]
"""Opens a connection to the daemon at a URI; see `vmferry.client.connect`."""

AT_ONCE = 16
"""How many hosts are asked at the same time."""


@dataclass(frozen=True, slots=True)
class Order:
    """A decision about a migration in doubt.

    `fenced`: the other host cannot run its copy, now or later. `although_peer_answers`: decide although it can be asked, if
    what it answers settles nothing. `who` and `why` are kept in the journal.
    """

    domain: str
    keep: Keep
    migration_id: MigrationId | None = None
    fenced: bool = False
    although_peer_answers: bool = False
    who: str = ""
    why: str = ""


class Oversight:
    """An operator's calls to the daemon of `connection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = oversight_pb2_grpc.OversightServiceStub(connection.channel)

    async def examine(self, domain: str) -> HostEvidence:
        """All that the host can see of the domain, by its name or UUID. Changes nothing; safe at any time.

        Raises:
            PeerUnreachable: nobody answered.
        """
        request = oversight_pb2.ExamineRequest(domain=domain)
        return oversight_wire.evidence_from_wire(
            await self._connection.ask(self._stub.Examine(request, timeout=self._connection.bounds.call_s))
        )

    async def resolve(self, order: Order) -> RecordEvidence:
        """The decision is in the host's journal, and was acted upon; the record says what holds there now.

        Raises:
            InvalidState: there is nothing to decide, the other host is not fenced, or it can still be asked.
            MigrationNotFound: the named migration is not in doubt there.
            StorageFailed: nothing was decided.
            FateUnknown: the reply was lost; examine the host.
        """
        request = oversight_pb2.ResolveRequest(
            domain=order.domain,
            migration_id=order.migration_id or "",
            keep=wire.enum_to_wire(order.keep),
            fenced=order.fenced,
            although_peer_answers=order.although_peer_answers,
            who=order.who,
            why=order.why,
        )
        reply = await self._connection.ask(self._stub.Resolve(request, timeout=self._connection.bounds.call_s), FateUnknown)
        return oversight_wire.record_from_wire(reply.record)


async def looked(connect: Connect, uri: str, domain: str, timeout_s: float) -> Look:
    """What the host at `uri` sees of the domain, or why it could not be asked within `timeout_s`; never an error."""
    try:
        async with asyncio.timeout(timeout_s), connect(uri) as connection:
            return Look(uri, await Oversight(connection).examine(domain))
    except VmferryError as error:
        return Look(uri, error=f"{error.message}: {error.detail}" if error.detail else error.message)
    except TimeoutError:
        return Look(uri, error=f"no answer within {timeout_s:g} s")


async def looks(connect: Connect, uris: Sequence[str], domain: str, timeout_s: float) -> list[Look]:
    """What each host sees, in the order of `uris`; all are asked at once, some `AT_ONCE` at a time."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(uri: str) -> Look:
        async with turn:
            return await looked(connect, uri, domain, timeout_s)

    return list(await asyncio.gather(*map(one, uris)))


def peers_of(asked: Sequence[Look]) -> list[str]:
    """The hosts that the journals name and that were not asked yet, in order."""
    named = [record.peer_uri for look in asked if look.evidence for record in look.evidence.records if record.peer_uri]
    known = {look.uri for look in asked}
    return [uri for uri in dict.fromkeys(named) if uri not in known]
