"""Everything that is drawn or printed: text for people, JSON for programs.

Text of a daemon or a guest never steers the terminal: it is taken literally, and control characters are shown, not sent.
Tables are never cut to a width, so that what a pipe gets is whole. What draws is imported when something is drawn: a
migration is under way by then.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from vmferry.cli.units import counted, duration, rate, size
from vmferry.errors import VmferryError
from vmferry.flags import FLAGS, Flag
from vmferry.migrate import Migrated
from vmferry.model import GuestLocation, Statistics
from vmferry.params import PARAMETERS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

GUEST_WORDS: Mapping[GuestLocation, str] = {
    GuestLocation.SOURCE: "at the source",
    GuestLocation.DESTINATION: "at the destination",
    GuestLocation.IN_DOUBT: "in doubt: at the source or at the destination",
    GuestLocation.NOWHERE: "nowhere: neither host runs it",
}

OPTIONS: Mapping[str, str] = {row.name: row.option for row in FLAGS if row.flag is not Flag.TLS}
"""The option of each flag."""

_PARAMETER_OPTIONS = {row.name: row.option for row in PARAMETERS}
_NAMED = {**OPTIONS, **{name: option for name, option in _PARAMETER_OPTIONS.items() if "." in name or "_" in name}}
"""What stands for an option wherever it stands; other names of parameters are words as well."""

_NAME = re.compile(rf"\b({'|'.join(map(re.escape, sorted(_NAMED, key=len, reverse=True)))})\b")

_STATE_STYLES = {"running": "green", "paused": "yellow", "crashed": "red", "completed": "green", "failed": "red"}


# -- consoles ------------------------------------------------------------------------------------------------------


def stdout() -> Console:
    """Where answers go."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def stderr() -> Console:
    """Where progress and errors go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def get_ready() -> None:
    """What draws has been imported."""
    import rich.cells
    import rich.console
    import rich.text  # noqa: F401


def waiting(text: str) -> AbstractContextManager[object]:
    """Within, a terminal shows that something is waited for."""
    return stderr().status(harmless(text)) if sys.stderr.isatty() else nullcontext()


def harmless(text: str) -> str:
    """`text` with every control character but line feed and tab replaced by a visible sign."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in text)


def in_options(remedy: str) -> str:
    """`remedy` for whoever types: flags and parameters are called as their options. TLS is a word of its own, too."""
    return _NAME.sub(lambda found: _NAMED[found.group()], remedy)


def line(console: Console, *parts: str | tuple[str, str]) -> None:
    """One line of text, however long; a part may come with its style."""
    console.print(_text(*parts), soft_wrap=True)


def prose(console: Console, *parts: str | tuple[str, str]) -> None:
    """The same, broken between words on a terminal. Not for what somebody will copy."""
    console.print(_text(*parts), soft_wrap=not console.is_terminal)


def _text(*parts: str | tuple[str, str]) -> Text:
    from rich.text import Text

    pieces = [(harmless(part[0]), part[1]) if isinstance(part, tuple) else harmless(part) for part in parts]
    return Text.assemble(*pieces)


# -- JSON ----------------------------------------------------------------------------------------------------------


def as_json(value: Any) -> str:
    """`value` on one line of ASCII; dataclasses by their field names, which carry the units."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


# -- tables --------------------------------------------------------------------------------------------------------


def table(console: Console, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns under bold headings; `-` stands for what is empty."""
    from rich.cells import cell_len
    from rich.text import Text

    cells = [[harmless(cell) or "-" for cell in row] for row in rows]
    widths = [max(cell_len(cell) for cell in column) for column in zip(headings, *cells, strict=True)]
    _row(console, [Text(heading, "bold") for heading in headings], widths)
    for row in cells:
        _row(console, [Text(cell, _STATE_STYLES.get(cell, "")) for cell in row], widths)


def _row(console: Console, cells: Sequence[Text], widths: Sequence[int]) -> None:
    from rich.text import Text

    gaps = [" " * (width - cell.cell_len + 2) for cell, width in zip(cells, widths, strict=True)]
    whole = Text.assemble(*(part for pair in zip(cells, gaps, strict=True) for part in pair))
    whole.rstrip()
    console.print(whole, soft_wrap=True)


def facts(console: Console, named: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
    """`name:  value` lines with the values aligned; empty ones are left out."""
    from rich.cells import cell_len

    given = [(name, value) for name, value in named if value]
    width = max((cell_len(name) for name, _ in given), default=0) + 3
    for name, value in given:
        hanging = ("\n" + " " * (indent + width)).join(value.splitlines())
        line(console, " " * indent, (f"{name}:".ljust(width), "dim"), hanging)


# -- errors --------------------------------------------------------------------------------------------------------


def error(console: Console, problem: VmferryError) -> None:
    """All that `problem` knows: what, each finding, where the guest is, who says so and in which words, and what helps."""
    prose(console, ("error: ", "bold red"), (problem.message, "bold"))
    for violation in problem.violations:
        subject = _PARAMETER_OPTIONS.get(violation.subject, violation.subject)
        prose(console, f"  {in_options(str(replace(violation, subject=subject)))}")
    named = {
        "migration": problem.migration_id or "",
        "phase": problem.phase or "",
        "guest": GUEST_WORDS[problem.guest] if problem.guest else "",
        "host": problem.host,
        "said": problem.detail,
        "what to do": in_options(problem.remedy),
    }
    for name, value in named.items():
        if value:
            line(console, (f"{name}: ", "cyan"), value.replace("\n", "\n  "))


def error_facts(problem: VmferryError, exit_code: int) -> dict[str, Any]:
    """The same as an object; facts that are not known are left out."""
    return {
        "error": problem.reason,
        "message": problem.message,
        "exit_code": int(exit_code),
        **problem.facts(),
        "findings": [asdict(violation) for violation in problem.violations],
    }


# -- statistics ----------------------------------------------------------------------------------------------------


def statistics(figures: Statistics) -> list[tuple[str, str]]:
    """Every figure that is known, named and with its unit (specification 7.4); what is not known is left out."""
    f = figures
    dirty_bytes_per_s = f.memory_dirty_rate_pages_per_s * f.memory_page_size_bytes
    return [
        ("Time elapsed", duration(f.elapsed_ms) if f.elapsed_ms else ""),
        ("Setup time", duration(f.setup_ms) if f.setup_ms else ""),
        ("Guest stood still", duration(f.guest_pause_ms) if f.guest_pause_ms else ""),
        ("Hypervisor's downtime", duration(f.downtime_ms) if f.downtime_ms else ""),
        ("Expected downtime", duration(f.expected_downtime_ms) if f.expected_downtime_ms else ""),
        ("Memory total", _size(f.memory_total_bytes)),
        ("Memory processed", _size(f.memory_processed_bytes)),
        ("Memory remaining", size(f.memory_remaining_bytes) if f.memory_total_bytes else ""),
        ("Memory bandwidth", _rate(f.memory_bytes_per_s)),
        ("Dirty rate", _dirty(f.memory_dirty_rate_pages_per_s, dirty_bytes_per_s)),
        ("Page size", _size(f.memory_page_size_bytes)),
        ("Iteration", _number(f.memory_iteration)),
        ("Post-copy requests", _number(f.memory_postcopy_requests)),
        ("Constant pages", _number(f.memory_constant_pages)),
        ("Normal pages", _number(f.memory_normal_pages)),
        ("Normal data", _size(f.memory_normal_bytes)),
        ("Disk total", _size(f.disk_total_bytes)),
        ("Disk processed", _size(f.disk_processed_bytes)),
        ("Disk remaining", size(f.disk_remaining_bytes) if f.disk_total_bytes else ""),
        ("Disk bandwidth", _rate(f.disk_bytes_per_s)),
        *((f"Disk {disk.target}", f"{size(disk.processed_bytes)} of {size(disk.total_bytes)}") for disk in f.disks),
        ("Compression cache", _size(f.compression_cache_bytes)),
        ("Compressed data", _size(f.compression_bytes)),
        ("Compressed pages", _number(f.compression_pages)),
        ("Compression cache misses", _number(f.compression_cache_misses)),
        ("Compression overflows", _number(f.compression_overflow)),
        ("Guest slowed down by", f"{f.auto_converge_throttle_percent} %" if f.auto_converge_throttle_percent else ""),
    ]


def _size(count_bytes: int) -> str:
    return size(count_bytes) if count_bytes else ""


def _rate(bytes_per_s: int) -> str:
    return rate(bytes_per_s) if bytes_per_s else ""


def _number(count: int) -> str:
    return str(count) if count else ""


def _dirty(pages_per_s: int, bytes_per_s: int) -> str:
    if not pages_per_s:
        return ""
    return f"{pages_per_s} pages/s" + (f" ({rate(bytes_per_s)})" if bytes_per_s else "")


def shell_command(words: Sequence[str]) -> str:
    """A command line to be pasted into a shell, an option to a line."""
    text = ""
    for word in words:
        text += (" \\\n  " if word.startswith("-") else " ") + shlex.quote(word)
    return text.strip()


# -- the summary of a migration ------------------------------------------------------------------------------------


def throughput_bytes_per_s(figures: Statistics, total_ms: int) -> int:
    """Bytes sent per second of the transfer; of the whole migration where the transfer's own time is not known."""
    span_ms = figures.elapsed_ms or total_ms
    return figures.data_processed_bytes * 1000 // span_ms if span_ms else 0


def summary(console: Console, done: Migrated, domain: str, destination: str, total_ms: int) -> None:
    """Where the guest is now, what it took, and what the user should know."""
    figures = done.statistics
    speed = throughput_bytes_per_s(figures, total_ms)
    rounds = f" in {counted(figures.memory_iteration, 'round')}" if figures.memory_iteration else ""
    sent = f"{size(figures.data_processed_bytes)}{rounds}" if figures.data_processed_bytes else ""
    state = f" and is {done.domain.state}" if done.domain else ", where no daemon can be asked for it"
    line(console, (done.domain.name if done.domain else domain, "bold"), " lives at ", (destination, "bold"), state)
    named = [
        ("total time", duration(total_ms)),
        ("guest stood still", duration(figures.guest_pause_ms) if figures.guest_pause_ms else "not measured"),
        ("hypervisor's downtime", duration(figures.downtime_ms) if figures.downtime_ms else "not reported"),
        ("sent", sent),
        ("throughput", rate(speed) if speed else ""),
        ("migration", done.migration_id),
    ]
    facts(console, named, indent=2)
    for warning in done.warnings:
        prose(console, ("warning: ", "bold yellow"), warning)


def summary_facts(done: Migrated, source: str, destination: str, total_ms: int) -> dict[str, Any]:
    """The same as an object."""
    return {
        "event": "migrated",
        "migration_id": done.migration_id,
        "domain": done.domain,
        "source_host": source,
        "destination_host": destination,
        "total_ms": total_ms,
        "guest_pause_ms": done.statistics.guest_pause_ms,
        "hypervisor_downtime_ms": done.statistics.downtime_ms,
        "throughput_bytes_per_s": throughput_bytes_per_s(done.statistics, total_ms),
        "statistics": done.statistics,
        "warnings": list(done.warnings),
    }
