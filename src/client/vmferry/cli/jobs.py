"""`jobs` and `job`: running and past migrations of one host."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import click

from vmferry.cli import display, render
from vmferry.cli.exits import ExitCode
from vmferry.cli.frame import Subject
from vmferry.cli.progress import Mark, Tracker
from vmferry.cli.running import AliasGroup, Session, asynchronous
from vmferry.cli.units import duration, moment
from vmferry.client import Connection
from vmferry.errors import MigrationNotFound
from vmferry.model import JobInfo, JobType, MigrationId, Outcome, Phase, Progress

HEADINGS = ("Migration", "Domain", "Operation", "Type", "State", "Phase", "Started", "Duration")

ENDINGS = {
    JobType.COMPLETED: ExitCode.DONE,
    JobType.FAILED: ExitCode.FAILED,
    JobType.CANCELLED: ExitCode.FAILED,
}
"""What watching a job exits with when it has ended so."""

ABORTED = {
    Outcome.ABORTED: ("the migration has ended; the guest is at the source", ExitCode.DONE),
    Outcome.COMMITTED: ("too late: the guest lives at the destination", ExitCode.OTHER),
    Outcome.POSTCOPY: ("too late: the guest runs at the destination, and its pages follow", ExitCode.OTHER),
    Outcome.PENDING: ("asked for, but not decided yet; watch it with: job watch {id}", ExitCode.IN_DOUBT),
}
"""What holds after an abort, in words, and what it exits with."""


@click.command()
@asynchronous
async def jobs(session: Session) -> None:
    """All migrations that the host remembers, newest first."""
    async with session.daemon() as daemon:
        known = await daemon.jobs()
    if session.json:
        click.echo(render.as_json(known))
    else:
        render.table(render.stdout(), HEADINGS, map(_row, known))


class JobGroup(AliasGroup):
    """The commands about one migration."""


@click.group(cls=JobGroup)
def job() -> None:
    """One migration: look, watch, abort.

    It is named by its id, or by the domain whose newest it is.
    """


@job.command()
@click.argument("which", metavar="ID|NAME")
@asynchronous
async def info(session: Session, which: str) -> None:
    """What the host knows of one migration."""
    async with session.daemon() as daemon:
        found = await find(daemon, which)
    show(session, found)


@job.command()
@click.argument("which", metavar="ID|NAME")
@asynchronous
async def watch(session: Session, which: str) -> ExitCode:
    """Progress until the migration has ended; the exit status says how.

    Ctrl-C ends the watching, never the migration.
    """
    async with session.daemon() as daemon:
        found = await find(daemon, which)
        last = await _watched(session, daemon, found)
    show(session, last)
    return ENDINGS.get(last.type, ExitCode.IN_DOUBT)


@job.command()
@click.argument("which", metavar="ID|NAME")
@asynchronous
async def abort(session: Session, which: str) -> ExitCode:
    """The migration has ended if it still could; says what holds."""
    async with session.daemon() as daemon:
        migration_id = (await find(daemon, which)).migration_id
        outcome = await daemon.abort_job(migration_id)
    words, code = ABORTED[outcome]
    if session.json:
        click.echo(render.as_json({"migration_id": migration_id, "outcome": outcome, "exit_code": int(code)}))
    else:
        click.echo(words.format(id=migration_id))
    return code


async def find(daemon: Connection, which: str) -> JobInfo:
    """The migration of that id, or the newest one of the domain of that name or UUID.

    Raises:
        MigrationNotFound: neither is there.
    """
    if _is_uuid(which):
        try:
            return await daemon.job(MigrationId(which))
        except MigrationNotFound:
            return await daemon.newest_job(which)
    return await daemon.newest_job(which)


def show(session: Session, job: JobInfo) -> None:
    """All that is known of `job` is printed."""
    if session.json:
        click.echo(render.as_json(job))
        return
    console = render.stdout()
    render.facts(console, [*_facts(job), *render.statistics(job.statistics)])


async def _watched(session: Session, daemon: Connection, job: JobInfo) -> JobInfo:
    phases = [phase for phase in Phase if phase.side is job.side]
    # The host's clock and ours may differ; the hypervisor's own count of the time is better where there is one.
    age_s = job.statistics.elapsed_ms / 1000 or max(0.0, time.time() - job.started_s)
    tracker = Tracker(phases, time.monotonic() - age_s)
    subject = Subject(job.migration_id, f"{job.domain_name}, {job.operation}")
    with display.chosen(subject, tracker, json=session.json) as shown:
        async for change in daemon.watch(job.migration_id):
            job = change
            shown.hear(Progress(job.migration_id, job.phase, job.state, job.statistics))
        if job.type is JobType.COMPLETED:
            shown.succeed()
        elif job.ended_s is not None:
            shown.fail(job.phase, Mark.FAILED)
    return job


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _row(job: JobInfo) -> Sequence[str]:
    return (
        job.migration_id,
        job.domain_name,
        job.operation,
        job.type,
        job.state,
        job.phase,
        moment(job.started_s),
        _duration(job),
    )


def _facts(job: JobInfo) -> list[tuple[str, str]]:
    return [
        ("Migration", job.migration_id),
        ("Domain", job.domain_name),
        ("Domain UUID", job.domain_uuid),
        ("Operation", job.operation),
        ("Side", job.side),
        ("Type", job.type),
        ("State", job.state),
        ("Phase", job.phase),
        ("Started", moment(job.started_s)),
        ("Ended", moment(job.ended_s) if job.ended_s is not None else ""),
        ("Error", job.error),
    ]


def _duration(job: JobInfo) -> str:
    if job.ended_s is None:
        return ""
    return duration(max(0, round((job.ended_s - job.started_s) * 1000)))


COMMANDS: tuple[click.Command, ...] = (jobs, job)
