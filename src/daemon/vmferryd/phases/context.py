"""What both sides' phases need of the daemon around them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from vmferry.errors import VmferryError
from vmferry.model import MigrationId
from vmferryd.certificates import Certificates
from vmferryd.clock import Clock
from vmferryd.domains.model import DomainDefinition
from vmferryd.domains.registry import Domains
from vmferryd.drivers.base import DriverCapabilities, DriverFeature
from vmferryd.drivers.registry import DriverRegistry
from vmferryd.jobs.board import Board
from vmferryd.jobs.journal import Journal, Record
from vmferryd.limits import Limits
from vmferryd.peers import Peers
from vmferryd.phases.cookie import Cookie, Expected
from vmferryd.transfer.doors import Doors
from vmferryd.transfer.routes import Encryption
from vmferryd.transfer.tunnel import ChannelPair, channel_pair

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this host is.

    `daemon_uri` is where a peer reaches this daemon; `machine` is this boot of this machine; `certificates`, if it has any.
    """

    host_name: str
    host_uuid: str
    daemon_uri: str
    machine: str = ""
    certificates: Certificates | None = None

    @property
    def certificate_ends_s(self) -> float:
        """When the daemon's certificate ends, in seconds since 1970; 0 when it has none."""
        return 0.0 if self.certificates is None else self.certificates.ends_s


@dataclass(slots=True)
class Tasks:
    """The daemon's task group, with a rule: a background task that fails is logged and brings nothing else down."""

    group: asyncio.TaskGroup
    _running: dict[asyncio.Task[None], None] = field(default_factory=dict)

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[None]:
        """`work` runs until it ends or the daemon stops."""
        task = self.group.create_task(_logged(work, name), name=name)
        self._running[task] = None
        task.add_done_callback(lambda ended: self._running.pop(ended, None))
        task.add_done_callback(lambda _: work.close())  # a task that is cancelled at once never began it
        return task

    def promise(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Future[T]:
        """The future of what `work` answers; it runs whoever waits. Await it through `asyncio.shield`."""
        promised: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def keep() -> None:
            try:
                answer = await work
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                promised.set_exception(error)
            except BaseException:
                promised.cancel()
                raise
            else:
                promised.set_result(answer)

        task = self.spawn(keep(), name)
        task.add_done_callback(lambda _: (work.close(), promised.cancel()))
        return promised

    async def end(self) -> None:
        """No task runs. Nothing is rolled back: the journal is enough."""
        while self._running:
            running = tuple(self._running)
            for task in running:
                task.cancel()
            await asyncio.wait(running)


async def once(
    tasks: Tasks,
    opening: dict[MigrationId, asyncio.Future[T]],
    migration_id: MigrationId,
    work: Callable[[], Coroutine[Any, Any, T]],
) -> T:
    """What `work` answers. Whoever asks for the same migration meanwhile joins; whoever leaves does not end it."""
    promised = opening.get(migration_id)
    if promised is None:
        promised = opening[migration_id] = tasks.promise(work(), f"open {migration_id}")
        promised.add_done_callback(lambda _: opening.pop(migration_id, None))
    return await asyncio.shield(promised)


async def _logged(work: Coroutine[Any, Any, object], name: str) -> None:
    try:
        await work
    except VmferryError as error:
        log.warning("task_ended", task=name, reason=error.reason, error=str(error), detail=error.detail)
    except Exception:
        log.exception("task_failed", task=name)


@dataclass(frozen=True, slots=True)
class Context:
    """The daemon, as the phases see it."""

    identity: Identity
    journal: Journal
    domains: Domains
    drivers: DriverRegistry
    peers: Peers
    board: Board
    clock: Clock
    limits: Limits
    tasks: Tasks
    doors: Doors
    channel_pair: ChannelPair = channel_pair

    def cookie(self, record: Record) -> Cookie:
        """A cookie of this host for `record`'s migration, with nothing in it but who sends it, under the source's name."""
        return Cookie(
            migration_id=MigrationId(record.migration_id),
            name=record.original_name or record.domain_name,
            uuid=record.domain_uuid,
            host_name=self.identity.host_name,
            host_uuid=self.identity.host_uuid,
            daemon_uri=self.identity.daemon_uri,
        )

    def expected(self, record: Record) -> Expected:
        """What a cookie for `record`'s migration must say."""
        return Expected(
            migration_id=record.migration_id,
            own_host_uuid=self.identity.host_uuid,
            name=record.original_name or record.domain_name,
            uuid=record.domain_uuid,
        )

    def encryption(self, features: frozenset[DriverFeature]) -> Encryption:
        """The best that a hypervisor with `features` can do here."""
        able = self.doors.certificates is not None and DriverFeature.TLS in features
        return Encryption.TLS if able else Encryption.NONE

    def capabilities(self, definition: DomainDefinition) -> DriverCapabilities:
        """What the driver can that runs such a definition here.

        Raises:
            NotSupported: there is none.
        """
        return self.drivers.capabilities(self.domains.driver(definition).name)
