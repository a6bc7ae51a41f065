"""The job as users see it: figures, history and watching, on both hosts, for success and failure (specification 5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from scenario.by_hand import ByHand
from support.daemons import NAME, UUID, Host, TwoHosts
from support.waiting import eventually
from vmferry.api.v1 import jobs_pb2, jobs_pb2_grpc
from vmferry.errors import DomainNotFound, InvalidParameter, InvalidState, MigrationNotFound, VmferryError
from vmferry.flags import Flag
from vmferry.model import JobChangeKind, JobEvent, JobStatus, JobType, MigrationId, Outcome, Phase, new_migration_id
from vmferry.params import MigrationParams
from vmferry.report import Account, report
from vmferryd.drivers.memory import FaultKind, Verb

Kind = JobChangeKind


async def heard(stream: AsyncIterator[JobEvent]) -> list[JobEvent]:
    """Everything that is told until the end."""
    return [event async for event in stream]


def changes(events: list[JobEvent]) -> list[tuple[str, str]]:
    """What was told, but for progress and rounds, of which a transfer has as many as it likes."""
    unsteady = (Kind.PROGRESS, Kind.ITERATION)
    return [(event.kind.value, event.job.state) for event in events if event.kind not in unsteady]


SOURCE = [
    ("started", "begun"),
    ("phase", "begun"),
    ("state", "performing"),
    ("state", "released"),
    ("phase", "released"),
    ("state", "confirmed"),
    ("completed", "confirmed"),
]


async def under_way(hosts: TwoHosts) -> tuple[MigrationId, asyncio.Task[object]]:
    """A migration whose first round has been sent; `faults.release` lets it go on."""
    hosts.source.machine.faults.once(Verb.ROUND, FaultKind.HANG)
    migration_id = new_migration_id()
    moving = asyncio.create_task(hosts.migrate(migration_id=migration_id))
    await eventually(lambda: hosts.source.machine.faults.hanging == 1)
    return migration_id, moving


# -- watching ----------------------------------------------------------------------------------------------------------


async def test_a_watcher_that_comes_late_misses_nothing(two_hosts: TwoHosts) -> None:
    """Whoever watches from the middle on, and whoever watches afterwards, sees all changes from the beginning to the end."""
    migration_id, moving = await under_way(two_hosts)
    boards = [host.daemon.context.board for host in two_hosts.hosts]
    watching = [asyncio.create_task(heard(host.connection.watch(migration_id))) for host in two_hosts.hosts]
    watching.append(asyncio.create_task(heard(two_hosts.source.connection.watch(migration_id))))
    await eventually(lambda: [2, 2] == [board.watchers for board in boards])  # the source's daemon is one of them
    two_hosts.source.machine.faults.release()
    await moving
    source, destination, second = await asyncio.gather(*watching)
    assert SOURCE == changes(source) == changes(second)
    assert Kind.ITERATION in {event.kind for event in source}
    assert ("started", "prepared") == changes(destination)[0]
    assert ("completed", "committed") == changes(destination)[-1]
    assert destination[-1].job.statistics.guest_pause_ms > 0
    assert SOURCE == changes(await heard(two_hosts.source.connection.watch(migration_id)))
    numbers = [event.sequence for event in source if event.kind is not Kind.PROGRESS]
    assert numbers == sorted(set(numbers))
    await eventually(lambda: [0, 0] == [board.watchers for board in boards])


async def test_a_watcher_goes_on_where_it_was(two_hosts: TwoHosts) -> None:
    """With the number of the last change that was seen, only the later ones are told; with the last number, none."""
    migration_id, moving = await under_way(two_hosts)
    seen: list[JobEvent] = []
    async for event in two_hosts.source.connection.watch(migration_id):
        seen.append(event)
        if event.job.state == "performing":
            break
    two_hosts.source.machine.faults.release()
    await moving
    rest = await heard(two_hosts.source.connection.watch(migration_id, after=seen[-1].sequence))
    assert SOURCE == changes(seen + rest)
    assert [] == await heard(two_hosts.source.connection.watch(migration_id, after=rest[-1].sequence))


async def test_what_was_asked_for_and_the_figures_of_each_round_are_kept(two_hosts: TwoHosts) -> None:
    """Flags, parameters and what a round sent are there when it is over, at both ends, also after a restart."""
    params = MigrationParams(bandwidth_mib_per_s=4000, destination_name="web")
    done = await two_hosts.migrate(params=params)
    await two_hosts.source.restart()
    source = await two_hosts.source.connection.job(done.migration_id)
    destination = await two_hosts.destination.connection.job(done.migration_id)
    assert source.settings == destination.settings == {"destination_name": "web", "bandwidth": "4000"}
    assert Flag.LIVE in Flag(source.flags)
    rounds = [change.figures for change in source.changes if change.kind is Kind.ITERATION]
    assert rounds
    assert all(figures is not None and figures.sent_bytes > 0 for figures in rounds)
    story = report([Account("b", destination), Account("a", source)])
    assert {span.host for span in story.spans} == {"a", "b"}
    assert story.rounds


async def test_what_an_earlier_daemon_did_is_replayed(two_hosts: TwoHosts) -> None:
    """After a restart the whole story is there, under the same numbers, and later numbers are greater than all of it."""
    migration_id = (await two_hosts.migrate()).migration_id
    before = await heard(two_hosts.source.connection.watch(migration_id))
    await two_hosts.source.restart()
    after = await heard(two_hosts.source.connection.watch(migration_id))
    assert SOURCE == changes(after)
    assert JobType.COMPLETED is after[-1].job.type
    assert before[-1].job.statistics == after[-1].job.statistics
    assert two_hosts.source.daemon.context.board.next_sequence() > max(event.sequence for event in before + after)


async def test_a_crash_is_part_of_the_story(two_hosts: TwoHosts) -> None:
    """A watcher that comes back after the daemon's restart sees how the migration was ended, and nothing twice."""
    migration_id, moving = await under_way(two_hosts)
    seen: list[JobEvent] = []

    async def watch() -> None:
        async for event in two_hosts.source.connection.watch(migration_id):
            seen.append(event)  # noqa: PERF401 - each one as it comes

    watching = asyncio.create_task(watch())
    await eventually(lambda: any(event.job.state == "performing" for event in seen))
    await two_hosts.source.stop()
    two_hosts.source.machine.faults.release()
    await two_hosts.source.start()
    for task in (watching, moving):
        with suppress(VmferryError):
            await task
    await two_hosts.lives(two_hosts.source)
    rest = await heard(two_hosts.source.connection.watch(migration_id, after=seen[-1].sequence))
    assert ("cancelled", JobType.FAILED) == (rest[-1].job.state, rest[-1].job.type)
    numbers = [event.sequence for event in seen + rest if event.kind is not Kind.PROGRESS]
    assert numbers == sorted(set(numbers))


async def test_all_jobs_are_watched_as_one(two_hosts: TwoHosts) -> None:
    """A dashboard that comes in the middle sees what runs, then every job to come; it goes on where it was, too."""
    migration_id, moving = await under_way(two_hosts)
    told: list[JobEvent] = []

    async def watch() -> None:
        async for event in two_hosts.source.connection.watch_jobs():
            told.append(event)  # noqa: PERF401 - each one as it comes

    watching = asyncio.create_task(watch())
    await eventually(lambda: len(told) >= 1)
    two_hosts.source.machine.faults.release()
    await moving
    back = (await two_hosts.destination.connection.migrate(NAME, two_hosts.source.connection, flags=Flag.LIVE)).migration_id
    await eventually(lambda: {migration_id, back} == {event.job.migration_id for event in told if event.kind.is_end})
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert migration_id == told[0].job.migration_id
    assert "begun" not in {event.job.state for event in told}, "what is over is not told again to who did not ask for it"
    again: list[JobEvent] = []
    first = told[0].sequence
    async for event in two_hosts.source.connection.watch_jobs(after=first):
        again.append(event)
        if event.kind.is_end and event.job.migration_id == back:
            break
    numbers = [event.sequence for event in again]
    assert numbers == sorted(numbers)
    assert set(numbers) == {event.sequence for event in told if event.sequence > first}


async def test_a_job_has_ended_when_its_domain_is_free(two_hosts: TwoHosts) -> None:
    """Whoever sees the end of a job can use the domain at once."""
    migration_id, moving = await under_way(two_hosts)
    context = two_hosts.destination.daemon.context

    async def looked() -> list[object]:
        ends = [event async for event in context.board.watch(migration_id) if event.job.ended_s is not None]
        return [context.domains.find(NAME).holder for _ in ends]

    looking = asyncio.create_task(looked())
    two_hosts.source.machine.faults.release()
    await moving
    assert [None] == await looking


async def test_a_job_that_nobody_knows(two_hosts: TwoHosts) -> None:
    """Watching what is not there is an error, not a stream that says nothing."""
    with pytest.raises(MigrationNotFound):
        await heard(two_hosts.source.connection.watch(new_migration_id()))


# -- figures -----------------------------------------------------------------------------------------------------------


async def test_figures_of_both_hosts(two_hosts: TwoHosts) -> None:
    """After a success both hosts have the figures: the same pause, measured by the daemons, and the times of all phases."""
    migration_id = (await two_hosts.migrate()).migration_id
    source, destination = [await host.connection.stats_of(migration_id) for host in two_hosts.hosts]
    assert [JobType.COMPLETED, JobType.COMPLETED] == [source.type, destination.type]
    assert (5, 4) == (source.figures["operation"], destination.figures["operation"])
    for name in ("downtime", "memory_total", "memory_processed", "data_total", "memory_iteration"):
        assert 0 < source.figures[name] == destination.figures[name], name
    assert 0 == source.figures["memory_remaining"] == source.figures["data_remaining"]
    assert source.figures["time_elapsed"] >= source.figures["time_elapsed_net"]
    assert source.job is not None
    assert destination.job is not None
    assert set(Phase) == set(source.job.took_ms)
    assert set(Phase) - {Phase.CONFIRM} == set(destination.job.took_ms)


async def test_figures_while_it_goes_on(two_hosts: TwoHosts) -> None:
    """A migration that runs has figures at both hosts, and its time goes on between two looks."""
    migration_id, moving = await under_way(two_hosts)
    ask = two_hosts.source.connection
    await eventually(lambda: two_hosts.source.daemon.context.board.running(NAME).statistics.memory_total_bytes > 0)
    first = await ask.job_stats(NAME)
    assert (JobType.UNBOUNDED, JobStatus.ACTIVE) == (first.type, first.job.status if first.job else None)
    assert first.figures["data_total"] == first.figures["memory_total"] + first.figures["disk_total"]
    assert "success" not in first.figures
    assert JobType.UNBOUNDED is (await two_hosts.destination.connection.job_stats(NAME)).type
    assert JobType.NONE is (await ask.completed_stats(NAME)).type, "nothing has ended while a job runs"

    async def older() -> bool:
        return (await ask.stats_of(migration_id)).figures["time_elapsed"] > first.figures["time_elapsed"]

    await eventually(older)
    two_hosts.source.machine.faults.release()
    await moving


async def test_completed_figures_are_read_once(two_hosts: TwoHosts) -> None:
    """What is not kept is answered once; the history still has it. The next job, and a restart, bring an answer again."""
    await two_hosts.migrate()
    ask = two_hosts.source.connection
    read = [await ask.kept_stats(NAME), await ask.completed_stats(NAME), await ask.kept_stats(NAME)]
    assert [JobType.COMPLETED, JobType.COMPLETED, JobType.NONE] == [stats.type for stats in read]
    assert read[0].figures == read[1].figures
    assert 1 == len(await ask.jobs(NAME))
    await two_hosts.source.restart()
    assert JobType.COMPLETED is (await two_hosts.source.connection.completed_stats(NAME)).type


async def test_figures_of_nothing(two_hosts: TwoHosts) -> None:
    """A domain without a job has no figures and that is no error; a domain that is not there is one."""
    ask = two_hosts.source.connection
    assert (JobType.NONE, {}) == ((await ask.job_stats(NAME)).type, dict((await ask.job_stats(NAME)).figures))
    with pytest.raises(DomainNotFound):
        await ask.job_stats("nobody")
    stub = jobs_pb2_grpc.JobServiceStub(ask.channel)
    with pytest.raises(InvalidParameter):
        await ask._ask(stub.GetJobStats(jobs_pb2.GetJobStatsRequest(domain=NAME, keep_completed=True)))


async def test_figures_of_a_failure(two_hosts: TwoHosts) -> None:
    """A migration that failed leaves its figures and its reason at both hosts, through a restart."""
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.FAIL_TRANSFER)
    migration_id = new_migration_id()
    with pytest.raises(VmferryError):
        await two_hosts.migrate(migration_id=migration_id)
    await two_hosts.lives(two_hosts.source)
    for host in two_hosts.hosts:
        await host.restart()
        stats = await host.connection.stats_of(migration_id)
        assert (JobType.FAILED, False) == (stats.type, stats.figures["success"])
        assert stats.figures["errmsg"]
        assert stats.job is not None
        assert stats.job.error_reason
    assert 0 < (await two_hosts.source.connection.kept_stats(NAME)).figures["memory_processed"]


async def test_history_of_a_domain(two_hosts: TwoHosts) -> None:
    """Past attempts are there, newest first, with how far each came and why it ended; also after a restart."""
    two_hosts.destination.machine.faults.once(Verb.ACCEPT, FaultKind.REFUSE)
    with pytest.raises(VmferryError):
        await two_hosts.migrate()
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.FAIL_TRANSFER)
    with pytest.raises(VmferryError):
        await two_hosts.migrate()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.migrate()
    await two_hosts.source.restart()
    ask = two_hosts.source.connection
    done, broken, refused = await ask.jobs(UUID)
    assert [JobType.COMPLETED, JobType.FAILED] == [done.type, broken.type]
    assert refused.type in (JobType.CANCELLED, JobType.FAILED)
    assert [Phase.CONFIRM, Phase.PERFORM] == [done.phase, broken.phase]
    assert "TRANSFER_FAILED" == broken.error_reason
    assert broken.peer_uri == str(two_hosts.destination.settings["listen"])
    assert [kind for kind, _ in [(change.kind, change.state) for change in done.changes]][-1] is Kind.COMPLETED
    assert [done.migration_id] == [job.migration_id for job in await ask.jobs(NAME, limit=1)]
    assert [] == await ask.jobs("nobody")


# -- ending ------------------------------------------------------------------------------------------------------------


async def ended(host: Host, migration_id: MigrationId) -> bool:
    """The job has ended there."""
    return (await host.connection.job(migration_id)).ended_s is not None


@pytest.mark.parametrize("last", [Phase.BEGIN, Phase.PREPARE])
async def test_abort_before_anything_flows(two_hosts: TwoHosts, last: Phase) -> None:
    """Before Perform an abort ends the migration; asked again it answers the same."""
    walk = await ByHand(two_hosts).up_to(last)
    ask = two_hosts.source.connection
    assert Outcome.ABORTED is await ask.abort_job_of(NAME)
    assert Outcome.ABORTED is await ask.abort_job(walk.migration_id)
    with pytest.raises(InvalidState, match="no job"):
        await ask.abort_job_of(NAME)
    await two_hosts.destination.connection.abort(walk.migration_id, "over")
    await two_hosts.lives(two_hosts.source)


async def test_abort_without_waiting(two_hosts: TwoHosts) -> None:
    """An abort that does not wait answers at once, also when the migration cannot end yet; then it ends."""
    two_hosts.source.machine.faults.once(Verb.CANCEL, FaultKind.HANG)
    migration_id, moving = await under_way(two_hosts)
    assert Outcome.PENDING is await two_hosts.source.connection.ask_job_to_end(migration_id)
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 2)
    assert JobType.UNBOUNDED is (await two_hosts.source.connection.job(migration_id)).type
    two_hosts.source.machine.faults.release()
    with pytest.raises(VmferryError):
        await moving
    await eventually(lambda: ended(two_hosts.source, migration_id))
    assert JobType.CANCELLED is (await two_hosts.source.connection.job(migration_id)).type
    assert Outcome.ABORTED is await two_hosts.source.connection.ask_job_to_end(migration_id)
    await two_hosts.lives(two_hosts.source)


async def test_abort_of_a_held_guest(two_hosts: TwoHosts) -> None:
    """A guest that stands still for its last part, which was not let go, runs again at the source."""
    two_hosts.source.machine.faults.once(Verb.HELD, FaultKind.HANG)
    migration_id = new_migration_id()
    moving = asyncio.create_task(two_hosts.migrate(migration_id=migration_id))
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    ending = asyncio.create_task(two_hosts.source.connection.abort_job(migration_id))
    migration = two_hosts.source.daemon.source.migrations.unfinished[migration_id]
    await eventually(lambda: migration._cancelled)
    two_hosts.source.machine.faults.release()
    assert Outcome.ABORTED is await ending
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.lives(two_hosts.source)


async def test_abort_is_too_late(two_hosts: TwoHosts) -> None:
    """A guest that lives at the destination stays there, and the answer says so: before Confirm, after it, on both hosts."""
    walk = await ByHand(two_hosts).up_to(Phase.FINISH)
    for host in two_hosts.hosts:
        assert Outcome.COMMITTED is await host.connection.abort_job(walk.migration_id)
    await two_hosts.lives(two_hosts.destination)
    assert Outcome.COMMITTED is await two_hosts.source.connection.abort_job(walk.migration_id)
    assert JobType.COMPLETED is (await two_hosts.source.connection.job(walk.migration_id)).type


async def test_abort_of_post_copy(two_hosts: TwoHosts) -> None:
    """What libvirt's flag for post-copy asks for is refused where there is none, and nothing happens."""
    migration_id, moving = await under_way(two_hosts)
    ask = two_hosts.source.connection
    with pytest.raises(InvalidState, match="pages missing"):
        await ask.pause_postcopy(migration_id)
    two_hosts.source.machine.faults.release()
    await moving
