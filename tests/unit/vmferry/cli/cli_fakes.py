"""Two daemons without a network, and a way to run the program against them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from click.testing import CliRunner, Result

from vmferry.channel import parse_uri
from vmferry.cli.__main__ import main
from vmferry.client import Connection
from vmferry.endpoint import ProgressListener, Reply, Request
from vmferry.errors import DomainNotFound, MigrationCancelled, MigrationNotFound, PeerUnreachable, VmferryError
from vmferry.in_effect import InEffect
from vmferry.model import (
    DomainEvent,
    DomainInfo,
    DomainState,
    DriverInfo,
    GuestLocation,
    HostCapabilities,
    HostInfo,
    JobChangeKind,
    JobEvent,
    JobInfo,
    JobOperation,
    JobType,
    MigrationId,
    Outcome,
    Phase,
    Progress,
    Side,
    StateReason,
    Statistics,
    Verdict,
)
from vmferry.statistics import JobStats, stats

MIB = 1 << 20
ID = MigrationId("0b5a2f6e-6f0c-4a43-9d53-0c39c6b1a7d2")
SOURCE = "vmferry+tcp://host-a:16533"
DESTINATION = "vmferry+tcp://host-b:16533"

WEB = DomainInfo(
    uuid="f3b1c0de-0000-4000-8000-000000000001",
    name="web",
    domain_type="test",
    state=DomainState.RUNNING,
    reason=StateReason.BOOTED,
    persistent=True,
    memory_bytes=1024 * MIB,
    vcpus=2,
    id=7,
)
DB = replace(WEB, name="db", uuid="f3b1c0de-0000-4000-8000-000000000002", state=DomainState.SHUTOFF, id=None)

JOB = JobInfo(
    migration_id=ID,
    side=Side.SOURCE,
    operation=JobOperation.MIGRATION_OUT,
    type=JobType.COMPLETED,
    domain_name="web",
    domain_uuid=WEB.uuid,
    state="confirmed",
    phase=Phase.CONFIRM,
    started_s=1_700_000_000.0,
    ended_s=1_700_000_008.5,
    data_channel="tunnel to vmferry+tcp://host-b:16533",
    warnings=("the guest goes slower than it could",),
    statistics=Statistics(elapsed_ms=8400, memory_total_bytes=1024 * MIB, memory_processed_bytes=1200 * MIB),
)

RUNNING = replace(JOB, type=JobType.UNBOUNDED, phase=Phase.PERFORM, state="performing", ended_s=None)


def snapshot(iteration: int, left_mib: int, sent_mib: int, **more: int) -> Statistics:
    """A moment of the transfer of a guest of 1 GiB at 100 MiB/s."""
    figures = Statistics(
        memory_total_bytes=1024 * MIB,
        memory_remaining_bytes=left_mib * MIB,
        memory_processed_bytes=sent_mib * MIB,
        memory_iteration=iteration,
        memory_bytes_per_s=100 * MIB,
        memory_page_size_bytes=4096,
        expected_downtime_ms=300,
    )
    return replace(figures, **more)


class FakeDaemon(Connection):
    """A daemon in memory. `fails` maps the name of a call to what it raises; `calls` has the names of all."""

    def __init__(self, uri: str, host: str) -> None:
        self.uri = parse_uri(uri)
        self.host = host
        self.known = {WEB.name: WEB, DB.name: DB}
        self.calls: list[str] = []
        self.requests: dict[str, Request] = {}
        self.fails: dict[str, VmferryError] = {}
        self.script: tuple[Statistics, ...] = (snapshot(1, 1000, 20), snapshot(1, 100, 800), snapshot(2, 8, 905))
        self.during_perform: Callable[[], None] = lambda: None
        self.holds_perform = False
        self.begin_waits = False
        self.abort_outcome = Outcome.ABORTED
        self.aborted = asyncio.Event()
        self.changes: tuple[JobInfo, ...] = (JOB,)
        self.running: JobInfo | None = None
        self.newest = RUNNING
        self.events: tuple[DomainEvent, ...] = ()
        self.features: tuple[int, ...] = (4, 5, 6, 13, 99)
        self.receiver_words = ["qemu"]
        self.asked_receiver: tuple[object, ...] = ()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise self.fails[name]

    def _domain(self, name: str) -> DomainInfo:
        if name not in self.known:
            raise DomainNotFound(f"no domain {name!r}", host=self.host)
        return self.known[name]

    async def version(self) -> HostInfo:
        self._called("version")
        return HostInfo(version="0.1.0", host_name=self.host, host_uuid="uuid-of-" + self.host)

    async def capabilities(self) -> HostCapabilities:
        self._called("capabilities")
        works = DriverInfo("memory", "1", ("test",), features=("precopy",), machines=("pc-2.10", "pc-2.9", "q35"))
        broken = DriverInfo(name="qemu", unavailable="no qemu-system-x86_64")
        return HostCapabilities(drivers=(works, broken), features=self.features)

    async def define(self, xml: str) -> DomainInfo:
        self._called(f"define {xml}")
        return DB

    async def undefine(self, domain: str) -> None:
        self._called(f"undefine {domain}")

    async def start(self, domain: str) -> DomainInfo:
        self._called(f"start {domain}")
        return WEB

    async def start_paused(self, domain: str) -> DomainInfo:
        self._called(f"start_paused {domain}")
        return replace(WEB, state=DomainState.PAUSED)

    async def shutdown(self, domain: str) -> None:
        self._called(f"shutdown {domain}")

    async def destroy(self, domain: str) -> None:
        self._called(f"destroy {domain}")

    async def suspend(self, domain: str) -> None:
        self._called(f"suspend {domain}")

    async def resume(self, domain: str) -> None:
        self._called(f"resume {domain}")

    async def domains(self, *states: DomainState) -> list[DomainInfo]:
        self._called("domains")
        return [domain for domain in self.known.values() if not states or domain.state in states]

    async def domain(self, name: str) -> DomainInfo:
        self._called("domain")
        return self._domain(name)

    async def devices(self, name: str) -> Mapping[str, str]:
        self._called("devices")
        return {"serial0": "/dev/pts/4", "vnc": "127.0.0.1:5901"}

    async def xml(self, domain: str) -> str:
        self._called("xml")
        return f"<domain><name>{domain}</name></domain>\n"

    async def receiver(self, domain: str, uri: str, *, xml: str = "", directory: str = "") -> list[str]:
        self._called("receiver")
        self.asked_receiver = (domain, uri, xml, directory)
        return self.receiver_words

    async def receiver_paused(self, domain: str, uri: str, *, xml: str = "", directory: str = "") -> list[str]:
        self._called("receiver_paused")
        self.asked_receiver = (domain, uri, xml, directory)
        return self.receiver_words

    async def stored_xml(self, domain: str) -> str:
        self._called("stored_xml")
        return f"<domain><!-- stored --><name>{domain}</name></domain>"

    async def job(self, migration_id: MigrationId) -> JobInfo:
        self._called(f"job {migration_id}")
        if migration_id != ID:
            raise MigrationNotFound("no such migration")
        return self.changes[0]

    async def newest_job(self, domain: str) -> JobInfo:
        self._called(f"newest_job {domain}")
        if domain not in (JOB.domain_name, JOB.domain_uuid):
            raise MigrationNotFound(f"no migration of {domain}")
        return self.newest

    async def jobs(self, domain: str = "", *, limit: int = 0) -> list[JobInfo]:
        self._called(f"jobs {domain} {limit}" if domain else "jobs")
        return [JOB]

    async def job_stats(self, domain: str) -> JobStats:
        self._called(f"job_stats {domain}")
        return stats(self.running)

    async def completed_stats(self, domain: str) -> JobStats:
        self._called(f"completed_stats {domain}")
        return stats(self.changes[0])

    async def kept_stats(self, domain: str) -> JobStats:
        self._called(f"kept_stats {domain}")
        return stats(self.changes[0])

    async def watch(self, migration_id: MigrationId, *, after: int = 0) -> AsyncIterator[JobEvent]:
        self._called(f"watch {migration_id}")
        for number, change in enumerate(self.changes, after + 1):
            yield JobEvent(number, JobChangeKind.STATE, 1_700_000_000.0, change)

    async def watch_jobs(self, *, after: int = 0) -> AsyncIterator[JobEvent]:
        self._called("watch_jobs")
        async for event in self.watch(ID, after=after):
            yield event

    async def set_max_downtime(self, domain: str, downtime_ms: int) -> None:
        self._called(f"set_max_downtime {domain} {downtime_ms}")

    async def max_downtime_ms(self, domain: str) -> int:
        self._called(f"max_downtime_ms {domain}")
        return 300

    async def set_max_speed(self, domain: str, mib_per_s: int) -> None:
        self._called(f"set_max_speed {domain} {mib_per_s}")

    async def set_max_postcopy_speed(self, domain: str, mib_per_s: int) -> None:
        self._called(f"set_max_postcopy_speed {domain} {mib_per_s}")

    async def start_postcopy(self, domain: str) -> None:
        self._called(f"start_postcopy {domain}")

    async def pause_postcopy(self, migration_id: MigrationId) -> Outcome:
        self._called("pause_postcopy")
        return Outcome.POSTCOPY

    async def max_speed_mib_per_s(self, domain: str) -> int:
        self._called(f"max_speed_mib_per_s {domain}")
        return 8796093022207

    async def max_postcopy_speed_mib_per_s(self, domain: str) -> int:
        self._called(f"max_postcopy_speed_mib_per_s {domain}")
        return 5

    async def tune_migration(self, domain: str, **changes: int | None) -> InEffect:
        given = ", ".join(f"{name}={value}" for name, value in changes.items() if value is not None)
        self._called(f"tune_migration {domain} {given}".strip())
        return InEffect(300, 7, 8_796_093_022_207, None, 64 << 20, 20, changes["auto_converge_increment_percent"] or 10)

    async def set_compression_cache(self, domain: str, cache_bytes: int) -> None:
        self._called(f"set_compression_cache {domain} {cache_bytes}")

    async def compression_cache_bytes(self, domain: str) -> int:
        self._called(f"compression_cache_bytes {domain}")
        return 64 * MIB

    async def ask_job_to_end(self, migration_id: MigrationId) -> Outcome:
        self._called("ask_job_to_end")
        return Outcome.PENDING

    async def abort_job(self, migration_id: MigrationId) -> Outcome:
        self._called("abort_job")
        if self.begin_waits and self.calls.count("abort_job") == 1:
            self.aborted.set()
            raise MigrationNotFound("no such migration")
        self.aborted.set()
        return self.abort_outcome

    # -- the endpoint of the engine; the walk itself is the real one ------------------------------------------------------

    async def begin(self, request: Request) -> Reply:
        self._phase("begin", request)
        if self.begin_waits:
            await self.aborted.wait()
            self.aborted.clear()
        return Reply(request.migration_id, domain_xml="<domain/>")

    async def prepare(self, request: Request) -> Reply:
        self._phase("prepare", request)
        return Reply(request.migration_id, uri="tcp:host-b:49152")

    async def watch_domains(self) -> AsyncIterator[DomainEvent]:
        self._called("watch_domains")
        for event in self.events:
            yield event

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        self._phase("perform", request)
        if request.destination_daemon_uri:
            for phase in (Phase.BEGIN, Phase.PREPARE):
                listener(Progress(request.migration_id, phase, "getting ready"))
        for figures in self.script:
            listener(Progress(request.migration_id, Phase.PERFORM, "sending memory", figures))
        self.during_perform()
        if self.holds_perform:
            await self.aborted.wait()
            raise MigrationCancelled("the user ended the migration", guest=GuestLocation.SOURCE, host=self.host)
        figures = replace(self.script[-1], elapsed_ms=8000, downtime_ms=187)
        if request.destination_daemon_uri:
            return Reply(request.migration_id, statistics=figures, domain=WEB, warnings=("the source was slow",))
        return Reply(request.migration_id, statistics=figures)

    async def finish(self, request: Request) -> Reply:
        self._phase("finish", request)
        if request.verdict is Verdict.ROLL_BACK:
            return Reply(request.migration_id, outcome=Outcome.ABORTED)
        figures = Statistics(guest_pause_ms=212)
        return Reply(request.migration_id, outcome=Outcome.COMMITTED, domain=WEB, statistics=figures)

    async def confirm(self, request: Request) -> Reply:
        self._phase("confirm", request)
        outcome = Outcome.ABORTED if request.verdict is Verdict.ROLL_BACK else Outcome.COMMITTED
        return Reply(request.migration_id, outcome=outcome)

    async def abort(self, migration_id: MigrationId, why: str) -> Outcome:
        self._called("abort")
        return Outcome.ABORTED

    def _phase(self, name: str, request: Request) -> None:
        self.requests[name] = request
        self._called(name)


class Hosts:
    """Two hosts, and the program run against them."""

    def __init__(self) -> None:
        self.source = FakeDaemon(SOURCE, "host-a")
        self.destination = FakeDaemon(DESTINATION, "host-b")

    @asynccontextmanager
    async def connect(self, uri: str) -> AsyncIterator[Connection]:
        """The daemon at `uri`, or nobody."""
        known = {str(daemon.uri): daemon for daemon in (self.source, self.destination)}
        if uri not in known:
            raise PeerUnreachable(f"no answer from {uri}", remedy="check that vmferryd runs there")
        yield known[uri]

    def run(self, *arguments: str, given: str | bytes | None = None) -> Result:
        """The program's answer."""
        return CliRunner().invoke(main, ["-c", SOURCE, *arguments], obj=self.connect, input=given)
