"""One run: two hosts, a client, the faults of a plan, and the report that the oracle judges."""

from __future__ import annotations

import asyncio
import functools
import itertools
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from simulation.host import Ground, Host
from simulation.loop import Life, Process, VirtualLoop
from simulation.network import Mishap, Network
from simulation.plan import FIT_FOR_MOMENTS, MOMENTS, Attempt, Fault, Plan, What, When
from simulation.rpc import Faces
from vmferry import client
from vmferry.client import Connection
from vmferry.errors import VmferryError
from vmferry.migrate import Migrated, Patience
from vmferry.model import DomainInfo, MigrationId
from vmferry.protocol import ProtocolVersion, Spelling
from vmferryd.drivers.memory import ExecutionLog, FaultKind, SimulatedGuest
from vmferryd.drivers.memory.faults import Verb

NAME = "web"
UUID = str(uuid.UUID(int=7))
ATTEMPT_S = 400.0
"""So long the client may take for one attempt, kills and restarts included."""
SETTLE_S = 300.0
"""So long the hosts may take to be of one mind when nothing goes wrong any more."""
LOOK_S = 1.0


@dataclass(slots=True)
class Report:
    """What the client was told of one migration."""

    migration_id: MigrationId
    attempt: Attempt
    told: Migrated | VmferryError | None = None


@dataclass(slots=True)
class Facts:
    """What happened, for the oracle."""

    reports: list[Report] = field(default_factory=list)
    fired: list[str] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)
    """Guests, by their names, whose hypervisors were killed, crashed or destroyed by someone from outside."""
    run_state_known: bool = True
    stored_known: bool = True
    destroyed: bool = False
    seen: Counter[str] = field(default_factory=Counter)


class World:
    """Everything of one run but its judgement."""

    def __init__(self, plan: Plan, loop: VirtualLoop, directory: Path) -> None:
        self.plan = plan
        self.loop = loop
        self.log = ExecutionLog()
        self.facts = Facts()
        rng = Random(f"world {plan.seed}")
        self.rng = rng
        self.network = Network(loop, rng)
        self.faces = Faces(self.network)
        self.network.called = self._called
        self.a, self.b = (
            Host(name, number, Ground(loop, self.network, self.log, directory, rng), announced)
            for number, (name, announced) in enumerate(zip("ab", plan.announced, strict=True), 1)
        )
        self.client: Process | None = None
        self._client_died: asyncio.Future[None] = loop.create_future()
        self._armed: dict[When, dict[int, list[Fault]]] = {}
        self._verbs = {self.a: 0, self.b: 0}
        self._ids = itertools.count(1)
        self._attempt_number = -1
        for host, when_write, when_verb in ((self.a, When.WRITE_A, When.VERB_A), (self.b, When.WRITE_B, When.VERB_B)):
            host.disk.written = lambda _, when=when_write: self._passed(when)
            host.on_verb(lambda verb, _, when=when_verb: self._verb(when, verb))
        self._counts: Counter[When] = Counter()

    @property
    def hosts(self) -> tuple[Host, Host]:
        """Both."""
        return self.a, self.b

    # -- the run ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything of the plan has happened, and the hosts had time to settle."""
        await self.begin()
        for number, attempt in enumerate(self.plan.attempts):
            self._arm(number)
            await self._attempt(attempt)
        self._arm(-1)
        self.heal()

    async def begin(self) -> None:
        """Both daemons serve, and the guest runs at a."""
        for host in self.hosts:
            host.start()
        await self.until(lambda: all(host.daemon for host in self.hosts), 30.0)
        for host in self.hosts[: 1 + self.plan.defined_at_b]:
            await self.asked(host, lambda connection: connection.define(self._xml()))
        await self.asked(self.a, lambda connection: connection.start(NAME))

    def _xml(self) -> str:
        rate = self.plan.dirty_pages_per_s
        return f"""<domain type='test'><name>{NAME}</name><uuid>{UUID}</uuid><memory unit='KiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<metadata><vmferry:test xmlns:vmferry='urn:vmferry:test:1' dirty-rate-pages-per-s='{rate}'/></metadata></domain>"""

    async def _attempt(self, attempt: Attempt) -> None:
        """The client has tried once, or was killed, and its successor looked what became of it."""
        if attempt.suspended_before:
            self.facts.run_state_known = False
            for host in self.hosts:
                with suppress(VmferryError):
                    await self.asked(host, lambda connection: connection.suspend(NAME))
        self.client = self.loop.process("client", "client")
        task = self.client.spawn(self._migrate(attempt))
        self._client_died = self.loop.create_future()
        await asyncio.wait((task, self._client_died), timeout=ATTEMPT_S, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
        if not task.done() and not self.client_dead:
            self.loop.failures.append(f"the client has had no answer after {ATTEMPT_S} s")
        self._end_client()
        await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.5, 5.0, 70.0)))

    @property
    def client_dead(self) -> bool:
        """The client was killed."""
        return self.client is not None and self.client.life is Life.DEAD

    def _end_client(self) -> None:
        if self.client is not None and self.client.life is not Life.DEAD:
            self.client.kill()
            self.network.died(self.client)
            self._client_died.set_result(None)

    async def _migrate(self, attempt: Attempt) -> None:
        source, destination = await self._whereabouts()
        report = Report(MigrationId(str(uuid.UUID(int=1_000 + next(self._ids)))), attempt)
        self.facts.reports.append(report)
        try:
            report.told = await self._migrated(attempt, report.migration_id, source, destination)
        except VmferryError as error:
            report.told = error
            self.facts.seen[type(error).__name__] += 1
        else:
            self.facts.seen["Migrated"] += 1

    async def _migrated(self, attempt: Attempt, migration_id: MigrationId, source: Host, destination: Host) -> Migrated:
        following = client.Attempt(migration_id=migration_id, patience=Patience(total_s=attempt.patience_s))
        here, there = self.connection(source, attempt.spelling), self.connection(destination, attempt.spelling)
        if attempt.peer_to_peer:
            uri = str(destination.config.reached_at)
            return await here.migrate_to_uri(NAME, uri, flags=attempt.flags, attempt=following)
        return await here.migrate(NAME, there, flags=attempt.flags, attempt=following)

    async def _whereabouts(self) -> tuple[Host, Host]:
        """Where the guest seems to be, and the other host; a client that cannot find out tries from a."""
        for host in self.hosts:
            with suppress(VmferryError):
                domain = await self.connection(host).domain(NAME)
                if domain.state.active and domain.migration_id is None:
                    return host, self.a if host is self.b else self.b
        return self.a, self.b

    def connection(self, host: Host, spelling: Spelling = Spelling.PARAMS) -> Connection:
        """A connection of the process that runs now."""
        uri = host.config.reached_at
        return Connection(uri, self.faces.dial(uri), version=ProtocolVersion.V3, spelling=spelling)

    async def asked(self, host: Host, call: Callable[[Connection], Awaitable[object]]) -> object:
        """What `host` answers to a user, who waits a while and never longer."""
        user = self.loop.process("user", "client")

        async def ask() -> object:
            connection = self.connection(host)
            try:
                return await call(connection)
            finally:
                await connection.channel.close()

        try:
            return await user.spawn(ask())
        finally:
            user.kill()
            self.network.died(user)

    async def until(self, holds: Callable[[], object], bound_s: float) -> None:
        """It holds.

        Raises:
            AssertionError: not within the bound.
        """
        end_s = self.loop.time() + bound_s
        while not holds():
            if self.loop.time() > end_s:
                raise AssertionError(f"not within {bound_s} s")
            await asyncio.sleep(0.05 if end_s - self.loop.time() > bound_s - 5.0 else LOOK_S)

    # -- when -------------------------------------------------------------------------------------------------------

    def _arm(self, attempt: int) -> None:
        """The faults of that attempt wait for their moments; those of the attempt before do not wait any more."""
        self._counts.clear()
        self._armed = {}
        for fault in self.plan.faults:
            if fault.attempt == attempt:
                self._armed.setdefault(fault.when, {}).setdefault(fault.number, []).append(fault)
        for number, faults in self._armed.get(When.STEP, {}).items():
            for fault in faults:
                self.loop.before_step(self.loop.steps + number, functools.partial(self._step, attempt, fault))
        self._attempt_number = attempt

    def _step(self, attempt: int, fault: Fault) -> None:
        if attempt == self._attempt_number:
            self._fire(fault)

    def _passed(self, when: When) -> list[Fault]:
        """One more of `when`; what was due then happens before anybody else does anything."""
        self._counts[when] += 1
        due = self._armed.get(when, {}).get(self._counts[when], [])
        for fault in due:
            if fault.what not in (What.MISHAP, What.VERB):
                self.loop.soon.append(lambda fault=fault: self._fire(fault))
        return due

    def _called(self, _: int, method: str) -> tuple[Mishap, float] | None:
        mishap = None
        for fault in self._passed(When.CALL):
            if fault.what is What.MISHAP:
                self._told(fault, method.rpartition("/")[2])
                mishap = (Mishap(fault.detail), fault.length_s)
        return mishap

    def _verb(self, when: When, verb: Verb) -> FaultKind | None:
        for fault in self._passed(when):
            if fault.what is not What.VERB:
                continue
            kind = FaultKind(fault.detail)
            if verb in MOMENTS and kind not in FIT_FOR_MOMENTS:
                continue
            host = self.a if when is When.VERB_A else self.b
            self._told(fault, verb)
            if kind is FaultKind.FAIL_IO:
                self.facts.run_state_known = False
            if kind in (FaultKind.KILL_BEFORE, FaultKind.KILL_AFTER):
                self._doom(host)
            if kind is FaultKind.HANG:
                self.network.later(fault.length_s, host.machine.faults.release)
            return kind
        return None

    def _told(self, fault: Fault, where: str = "") -> None:
        self.facts.fired.append(f"at {self.loop.time() - 1000:.3f} s, step {self.loop.steps}: {fault} {where}".rstrip())
        self.loop.note(len(self.facts.fired))
        number = next(number for number, other in enumerate(self.plan.faults, 1) if other is fault)
        for follower in self.plan.faults[number : number + 1]:
            if follower.when is When.AFTER:
                happens = functools.partial(self._step, self._attempt_number, follower)
                self.loop.before_step(self.loop.steps + follower.number, happens)

    def _doom(self, host: Host) -> None:
        self.facts.killed |= {name for name, guest in host.machine.guests.items() if guest.domain_uuid == UUID}

    # -- what -------------------------------------------------------------------------------------------------------

    def _fire(self, fault: Fault) -> None:
        self._told(fault)
        what, length_s = fault.what, fault.length_s
        host = self.b if what.value.endswith("-b") else self.a
        match what:
            case What.KILL_CLIENT:
                self._end_client()
            case What.KILL_A | What.KILL_B:
                host.kill()
                self.network.later(length_s, host.start)
            case What.STOP_A | What.STOP_B:
                host.stop()
                self.network.later(length_s, host.start)
            case What.FREEZE_A | What.FREEZE_B:
                host.freeze()
                process = host.process
                self.network.later(length_s, lambda: host.thaw() if host.process is process else None)
            case What.FREEZE_CLIENT:
                self._freeze_client(length_s)
            case What.FULL_A | What.FULL_B:
                host.disk.full = True
                self.network.later(length_s, lambda: setattr(host.disk, "full", False))
            case What.BREAK_A | What.BREAK_B:
                host.disk.breaks += 1
            case What.KILL_GUEST_A | What.KILL_GUEST_B:
                self._doom(host)
                host.machine.kill(UUID)
            case _ if what in _WAYS:
                self.network.cut(_WAYS[what])
                self.network.later(length_s, lambda: self.network.heal(_WAYS[what]))
            case _:
                self._user(fault)

    def _freeze_client(self, length_s: float) -> None:
        client = self.client
        if client is not None:
            client.freeze()
            self.network.froze(client)

            def thaw() -> None:
                client.thaw()
                self.network.look_again()

            self.network.later(length_s, thaw)

    def _user(self, fault: Fault) -> None:
        host = self.a if fault.detail == "a" else self.b
        report = self.facts.reports[-1] if self.facts.reports else None
        calls: dict[What, Callable[[Connection], Awaitable[object]]] = {
            What.SUSPEND: lambda connection: connection.suspend(NAME),
            What.RESUME: lambda connection: connection.resume(NAME),
            What.DESTROY: lambda connection: connection.destroy(NAME),
            What.DEFINE: lambda connection: connection.define(self._xml()),
            What.UNDEFINE: lambda connection: connection.undefine(NAME),
            What.ABORT: lambda connection: connection.abort_job(report.migration_id if report else MigrationId("")),
        }
        if fault.what in (What.SUSPEND, What.RESUME):
            self.facts.run_state_known = False
        if fault.what in (What.DEFINE, What.UNDEFINE):
            self.facts.stored_known = False
        if fault.what is What.DESTROY:
            self.facts.destroyed = True

        async def ask() -> None:
            with suppress(VmferryError):
                await self.asked(host, calls[fault.what])

        self.loop.world.spawn(ask(), f"user: {fault.what}")

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        for host in self.hosts:
            host.machine.faults.choose = None
            host.machine.faults.release()
            host.disk.full, host.disk.breaks = False, 0
            host.thaw()
            host.start()
        for ways in _WAYS.values():
            self.network.heal(ways)

    # -- looking ----------------------------------------------------------------------------------------------------

    def guests(self) -> list[tuple[Host, SimulatedGuest]]:
        """Every copy that exists."""
        return [(host, guest) for host in self.hosts for guest in host.machine.of_domain(UUID)]

    def entry(self, host: Host) -> DomainInfo | None:
        """What the daemon at `host` knows of the domain."""
        assert host.daemon is not None
        found = host.daemon.context.domains.by_uuid(UUID)
        return found.info() if found is not None and found.exists() else None


_WAYS = {
    What.CUT_AB: (("a", "b"), ("b", "a")),
    What.CUT_A_TO_B: (("a", "b"),),
    What.CUT_B_TO_A: (("b", "a"),),
    What.CUT_CLIENT_A: (("client", "a"), ("a", "client")),
    What.CUT_CLIENT_B: (("client", "b"), ("b", "client")),
    What.CUT_CLIENT: (("client", "a"), ("a", "client"), ("client", "b"), ("b", "client")),
}

__all__ = ["NAME", "SETTLE_S", "UUID", "Facts", "Report", "World"]
