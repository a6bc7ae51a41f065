"""One picture of a migration on its way: a `View` drawn with rich, or said in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleRenderable, Group, OverflowMethod
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vmferry.cli.progress import Mark, PhaseView, RoundView, View
from vmferry.cli.render import harmless
from vmferry.cli.units import clock, duration, percent, rate, size
from vmferry.model import MigrationId

_SIGNS = dict(zip(Mark, "·▶✓✗?↩", strict=True))
_ASCII_SIGNS = dict(zip(Mark, ".>+x?<", strict=True))
_CROP: OverflowMethod = "crop"
_ELLIPSIS: OverflowMethod = "ellipsis"
_ENDINGS = {Mark.FAILED: "failed", Mark.UNKNOWN: "no answer", Mark.ROLLED_BACK: "rolled back"}
_STYLES = {Mark.WAITING: "dim", Mark.RUNNING: "bold cyan", Mark.DONE: "green", Mark.FAILED: "bold red"}

SLOW_GUEST_ADVICE = "the guest changes memory faster than it is sent; --auto-converge slows it down until it fits"


@dataclass(frozen=True, slots=True)
class Subject:
    """Which migration is shown: its id, and in words what moves where."""

    migration_id: MigrationId
    title: str


def frame(console: Console, subject: Subject, view: View) -> ConsoleRenderable:
    """What moves where, with the clock, the phases, and while memory is known of, the round and the figures."""
    ascii_only = console.options.ascii_only
    signs, cut = (_ASCII_SIGNS, _CROP) if ascii_only else (_SIGNS, _ELLIPSIS)
    parts: list[ConsoleRenderable] = [_heading(subject, view, cut), _phases(view, signs, cut)]
    if view.round is not None:
        parts += [Text(), _bar(view.round, cut), _indented(", ".join([_round(view.round), *figures(view)]), "dim")]
        if advice(view):
            parts.append(_indented(advice(view), "yellow"))
    return Group(*parts)


def figures(view: View) -> list[str]:
    """What is known beside the round, each with its name and unit."""
    known = view.statistics
    named = [
        (f"sent {size(view.sent_bytes)}", view.sent_bytes),
        (f"at {rate(known.memory_bytes_per_s)}", known.memory_bytes_per_s),
        (f"guest changes {rate(view.dirty_bytes_per_s)}", view.dirty_bytes_per_s),
        (f"expected downtime {duration(known.expected_downtime_ms)}", known.expected_downtime_ms),
        (f"guest slowed down by {known.auto_converge_throttle_percent} %", known.auto_converge_throttle_percent),
    ]
    return [text for text, value in named if value]


def advice(view: View) -> str:
    """What would help a migration that does not come to its end; empty while it does."""
    slowed = view.statistics.auto_converge_throttle_percent
    return SLOW_GUEST_ADVICE if view.falling_behind and not slowed else ""


def spoken(view: View) -> str:
    """The view in one line, for logs."""
    parts = [f"{view.phase or 'end'}: {harmless(view.step)}".rstrip(": ")]
    if view.round is not None:
        number, fraction = view.round.number, percent(view.round.fraction).strip()
        parts += [f"round {number} {fraction}", _round(view.round), *figures(view)]
    return f"[{clock(view.elapsed_ms)}] {', '.join(parts)}"


def view_facts(view: View) -> dict[str, Any]:
    """The view as an object."""
    around = view.round
    return {
        "event": "progress",
        "phase": view.phase,
        "step": view.step,
        "elapsed_ms": view.elapsed_ms,
        "round": None
        if around is None
        else {
            "number": around.number,
            "size_bytes": around.size_bytes,
            "done_bytes": around.done_bytes,
            "left_bytes": around.left_bytes,
            "fraction": round(around.fraction, 4),
        },
        "sent_bytes": view.sent_bytes,
        "dirty_bytes_per_s": view.dirty_bytes_per_s,
        "statistics": view.statistics,
    }


def _round(around: RoundView) -> str:
    return f"{size(around.done_bytes)} of {size(around.size_bytes)}, {size(around.left_bytes)} left"


def _indented(text: str, style: str) -> Padding:
    return Padding(Text(text, style), (0, 0, 0, 2), expand=False)


def _heading(subject: Subject, view: View, cut: OverflowMethod) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow=cut)
    grid.add_column(no_wrap=True, justify="right", overflow=cut)
    grid.add_row(Text(harmless(subject.title), "bold"), Text(clock(view.elapsed_ms), "bold"))
    grid.add_row(Text(f"migration {subject.migration_id}", "dim"), "")
    return grid


def _phases(view: View, signs: dict[Mark, str], cut: OverflowMethod) -> Table:
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    grid.add_column(no_wrap=True, overflow=cut)
    grid.add_column(no_wrap=True, style="dim", overflow=cut)
    grid.add_column(no_wrap=True, justify="right", overflow=cut)
    grid.add_column(no_wrap=True, overflow=cut)
    for phase in view.phases:
        grid.add_row(*_phase(phase, view, signs))
    return grid


def _phase(phase: PhaseView, view: View, signs: dict[Mark, str]) -> tuple[Text, str, str, Text]:
    style = _STYLES.get(phase.mark, "yellow")
    words = harmless(view.step) if phase.mark is Mark.RUNNING else _ENDINGS.get(phase.mark, "")
    took = duration(phase.took_ms) if phase.took_ms is not None else ""
    return (
        Text(f"  {signs[phase.mark]} {phase.phase}", style),
        phase.phase.side.value,
        took,
        Text(words, style if phase.mark is not Mark.RUNNING else ""),
    )


def _bar(around: RoundView, cut: OverflowMethod) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(no_wrap=True, overflow=cut)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, overflow=cut)
    bar = ProgressBar(total=1.0, completed=around.fraction)
    grid.add_row(f"  round {around.number}", bar, percent(around.fraction))
    return grid
