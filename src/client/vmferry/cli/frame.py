"""One picture of a migration on its way: a `View` drawn with rich."""

from __future__ import annotations

from rich.console import Console, ConsoleRenderable, Group, OverflowMethod
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vmferry.cli.progress import Mark, PhaseView, RoundView, View
from vmferry.cli.render import harmless
from vmferry.cli.spoken import Subject, figures, of_round, parts_of_the_whole, remaining
from vmferry.cli.units import clock, duration, percent

_SIGNS = dict(zip(Mark, "·▶✓✗?↩", strict=True))
_ASCII_SIGNS = dict(zip(Mark, ".>+x?<", strict=True))
_CROP: OverflowMethod = "crop"
_ELLIPSIS: OverflowMethod = "ellipsis"
_ENDINGS = {Mark.FAILED: "failed", Mark.UNKNOWN: "no answer", Mark.ROLLED_BACK: "rolled back"}
_STYLES = {Mark.WAITING: "dim", Mark.RUNNING: "bold cyan", Mark.DONE: "green", Mark.FAILED: "bold red"}


def frame(console: Console, subject: Subject, view: View) -> ConsoleRenderable:
    """What moves where, with the clock, the phases, and while memory is known of, the round and the figures."""
    ascii_only = console.options.ascii_only
    signs, cut = (_ASCII_SIGNS, _CROP) if ascii_only else (_SIGNS, _ELLIPSIS)
    parts: list[ConsoleRenderable] = [_heading(subject, view, cut), _phases(view, signs, cut)]
    if view.round is not None:
        parts += [
            Text(),
            _bar(view.round, cut),
            _indented(", ".join(filter(None, [of_round(view.round), *figures(view)])), "dim"),
        ]
        parts += [_indented(text, "dim") for text in parts_of_the_whole(view)]
        if expected := remaining(view):
            parts.append(_indented(expected, ""))
        if view.diagnosis:
            parts.append(_indented(view.diagnosis, "yellow"))
            parts += [_indented(f"helps: {remedy}", "yellow") for remedy in view.remedies]
    return Group(*parts)


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
