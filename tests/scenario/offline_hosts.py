"""Two hosts whose domain does not run, with disks that are files; and what must hold when it has been moved."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from scenario.by_hand import ByHand
from support.daemons import IMPATIENT, NAME, Host, TwoHosts, domain_xml
from support.waiting import eventually
from vmferry.endpoint import Request
from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferry.migrate import Migrated
from vmferry.model import DestinationState, MigrationId, Phase, Verdict, new_migration_id
from vmferry.params import MigrationParams

OFFLINE = Flag.OFFLINE | Flag.PERSIST_DEST
MOVED = OFFLINE | Flag.UNDEFINE_SOURCE
COPIED = MOVED | Flag.NON_SHARED_DISK
HOLE = 3 << 20
CONTENT = b"boot" * 5000 + bytes(HOLE) + b"data" * 400_000 + bytes(HOLE)


def disk(path: Path, target: str = "vda", kind: str = "raw", more: str = "") -> str:
    """A disk that is a file."""
    return f"""<disk type='file' device='disk'><driver name='qemu' type='{kind}'/>
<source file='{path}'/><target dev='{target}' bus='virtio'/>{more}</disk>"""


def with_disks(*disks: str) -> str:
    """The domain with these disks."""
    return domain_xml().replace("</domain>", f"<devices>{''.join(disks)}</devices></domain>")


def sparse(path: Path, content: bytes = CONTENT) -> None:
    """A file with that content, in which zeroes take no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(len(content))
        for at in range(0, len(content), 4096):
            if any(content[at : at + 4096]):
                file.seek(at)
                file.write(content[at : at + 4096])


@dataclass
class OfflineHosts:
    """The two hosts, and the folders `a` and `b` that stand for their disks."""

    hosts: TwoHosts
    directory: Path
    here: Path = field(init=False)
    there: Path = field(init=False)

    def __post_init__(self) -> None:
        self.here, self.there = self.directory / "a-images", self.directory / "b-images"
        for folder in (self.here, self.there):
            folder.mkdir()

    @property
    def source(self) -> Host:
        """Where the domain is defined."""
        return self.hosts.source

    @property
    def destination(self) -> Host:
        """Where it goes."""
        return self.hosts.destination

    async def with_image(self, content: bytes = CONTENT) -> MigrationParams:
        """The domain has one image; the parameters give it another path at the destination."""
        sparse(self.here / "a.img", content)
        await self.source.connection.define(with_disks(disk(self.here / "a.img")))
        return MigrationParams(destination_xml=with_disks(disk(self.there / "a.img")))

    async def migrate(
        self, flags: Flag = MOVED, params: MigrationParams | None = None, migration_id: MigrationId | None = None
    ) -> Migrated:
        """The domain has been moved."""
        return await self.hosts.migrate(flags, params, migration_id=migration_id, patience=IMPATIENT)

    def by_hand(self, flags: Flag = MOVED, params: MigrationParams | None = None) -> OfflineByHand:
        """A migration walked by hand."""
        return OfflineByHand(self.hosts, flags=flags, params=params or MigrationParams())

    async def names(self, host: Host) -> list[str]:
        """The domains that are defined on `host` and held by nobody."""
        return [domain.name for domain in await host.connection.domains() if domain.migration_id is None]

    async def is_committed(self) -> bool:
        """The destination has decided that the definition lives there."""
        return [DestinationState.COMMITTED] == [job.state for job in await self.destination.connection.jobs()]

    async def only_on(self, host: Host) -> None:
        """The domain is on that host alone, held by nobody, with its image if it had one, and nothing else is left."""
        other = self.destination if host is self.source else self.source

        async def settled() -> bool:
            return (await self.names(host), await self.names(other)) == ([NAME], []) and not await self._under_way()

        try:
            await eventually(settled, timeout_s=30.0)
        except AssertionError:
            seen = [(each.name, await each.connection.domains(), await each.connection.jobs()) for each in self.hosts.hosts]
            raise AssertionError(f"the domain is not on {host.name} alone: {seen}") from None
        arrived = [path.name for path in sorted(self.there.iterdir())]
        had_image = (self.here / "a.img").exists()
        assert (["a.img"] if host is self.destination and had_image else []) == arrived

    async def _under_way(self) -> list[str]:
        """The jobs that have not ended."""
        return [job.state for host in self.hosts.hosts for job in await host.connection.jobs() if job.ended_s is None]

    async def alone_somewhere(self) -> Host:
        """The one host that has the domain."""
        found: list[Host] = []

        async def settled() -> bool:
            found[:] = [host for host in self.hosts.hosts if await self.names(host) == [NAME]]
            held = [await host.connection.domains() for host in self.hosts.hosts]
            return len(found) == 1 and sum(map(len, held)) == 1 and not await self._under_way()

        await eventually(settled, timeout_s=30.0)
        await self.only_on(found[0])
        return found[0]


@dataclass
class OfflineByHand(ByHand):
    """The phases of an offline migration; Perform is one of them only where disks are copied."""

    params: MigrationParams = field(default_factory=MigrationParams)
    migration_id: MigrationId = field(default_factory=new_migration_id)

    @property
    def phases(self) -> list[Phase]:
        """In their order."""
        copies = self.flags & (Flag.NON_SHARED_DISK | Flag.NON_SHARED_INC)
        return [phase for phase in Phase if phase is not Phase.PERFORM or copies]

    def request(self, cookie: Phase | None = None, verdict: Verdict = Verdict.COMMIT) -> Request:
        """What is asked of a phase."""
        return replace(super().request(cookie, verdict), params=self.params)

    async def up_to(self, last: Phase) -> OfflineByHand:  # type: ignore[override]
        """Every phase up to `last` has run."""
        for phase in self.phases:
            await getattr(self, phase.value)()
            if phase is last:
                break
        return self


async def outcome_of(task: asyncio.Task[object]) -> VmferryError | None:
    """The error that the task ended with, if any."""
    await asyncio.wait([task])
    error = task.exception()
    assert error is None or isinstance(error, VmferryError)
    return error
