"""`domjobinfo` and `domjobabort`: libvirt's commands, with libvirt's lines (specification 7.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from vmferry.cli import render
from vmferry.cli.named import DOMAIN, NamedCommand
from vmferry.cli.running import Session, asynchronous
from vmferry.client import Connection
from vmferry.model import JobOperation, JobType
from vmferry.statistics import Figure, JobStats

OPERATIONS: Mapping[JobOperation, str] = {
    JobOperation.MIGRATION_IN: "Incoming migration",
    JobOperation.MIGRATION_OUT: "Outgoing migration",
}

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_WIDTH = 18


def scaled(count_bytes: int) -> str:
    """`1.500 GiB`: three decimals, as virsh writes sizes."""
    size, unit = float(count_bytes), 0
    while size >= 1024 and unit < len(_SIZES) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.3f} {_SIZES[unit]}"


@click.command(cls=NamedCommand)
@click.option("--completed", is_flag=True, help="Of the newest job that has ended; answered once, unless kept.")
@click.option("--keep-completed", is_flag=True, help="What --completed answers is answered the next time as well.")
@click.option("--anystats", is_flag=True, help="Print figures even if there is no job.")
@click.option("--rawstats", is_flag=True, help="Print every figure under its name, without units.")
@DOMAIN
@asynchronous
async def domjobinfo(
    session: Session,
    name: str,
    completed: bool,  # noqa: FBT001 - click's options
    keep_completed: bool,  # noqa: FBT001
    anystats: bool,  # noqa: FBT001
    rawstats: bool,  # noqa: FBT001
) -> None:
    """Show the figures of a domain's job, as virsh does.

    A job that failed has figures too. `vmferry job history` shows all past jobs, however often they were read.
    """
    if keep_completed and not completed:
        raise click.UsageError("--keep-completed needs --completed")
    async with session.daemon() as daemon:
        stats = await _asked(daemon, name, completed=completed, kept=keep_completed)
    if session.json:
        click.echo(render.as_json({"type": stats.type, "statistics": stats.figures, "job": stats.job}))
    elif rawstats:
        _print_raw(stats)
    else:
        for label, value in lines(stats, anystats=anystats):
            click.echo(f"{label:<{_WIDTH - 1}} {value}")


async def _asked(daemon: Connection, name: str, *, completed: bool, kept: bool) -> JobStats:
    if not completed:
        return await daemon.job_stats(name)
    return await (daemon.kept_stats(name) if kept else daemon.completed_stats(name))


def _print_raw(stats: JobStats) -> None:
    click.echo(f"Job type: {stats.type.number}")
    click.echo()
    for name, value in stats.figures.items():
        click.echo(render.harmless(f"{name}: {int(value) if isinstance(value, bool) else value}"))


def lines(stats: JobStats, *, anystats: bool = False) -> Iterator[tuple[str, str]]:
    """Virsh's lines, in its order; groups that are all zero are left out."""
    yield "Job type:", stats.type.capitalize()
    if stats.job is None and not anystats:
        return
    figures = stats.figures
    if stats.job is not None:
        yield "Operation:", OPERATIONS.get(stats.job.operation, stats.job.operation.replace("-", " ").capitalize())
    yield from _numbers(
        figures, ("Time elapsed:", "time_elapsed", "ms"), ("Time elapsed w/o network:", "time_elapsed_net", "ms")
    )
    yield from _group(figures, "Data", "data")
    yield from _group(figures, "Memory", "memory")
    yield from _rate(figures, "Memory bandwidth:", "memory_bps")
    yield from _numbers(
        figures,
        ("Dirty rate:", "memory_dirty_rate", "pages/s"),
        ("Page size:", "memory_page_size", "bytes"),
        ("Iteration:", "memory_iteration", ""),
        ("Postcopy requests:", "memory_postcopy_requests", ""),
    )
    yield from _group(figures, "File", "disk")
    yield from _rate(figures, "File bandwidth:", "disk_bps")
    yield from _disks(stats)
    yield from _pages(figures)
    is_over = stats.type is JobType.COMPLETED
    yield from _numbers(
        figures,
        ("Total downtime:" if is_over else "Expected downtime:", "downtime", "ms"),
        ("Downtime w/o network:", "downtime_net", "ms"),
        ("Setup time:", "setup_time", "ms"),
    )
    yield from _compression(figures)
    yield from _numbers(figures, ("Auto converge throttle:", "auto_converge_throttle", "%"))
    if "errmsg" in figures:
        yield "Error message:", render.harmless(str(figures["errmsg"]))


def _disks(stats: JobStats) -> Iterator[tuple[str, str]]:
    """A line for each disk that is copied, which virsh has not."""
    for disk in stats.job.statistics.disks if stats.job is not None else ():
        yield f"File {render.harmless(disk.target)}:", f"{scaled(disk.processed_bytes)} of {scaled(disk.total_bytes)}"


def _numbers(figures: Mapping[str, Figure], *rows: tuple[str, str, str]) -> Iterator[tuple[str, str]]:
    for label, name, unit in rows:
        if figures.get(name):
            yield label, f"{figures[name]:<12} {unit}".rstrip()


def _group(figures: Mapping[str, Figure], label: str, prefix: str) -> Iterator[tuple[str, str]]:
    names = {part: f"{prefix}_{part}" for part in ("processed", "remaining", "total")}
    if not any(figures.get(name) for name in names.values()):
        return
    for part, name in names.items():
        yield f"{label} {part}:", scaled(int(figures.get(name, 0)))


def _rate(figures: Mapping[str, Figure], label: str, name: str) -> Iterator[tuple[str, str]]:
    if figures.get(name):
        yield label, f"{scaled(int(figures[name]))}/s"


def _pages(figures: Mapping[str, Figure]) -> Iterator[tuple[str, str]]:
    if "memory_normal" in figures:
        yield "Constant pages:", str(figures["memory_constant"])
        yield "Normal pages:", str(figures["memory_normal"])
        yield "Normal data:", scaled(int(figures["memory_normal_bytes"]))


def _compression(figures: Mapping[str, Figure]) -> Iterator[tuple[str, str]]:
    if "compression_cache" in figures:
        yield "Compression cache:", scaled(int(figures["compression_cache"]))
        yield "Compressed data:", scaled(int(figures["compression_bytes"]))
        yield "Compressed pages:", str(figures["compression_pages"])
        yield "Compression cache misses:", str(figures["compression_cache_misses"])
        yield "Compression overflows:", str(figures["compression_overflow"])


COMMANDS: tuple[click.Command, ...] = (domjobinfo,)
