"""Who shows a migration's progress: a picture that is redrawn on a terminal, lines elsewhere, JSON lines for programs.

A display never blocks and never fails a migration: it only listens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import click

from vmferry.cli import render
from vmferry.cli.progress import Mark, Tracker
from vmferry.cli.spoken import Subject, spoken, view_facts
from vmferry.model import Phase, Progress

Clock = Callable[[], float]
"""Seconds of a clock that never goes backwards."""

LINE_EVERY_S = 1.0
"""Lines within one phase are at least so far apart."""


class Display(Protocol):
    """Shows one migration from when it is entered until it is left."""

    def __enter__(self) -> Self:
        """Showing begins."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        """Showing ends; the last picture stays."""
        ...

    def hear(self, progress: Progress) -> None:
        """`progress` is shown, now or with what follows."""
        ...

    def say(self, text: str) -> None:
        """`text` is shown, outside of the picture."""
        ...

    def succeed(self) -> None:
        """All phases are shown as done."""
        ...

    def fail(self, phase: Phase | None, mark: Mark) -> None:
        """`phase`, or the one that ran, is shown with `mark`."""
        ...


class LineDisplay:
    """A first line that names the migration, one when a phase begins, and at most one each second within it."""

    def __init__(self, write: Callable[[str], None], subject: Subject, tracker: Tracker, now: Clock = time.monotonic) -> None:
        self._write, self._subject, self._tracker, self._now = write, subject, tracker, now
        self._written_s = float("-inf")

    def __enter__(self) -> Self:
        """See `Display`."""
        self._write(self._first_line())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        """See `Display`."""

    def hear(self, progress: Progress) -> None:
        """See `Display`."""
        now_s = self._now()
        moved = self._tracker.hear(progress, now_s)
        if moved or now_s - self._written_s >= LINE_EVERY_S:
            self._written_s = now_s
            self._write(self._line(now_s))

    def say(self, text: str) -> None:
        """See `Display`."""
        self._write(render.harmless(text))

    def succeed(self) -> None:
        """See `Display`."""
        self._tracker.succeed(self._now())

    def fail(self, phase: Phase | None, mark: Mark) -> None:
        """See `Display`."""
        self._tracker.fail(phase, self._now(), mark)

    def _first_line(self) -> str:
        return render.harmless(f"{self._subject.title}, migration {self._subject.migration_id}")

    def _line(self, now_s: float) -> str:
        return spoken(self._tracker.view(now_s))


class JsonDisplay(LineDisplay):
    """The same as JSON lines."""

    def say(self, text: str) -> None:
        """See `Display`."""
        self._write(render.as_json({"event": "note", "text": text}))

    def _first_line(self) -> str:
        return render.as_json({"event": "started", "migration_id": self._subject.migration_id, "title": self._subject.title})

    def _line(self, now_s: float) -> str:
        return render.as_json(view_facts(self._tracker.view(now_s)))


class Nothing:
    """Shows nothing but what is said."""

    def __enter__(self) -> Self:
        """See `Display`."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        """See `Display`."""

    def hear(self, progress: Progress) -> None:
        """See `Display`."""

    def say(self, text: str) -> None:
        """See `Display`."""
        to_stderr(render.harmless(text))

    def succeed(self) -> None:
        """See `Display`."""

    def fail(self, phase: Phase | None, mark: Mark) -> None:
        """See `Display`."""


def to_stderr(text: str) -> None:
    """`text` is on standard error."""
    click.echo(text, err=True)


def chosen(subject: Subject, tracker: Tracker, *, json: bool) -> Display:
    """The display that fits: JSON lines on standard output if asked, else on standard error what it can show."""
    if json:
        return JsonDisplay(click.echo, subject, tracker)
    if sys.stderr.isatty():
        console = render.stderr()
        if not console.is_dumb_terminal:
            from vmferry.cli.live import LiveDisplay

            return LiveDisplay(console, subject, tracker)
    return LineDisplay(to_stderr, subject, tracker)
