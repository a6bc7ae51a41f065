"""`report`: the story of one migration, in text, as a page, or for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from vmferry.cli import render
from vmferry.cli.completion import domain_names
from vmferry.cli.jobs import find
from vmferry.cli.running import Session, asynchronous
from vmferry.cli.units import duration, moment, rate, size
from vmferry.client import Connection
from vmferry.disks import DiskFigures
from vmferry.errors import InvalidParameter, VmferryError
from vmferry.model import JobInfo, JobType
from vmferry.report import Account, DiskCopies, Report, Round, Span, report

BAR_WIDTH = 40

APART_MS = 10
"""Below this a difference of two clocks may be nothing but the way of the question."""

_WORK, _WAIT, _PAUSE = "█", "░", "▓"

DISK_HEADINGS = ("Disk", "Copied", "Still to copy")
ROUND_HEADINGS = ("Round", "At", "Sent so far", "Rate", "Guest writes", "Slowed by", "Still to send")

VERDICTS = {
    JobType.COMPLETED: ("completed", "bold green"),
    JobType.FAILED: ("failed", "bold red"),
    JobType.CANCELLED: ("cancelled", "bold yellow"),
    JobType.UNBOUNDED: ("still going on", "bold"),
}
"""How a migration ended, in words, and how they are written."""


@click.command("report")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page, drawn, to this file.")
@click.option("--json", "as_json", is_flag=True, help="The same as an object, as `-o json` does.")
@click.argument("which", metavar="ID|NAME", shell_complete=domain_names)
@asynchronous
async def report_command(session: Session, which: str, page: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Tell what one migration did, on both hosts.

    When, how long, in which rounds, and what each host waited for. It is named by its id, or by the domain whose newest it
    is. Either host can be asked; the other one is asked as well if it answers. It may still go on.
    """
    found = await _told(session, which)
    if page is not None:
        _write(page, found)
    if as_json or session.json:
        click.echo(render.as_json({**asdict(found), "waits": found.waits}))
    elif page is not None:
        render.line(render.stdout(), f"the report of {found.domain} is written to {page}; open it in a browser")
    else:
        show(render.stdout(), found)


def _write(page: Path, found: Report) -> None:
    from vmferry.cli.report_page import as_page

    try:
        page.write_text(as_page(found), encoding="utf-8")
    except OSError as error:
        raise InvalidParameter(
            f"the report cannot be written to {page}: {error.strerror}",
            remedy="name a file in a folder that you may write to",
        ) from error


async def _told(session: Session, which: str) -> Report:
    async with session.daemon() as daemon:
        job = await find(daemon, which)
        own = await _account(daemon, job)
    if not job.peer_uri:
        return report([own], "the other end has no daemon that could tell its part, or is not known yet")
    try:
        async with session.other_daemon(job.peer_uri) as daemon:
            other = await _account(daemon, await daemon.job(job.migration_id))
    except VmferryError as error:
        return report([own], f"{job.peer_uri} does not tell its part: {error.message}")
    return report([own, other])


async def _account(daemon: Connection, job: JobInfo) -> Account:
    """The host's part. Its clock is compared with ours, in the middle of the question's way there and back."""
    asked_s = time.time()
    host = await daemon.version()
    return Account(host.host_name, job, host.wall_clock_s - (asked_s + time.time()) / 2 if host.wall_clock_s else 0.0)


# -- text ----------------------------------------------------------------------------------------------------------


def show(console: Console, found: Report) -> None:
    """The story, drawn with blocks."""
    words, style = VERDICTS.get(found.result, (str(found.result), "bold"))
    way = f" from {found.source} to {found.destination}: "
    render.line(console, (found.domain, "bold"), way, (words, style), f" after {duration(found.total_ms)}")
    render.facts(console, summary(found), indent=2)
    for said in found.said:
        at = "" if said.at_ms is None else f" after {duration(said.at_ms)}"
        render.line(console, (f"{said.host}{at}: ", "yellow"), said.text)
    if found.missing:
        render.prose(console, ("note: ", "yellow"), found.missing)
    render.line(console)
    render.table(console, ("At", "Took", "Host", _legend(), "What"), _timeline(found))
    if found.copies:
        render.line(console)
        render.table(console, DISK_HEADINGS, map(disk_cells, found.copies.disks))
    if found.rounds:
        render.line(console)
        render.table(console, (*ROUND_HEADINGS, ""), _rounds(found.rounds))
    if found.waits:
        render.line(console)
        render.table(console, ("Waited", "Host", "For"), [(duration(w.took_ms), w.host, w.waits_for) for w in found.waits])


def summary(found: Report) -> list[tuple[str, str]]:
    """The facts above the tables; empty ones are left out by whoever prints them."""
    pause = duration(found.pause.took_ms) if found.pause else ""
    own = f"; the hypervisor's own figure is {duration(found.hypervisor_downtime_ms)}" if found.hypervisor_downtime_ms else ""
    settings = [f"{name} {value}" for name, value in found.settings.items()]
    apart = (
        f"differ by {duration(found.clocks_apart_ms)}; the times below are corrected"
        if found.clocks_apart_ms >= APART_MS
        else ""
    )
    return [
        ("migration", found.migration_id),
        ("began", moment(found.started_s)),
        ("guest stood still", f"{pause}{own}" if pause else ""),
        ("disks", _disks(found.copies) if found.copies else ""),
        ("phases", ", ".join(f"{phase} {duration(took_ms)}" for phase, took_ms in found.phases.items())),
        ("data went by", found.data_channel),
        ("flags", ", ".join(found.flags) or "none"),
        ("settings", ", ".join(settings)),
        ("the hosts' clocks", apart if found.clocks_apart_ms >= APART_MS else ""),
    ]


def _disks(copies: DiskCopies) -> str:
    took = "" if copies.took_ms is None else f"; the copying took {duration(copies.took_ms)}"
    done_bytes = sum(disk.processed_bytes for disk in copies.disks)
    left_bytes = sum(disk.total_bytes - disk.processed_bytes for disk in copies.disks)
    of = f" of {size(done_bytes + left_bytes)}" if left_bytes else ""
    names = ", ".join(disk.target for disk in copies.disks)
    return f"{names}: copied {size(done_bytes)}{of}{took}"


def instant(at_ms: int) -> str:
    """A moment since the beginning, to the millisecond."""
    return f"{at_ms / 1000:.3f} s"


def _legend() -> str:
    return f"{_WORK} works  {_WAIT} waits  {_PAUSE} guest stands still"


def _timeline(found: Report) -> Iterator[Sequence[str]]:
    for span in found.spans:
        bar = _bar(span.at_ms, span.took_ms, found.total_ms, _WAIT if span.waits_for else _WORK)
        yield instant(span.at_ms), duration(span.took_ms), span.host, bar, in_words(span)
    if found.pause:
        at_ms, took_ms = found.pause.at_ms, found.pause.took_ms
        bar = _bar(at_ms, took_ms, found.total_ms, _PAUSE)
        yield f"~{instant(at_ms)}", duration(took_ms), "the guest", bar, "stands still"


def in_words(span: Span) -> str:
    """What it was, and what was waited for."""
    return f"{span.what}; waits for {span.waits_for}" if span.waits_for else span.what


def _bar(at_ms: int, took_ms: int, total_ms: int, sign: str) -> str:
    """The part of the whole that the span is: at least one sign, never beyond the end."""
    scale = BAR_WIDTH / max(1, total_ms)
    begin = min(BAR_WIDTH - 1, int(at_ms * scale))
    length = max(1, min(BAR_WIDTH - begin, round(took_ms * scale)))
    return "·" * begin + sign * length + "·" * (BAR_WIDTH - begin - length)


def _rounds(rounds: Sequence[Round]) -> Iterator[Sequence[str]]:
    most = max(1, *(one.figures.remaining_bytes for one in rounds))
    for one in rounds:
        yield *round_cells(one), _WORK * round(one.figures.remaining_bytes / most * BAR_WIDTH / 2)


def disk_cells(disk: DiskFigures) -> tuple[str, ...]:
    """The figures of a disk, in the order of `DISK_HEADINGS`."""
    return disk.target, size(disk.processed_bytes), size(disk.total_bytes - disk.processed_bytes)


def round_cells(one: Round) -> tuple[str, ...]:
    """The figures of a round, in the order of `ROUND_HEADINGS`."""
    figures = one.figures
    return (
        str(one.number),
        instant(one.at_ms),
        size(figures.sent_bytes),
        rate(figures.bytes_per_s),
        rate(figures.dirty_bytes_per_s),
        f"{figures.throttle_percent} %" if figures.throttle_percent else "",
        size(figures.remaining_bytes),
    )


COMMANDS: tuple[click.Command, ...] = (report_command,)
