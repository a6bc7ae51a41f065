"""What must hold after any plan, whatever went wrong in it. Everything that does not is a sentence of the verdict."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from simulation.host import Host
from simulation.network import Answer
from simulation.plan import Attempt
from simulation.world import NAME, SETTLE_S, UUID, Report, World
from vmferry import client
from vmferry.api.v1 import legacy_pb2, migration_pb2
from vmferry.errors import InternalError, VmferryError
from vmferry.flags import Flag
from vmferry.migrate import Migrated, Patience
from vmferry.model import DestinationState, DomainState, GuestLocation, MigrationId, Outcome, Side, SourceState
from vmferry.protocol import Spelling
from vmferryd.drivers.base import RunState
from vmferryd.jobs.journal import Record


@dataclass(frozen=True, slots=True)
class Truth:
    """What the journals say in the end."""

    records: tuple[tuple[str, Record], ...]

    def of(self, migration_id: MigrationId, side: Side) -> list[tuple[str, Record]]:
        """The records of that migration on that side, with their hosts."""
        return [(host, r) for host, r in self.records if (r.migration_id, r.side) == (migration_id, side)]

    def commits(self) -> list[tuple[str, Record]]:
        """Every commit, in the order in which the migrations began."""
        found = [(h, r) for h, r in self.records if r.state is DestinationState.COMMITTED]
        return sorted(found, key=lambda pair: pair[1].started_s)

    def outcome(self, migration_id: MigrationId) -> Outcome:
        """What became of it; a migration that no destination has heard of was not committed."""
        states = [r.state for _, r in self.of(migration_id, Side.DESTINATION)]
        return Outcome.COMMITTED if DestinationState.COMMITTED in states else Outcome.ABORTED


async def judged(world: World) -> list[str]:
    """What is wrong; empty when nothing is. Ends with migrations that nothing disturbs, which must work."""
    verdict: list[str] = []
    await _settled(world, verdict)
    verdict += [finding async for finding in _findings(world)]
    if not verdict:
        verdict += [f"afterwards: {finding}" for finding in await _again(world)]
    if not verdict:
        verdict += await _ended(world)
    return verdict + world.loop.failures


async def _settled(world: World, verdict: list[str]) -> None:
    """Nothing happens any more, and nothing is about to: what is still on its way arrives and is settled too."""
    end_s = world.loop.time() + SETTLE_S
    try:
        while True:
            await world.until(lambda: not any(_unsettled(world)), end_s - world.loop.time())
            await asyncio.sleep(1.0)  # what the last record has started may end, or begin something
            if not any(_unsettled(world)):
                return
    except AssertionError:
        verdict.append(f"not settled within {SETTLE_S:g} s: " + "; ".join(_unsettled(world)))


def _unsettled(world: World) -> Iterator[str]:
    if world.network.waiting:
        yield f"{world.network.waiting} messages wait for a way that is cut"
    if world.network.under_way:
        yield f"{world.network.under_way} messages are on their way"
    for host in world.hosts:
        if host.daemon is None:
            yield f"{host.name} has no daemon ({host.failed_starts[-1:]})"
            continue
        entry = world.entry(host)
        if entry is not None and entry.migration_id is not None:
            yield f"{host.name}: the domain is held by {entry.migration_id} ({entry.state}, {entry.reason})"
        unfinished = (
            ("source", host.daemon.source.migrations.unfinished),
            ("destination", host.daemon.destination._migrations),
        )
        for side, migrations in unfinished:
            for migration in migrations.values():
                yield f"{host.name}: {side} of {migration.record.migration_id} is {migration.state}"
        if tasks := [name for name in _task_names(host) if not _belongs(name)]:
            yield f"{host.name}: tasks run: {tasks}"


async def _findings(world: World) -> Iterator[str] | None:  # type: ignore[misc]
    if any(host.daemon is None for host in world.hosts):
        return
    truth = await _truth(world)
    for finding in (
        *world.log.findings(),
        *_one_guest(world, truth),
        *_one_mind(truth),
        *_domains(world),
        *_nothing_left(world),
        *_true_words(world, truth),
        *_same_answers(world.network.answers),
    ):
        yield finding


async def _truth(world: World) -> Truth:
    found: list[tuple[str, Record]] = []
    for host in world.hosts:
        assert host.daemon is not None
        found += [(host.name, record) for record in await host.daemon.context.journal.newest(1000)]
    return Truth(tuple(found))


def _one_guest(world: World, truth: Truth) -> Iterator[str]:
    """The copy that the journals name lives, undamaged, and no other one; unless somebody from outside has ended it."""
    expected = "a-1"
    for _, record in truth.commits():
        assert record.plan is not None
        expected = record.plan.facts["guest"]
    living = {guest.plan.facts["guest"]: guest for _, guest in world.guests()}
    for name in living.keys() - {expected}:
        yield f"a copy is left that should not be: {name} is {living[name].run_state}; the guest is {expected}"
    if expected not in living:
        if expected not in world.facts.killed and not world.facts.destroyed:
            yield f"the guest is lost: {expected} does not exist, and nobody has killed it"
        return
    guest = living[expected]
    if damage := guest.memory_damage():
        yield f"pages of {expected} are wrong: {damage[:10]}"
    asked = not world.facts.run_state_known or any(Flag.PAUSED in r.attempt.flags for r in world.facts.reports)
    if not (asked or guest.cpu.running):
        yield f"the guest {expected} stands still ({guest.run_state}), and nobody has asked for that"


def _one_mind(truth: Truth) -> Iterator[str]:
    for host, record in truth.records:
        if not (record.state.final and record.settled):
            yield f"{host}: the record of {record.migration_id} is {record.state}, settled: {record.settled}"
        if record.side is not Side.SOURCE:
            continue
        there = [r.state for h, r in truth.of(record.migration_id, Side.DESTINATION) if h != host]
        if (record.state is SourceState.CONFIRMED) != (DestinationState.COMMITTED in there):
            yield f"{record.migration_id} is {record.state} at its source {host} and {there} at its destination"


def _domains(world: World) -> Iterator[str]:
    for host in world.hosts:
        entry = world.entry(host)
        here = host.machine.of_domain(UUID)
        active = entry is not None and entry.state.active
        if active != bool(here):
            yield f"{host.name}: the domain is {entry and entry.state}, and its guests are {[g.run_state for g in here]}"
        elif active and entry is not None and (entry.state is DomainState.RUNNING) != here[0].cpu.running:
            yield f"{host.name}: the domain is {entry.state} ({entry.reason}), and its guest is {here[0].run_state}"


def _nothing_left(world: World) -> Iterator[str]:
    for host in world.hosts:
        daemon = host.daemon
        assert daemon is not None
        if host.machine.channels:
            yield f"{host.name}: {len(host.machine.channels)} channels of hypervisors are open"
        if pipes := [end for end in host.pipes if not end.closed]:
            yield f"{host.name}: {len(pipes)} sockets to hypervisors are open"
        if jobs := [job.state for job in daemon.context.board.all() if job.ended_s is None]:
            yield f"{host.name}: jobs have no end: {jobs}"
        if ended := sorted({"domain events", "housekeeping"}.difference(_task_names(host))):
            yield f"{host.name}: its daemon has ended what it does for ever: {', '.join(ended)}"


def _task_names(host: Host) -> list[str]:
    return [task.get_name().partition(": ")[2] or task.get_name() for task in host.process.pending()] if host.process else []


def _belongs(name: str) -> bool:
    """A task that a daemon has while it does nothing."""
    return name in ("serve", "domain events", "housekeeping", "data connections", "unseen domains")


def _true_words(world: World, truth: Truth) -> Iterator[str]:
    for report in world.facts.reports:
        told, outcome = report.told, truth.outcome(report.migration_id)
        committed = outcome is Outcome.COMMITTED
        if isinstance(told, Migrated) and not committed:
            yield f"the client was told that {report.migration_id} succeeded, and it was {outcome}"
        if not isinstance(told, VmferryError):
            continue
        if isinstance(told, InternalError):
            yield f"a daemon did not know what to make of it: {_worded(told)}"
        lie = {GuestLocation.SOURCE: committed, GuestLocation.DESTINATION: not committed}.get(told.guest or "", False)  # type: ignore[call-overload]
        if lie:
            yield f"the client was told that the guest is at the {told.guest}, and it was {outcome}: {_worded(told)}"
        if told.guest is GuestLocation.NOWHERE and world.guests() and not world.facts.killed:
            yield f"the client was told that the guest is nowhere: {_worded(told)}"
        if not world.facts.fired and _must_work(report, world):
            yield f"nothing went wrong, and the client was told {_worded(told)}"


def _must_work(report: Report, world: World) -> bool:
    """Nothing in the plan keeps that migration from working."""
    persistent = not any(Flag.UNDEFINE_SOURCE in r.attempt.flags for r in world.facts.reports)
    return report is world.facts.reports[0] or persistent


def _worded(error: VmferryError) -> str:
    detail = f" [{error.detail}]" if error.detail else ""
    return f"{type(error).__name__} in {error.phase}, guest {error.guest}: {error.message}{detail}"


_SAME = {
    "Begin": (migration_pb2.BeginRequest, migration_pb2.BeginResponse),
    "BeginParams": (migration_pb2.BeginParamsRequest, migration_pb2.BeginParamsResponse),
    "Prepare": (migration_pb2.PrepareRequest, migration_pb2.PrepareResponse),
    "PrepareParams": (migration_pb2.PrepareParamsRequest, migration_pb2.PrepareParamsResponse),
}
_SAME_OUTCOME = {
    "/vmferry.api.v1.MigrationService/Finish": (migration_pb2.FinishRequest, migration_pb2.FinishResponse),
    "/vmferry.api.v1.MigrationService/FinishParams": (migration_pb2.FinishParamsRequest, migration_pb2.FinishParamsResponse),
    "/vmferry.api.v1.MigrationService/Confirm": (migration_pb2.ConfirmRequest, migration_pb2.ConfirmResponse),
    "/vmferry.api.v1.MigrationService/ConfirmParams": (
        migration_pb2.ConfirmParamsRequest,
        migration_pb2.ConfirmParamsResponse,
    ),
    "/vmferry.api.v1.MigrationV1Service/Finish": (
        legacy_pb2.MigrationV1ServiceFinishRequest,
        legacy_pb2.MigrationV1ServiceFinishResponse,
    ),
    "/vmferry.api.v1.MigrationV2Service/Finish": (
        legacy_pb2.MigrationV2ServiceFinishRequest,
        legacy_pb2.MigrationV2ServiceFinishResponse,
    ),
}


_TOOK = re.compile(rb"<took [^>]*/>")
"""How long a phase took is told by the daemon that has seen it, and forgotten when it starts again."""


def _rest(message: Any) -> bytes:
    rest = type(message).FromString(message.SerializeToString())
    rest.ClearField("cookie")
    return bytes(rest.SerializeToString())


def _same_answers(answers: Iterable[Answer]) -> Iterator[str]:
    """A phase that was called again got the answer that it got before."""
    first: dict[tuple[str, str, str], object] = {}
    for answer in answers:
        service, _, call = answer.method.rpartition("/")
        said: object
        if service.endswith(".MigrationService") and call in _SAME:
            request, reply = _SAME[call]
            message = reply.FromString(answer.reply)
            said = message.SerializeToString() if not message.cookie else (_rest(message), _TOOK.sub(b"", message.cookie))
        elif answer.method in _SAME_OUTCOME:
            request, reply = _SAME_OUTCOME[answer.method]  # type: ignore[assignment]
            said = reply.FromString(answer.reply).outcome  # type: ignore[attr-defined]
        else:
            continue
        key = (answer.host, answer.method, request.FromString(answer.request).migration_id)
        if first.setdefault(key, said) != said:
            yield f"{answer.host} answered {call} of {key[2]} in two ways: {first[key]!r}, then {said!r}"


# -- afterwards ------------------------------------------------------------------------------------------------------


async def _again(world: World) -> list[str]:
    """The guest is moved once more, sometimes twice, and nothing disturbs it."""
    if not world.guests():
        return []
    for _ in range(1 + world.plan.seed % 4 // 3):
        source = world.guests()[0][0]
        destination = world.b if source is world.a else world.a
        if not world.plan.announced[1] & world.plan.announced[0]:
            return []
        if world.guests()[0][1].run_state is RunState.GONE_OVER:  # as QEMU has it, it cannot be sent again before it ran
            await world.asked(source, lambda connection: connection.resume(NAME))
        with suppress(VmferryError):
            await world.asked(destination, lambda connection: connection.define(world._xml()))
        try:
            await _moved(world, source, destination)
        except VmferryError as error:
            return [f"the next migration does not work: {_worded(error)}"]
        verdict: list[str] = []
        await _settled(world, verdict)
        verdict += [finding async for finding in _findings(world)]
        if verdict:
            return verdict
        if world.guests()[0][0] is not destination:
            return [f"the next migration worked, and the guest is at {world.guests()[0][0].name}"]
    return []


async def _moved(world: World, source: Host, destination: Host) -> None:
    attempt = Attempt(Flag.LIVE, peer_to_peer=False, spelling=Spelling.PARAMS, patience_s=15.0, suspended_before=False)
    report = Report(MigrationId(f"00000000-0000-4000-8000-{world.network.calls:012d}"), attempt)
    process = world.loop.process("client", "client")

    async def move() -> Migrated:
        here, there = world.connection(source), world.connection(destination)
        following = client.Attempt(migration_id=report.migration_id, patience=Patience(attempt.patience_s))
        return await here.migrate(NAME, there, flags=Flag.LIVE, attempt=following)

    report.told = await process.spawn(move())
    world.facts.reports.append(report)
    process.kill()
    world.network.died(process)


async def _ended(world: World) -> list[str]:
    """Both daemons end when they are asked to, and leave nothing behind but their guests."""
    for host in world.hosts:
        host.stop_for_good()
    try:
        await world.until(lambda: not any(host.process and host.process.pending() for host in world.hosts), 30.0)
    except AssertionError:
        return [f"{host.name} does not end: {_task_names(host)}" for host in world.hosts if _task_names(host)]
    return [f"a connection is left: {connection}" for connection in world.network.connections]
