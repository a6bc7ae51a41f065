"""`jobs` and `job`: running and past migrations of one host."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import click

from vmferry.cli import display, render
from vmferry.cli.completion import domain_names
from vmferry.cli.conduct import circumstances
from vmferry.cli.exits import ExitCode
from vmferry.cli.named import NAME, WHICH, NamedArgument, NamedCommand
from vmferry.cli.progress import Mark, Tracker
from vmferry.cli.running import AliasGroup, Session, asynchronous
from vmferry.cli.spoken import Subject
from vmferry.cli.units import duration, moment
from vmferry.client import Connection
from vmferry.errors import InvalidState, MigrationNotFound
from vmferry.model import JobChangeKind, JobEvent, JobInfo, JobType, MigrationId, Outcome, Phase, Progress

HISTORY_HEADINGS = ("Migration", "Operation", "Type", "Phase", "Started", "Duration", "Other host", "Error")
HEADINGS = ("Migration", "Domain", "Operation", "Type", "State", "Phase", "Started", "Duration")

ENDINGS = {
    JobType.COMPLETED: ExitCode.DONE,
    JobType.FAILED: ExitCode.FAILED,
    JobType.CANCELLED: ExitCode.FAILED,
}
"""What watching a job exits with when it has ended so."""

PAUSED = "post-copy is paused: the guest waits for its pages; resume the migration with --postcopy-resume"

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
    """List the migrations that the host remembers."""
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
    """Look at one migration, watch it, or end it.

    It is named by its id, or by the domain whose newest it is.
    """


@job.command()
@WHICH
@asynchronous
async def info(session: Session, which: str) -> None:
    """Show what the host knows of one migration."""
    async with session.daemon() as daemon:
        found = await find(daemon, which)
    show(session, found)


@job.command()
@click.option("--all", "everything", is_flag=True, help="Every job of the host, those to come included; one line each.")
@click.argument("which", metavar="ID|NAME", required=False, shell_complete=domain_names)
@asynchronous
async def watch(session: Session, which: str | None, everything: bool) -> ExitCode | None:  # noqa: FBT001 - click's option
    """Show progress until the end; the exit status says which.

    Any number of programs may watch; what has happened before is told first. Ctrl-C ends the watching, never the migration.
    """
    if everything is (which is not None):
        raise click.UsageError("name a migration or a domain, or say --all")
    async with session.daemon() as daemon:
        if which is None:
            await _watch_all(session, daemon)
            return None
        found = await find(daemon, which)
        last = await _watched(session, daemon, found)
    show(session, last)
    return ENDINGS.get(last.type, ExitCode.IN_DOUBT)


async def _watch_all(session: Session, daemon: Connection) -> None:
    async for event in daemon.watch_jobs():
        if session.json:
            click.echo(render.as_json(event))
        elif event.kind is not JobChangeKind.PROGRESS:
            click.echo(render.harmless(_event_line(event)))


@job.command()
@click.option("--limit", type=click.IntRange(min=0), default=0, help="At most so many; 0: all that the host remembers.")
@NAME
@asynchronous
async def history(session: Session, name: str, limit: int) -> None:
    """List the migrations of one domain, newest first.

    How far each came, and how it ended.
    """
    async with session.daemon() as daemon:
        known = await daemon.jobs(name, limit=limit)
    if session.json:
        click.echo(render.as_json(known))
    else:
        render.table(render.stdout(), HISTORY_HEADINGS, map(_history_row, known))


@job.command(cls=NamedCommand)
@click.option("--at-once", is_flag=True, help="Do not wait for the effect.")
@click.option("--postcopy", is_flag=True, help="Pause a post-copy migration, until it is resumed with --postcopy-resume.")
@click.argument(
    "which",
    cls=NamedArgument,
    option="--domain",
    metavar="ID|NAME",
    meaning="The migration, or its domain.",
    shell_complete=domain_names,
)
@asynchronous
async def abort(session: Session, which: str, at_once: bool, postcopy: bool) -> ExitCode:  # noqa: FBT001 - click's option
    """End the migration if it still can be; say what holds.

    Until the source has let the guest's last part go it can be ended. After that the destination's journal decides, and
    the answer is "too late" if the guest lives there.
    """
    async with session.daemon() as daemon:
        running = await _to_abort(daemon, which)
        migration_id = running.migration_id
        if postcopy:
            outcome = await daemon.pause_postcopy(migration_id)
        else:
            outcome = await (daemon.ask_job_to_end(migration_id) if at_once else daemon.abort_job(migration_id))
    words, code = (PAUSED, ExitCode.DONE) if postcopy else ABORTED[outcome]
    if at_once and outcome is Outcome.PENDING:
        code = ExitCode.DONE
    if session.json:
        click.echo(render.as_json({"migration_id": migration_id, "outcome": outcome, "exit_code": int(code)}))
    else:
        click.echo(words.format(id=migration_id))
    return code


async def _to_abort(daemon: Connection, which: str) -> JobInfo:
    """The migration of that id, or the one that the domain has now.

    Raises:
        InvalidState: the domain has none.
    """
    found = await find(daemon, which)
    if found.ended_s is not None and which != found.migration_id:
        raise InvalidState(
            f"domain {which} has no job", remedy=f"see how its last migration ended with: vmferry job info {which}"
        )
    return found


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
    # By the host's own clock, so that it does not matter whether ours agrees with it.
    known = await circumstances(daemon, job.domain_name)
    tracker = Tracker(phases, time.monotonic() - job.elapsed_ms / 1000, known)
    subject = Subject(job.migration_id, f"{job.domain_name}, {job.operation}")
    with display.chosen(subject, tracker, json=session.json) as shown:
        async for event in daemon.watch(job.migration_id):
            job = event.job
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


def _history_row(job: JobInfo) -> Sequence[str]:
    return (
        job.migration_id,
        job.operation,
        job.type,
        job.phase,
        moment(job.started_s),
        _duration(job),
        job.peer_uri,
        (f"{job.error_reason}: " if job.error_reason else "") + job.error.partition("\n")[0],
    )


def _event_line(event: JobEvent) -> str:
    job = event.job
    said = f"  {event.reason or job.error}" if event.reason or job.error else ""
    round_ = f" {job.statistics.memory_iteration}" if event.kind is JobChangeKind.ITERATION else ""
    place = f"{job.operation} {job.phase} {job.state}"
    return (
        f"{event.sequence}  {moment(event.at_s)}  {job.domain_name}  {job.migration_id}  {place}  {event.kind}{round_}{said}"
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
        ("Other host", job.peer_uri),
        ("Data", job.data_channel),
        ("Error", job.error),
        ("Reason", job.error_reason),
        *(("Warning", warning) for warning in job.warnings),
        *(
            ("Step" if c.step else "Decision", f"{moment(c.at_s)}  {c.reason}")
            for c in job.changes
            if c.kind is JobChangeKind.DECISION
        ),
        ("Phases", ", ".join(f"{phase} {duration(job.took_ms[phase])}" for phase in Phase if phase in job.took_ms)),
    ]


def _duration(job: JobInfo) -> str:
    if job.ended_s is None:
        return ""
    return duration(job.elapsed_ms)


COMMANDS: tuple[click.Command, ...] = (jobs, job)
