"""A migration's progress on a terminal: a picture that is redrawn."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleRenderable
from rich.live import Live

from vmferry.cli import render
from vmferry.cli.display import Clock
from vmferry.cli.frame import frame
from vmferry.cli.keyboard import quiet_keyboard
from vmferry.cli.progress import Mark, Tracker
from vmferry.cli.spoken import Subject
from vmferry.model import Phase, Progress

FRAMES_PER_S = 8


class LiveDisplay:
    """A picture that is redrawn several times a second, so that its clock runs while nothing is heard."""

    def __init__(self, console: Console, subject: Subject, tracker: Tracker, now: Clock = time.monotonic) -> None:
        self._console, self._subject, self._tracker, self._now = console, subject, tracker, now
        # The picture is drawn in rich's own thread, so that it also moves while the event loop is busy.
        self._lock = threading.Lock()
        self._keyboard = ExitStack()
        self._live = Live(console=console, get_renderable=self._frame, refresh_per_second=FRAMES_PER_S)

    def __enter__(self) -> Self:
        """See `Display`."""
        self._keyboard.enter_context(quiet_keyboard())
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        """See `Display`."""
        with self._keyboard:
            self._live.stop()
        self._console.print()

    def hear(self, progress: Progress) -> None:
        """See `Display`."""
        with self._lock:
            self._tracker.hear(progress, self._now())

    def say(self, text: str) -> None:
        """See `Display`."""
        render.prose(self._console, text)

    def succeed(self) -> None:
        """See `Display`."""
        with self._lock:
            self._tracker.succeed(self._now())

    def fail(self, phase: Phase | None, mark: Mark) -> None:
        """See `Display`."""
        with self._lock:
            self._tracker.fail(phase, self._now(), mark)

    def _frame(self) -> ConsoleRenderable:
        with self._lock:
            view = self._tracker.view(self._now())
        return frame(self._console, self._subject, view)
