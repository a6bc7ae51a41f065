"""What a guest's heartbeats prove: parsing its serial output and judging it. No I/O here; see serial_recorder.

A recording is what one host heard of the guest, in order. A guest that moved twice has three of them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

_BEAT = re.compile(r"B (\d+) (\d+) (\d+) (\d+) (\d+)")
_READY = re.compile(r"READY ")
_COMPLAINT = re.compile(r"(CORRUPT|FATAL) ")
_OFF = re.compile(r"OFF \d+")
_DISK = re.compile(r"D (\d+) (\d+)")


class Line(NamedTuple):
    """A line and when its first byte was heard; not whole if the recording ends inside it."""

    host_time_s: float
    text: str
    whole: bool = True


Recording = Sequence[Line]


class Beat(NamedTuple):
    """One sign of life."""

    number: int
    guest_ms: int
    rounds: int
    corrupt_pages: int
    dirtied_pages: int
    host_time_s: float
    recording: int


@dataclass
class LineCutter:
    """Bytes go in as they arrive; `lines` are those heard so far, each stamped with its first byte's time.

    Empty lines are not heard, but for the first of all: it may be the end of a line that another host heard.
    """

    lines: list[Line] = field(default_factory=list)
    _pending: bytes = b""
    _pending_since_s: float = 0.0

    def feed(self, data: bytes, host_time_s: float) -> None:
        """Every line that is complete now is in `lines`."""
        first, *others = data.split(b"\n")
        if not self._pending:
            self._pending_since_s = host_time_s
        self._pending += first
        for other in others:
            self._take(whole=True)
            self._pending, self._pending_since_s = other, host_time_s

    def heard(self) -> list[Line]:
        """All lines so far, the last perhaps not whole; more bytes may follow."""
        if not self._pending:
            return list(self.lines)
        return [*self.lines, Line(self._pending_since_s, _decoded(self._pending), whole=False)]

    def _take(self, *, whole: bool) -> None:
        if self._pending or not self.lines:
            self.lines.append(Line(self._pending_since_s, _decoded(self._pending), whole))


def lines_of(log: bytes, host_time_s: float = 0.0) -> list[Line]:
    """The recording of a log that was read at once; all lines carry the same time."""
    cutter = LineCutter()
    cutter.feed(log, host_time_s)
    return cutter.heard()


def parse_beat(line: Line, recording: int = 0) -> Beat | None:
    """None if the line is not a whole beat and nothing but a beat."""
    found = _BEAT.fullmatch(line.text)
    if found is None or not line.whole:
        return None
    number, guest_ms, rounds, corrupt, dirtied = map(int, found.groups())
    return Beat(number, guest_ms, rounds, corrupt, dirtied, line.host_time_s, recording)


def joined(recordings: Sequence[Recording]) -> list[list[Line]]:
    """The same recordings with no line split between two hosts; the host that heard its start has it.

    A guest may be stopped inside a line: the source heard its first bytes, the destination the others.
    """
    result: list[list[Line]] = []
    torn: Line | None = None
    home: list[Line] | None = None
    for recording in recordings:
        lines = list(recording)
        if torn is not None and home is not None and lines:
            home.append(torn._replace(text=torn.text + lines[0].text, whole=lines[0].whole))
            lines = lines[1:]
            torn = None
        if lines and not lines[-1].whole:
            torn, home = lines.pop(), lines
        result.append(lines)
    if torn is not None and home is not None:
        home.append(torn)
    return result


@dataclass(frozen=True)
class HandOver:
    """The gap between one host's last beat and the next host's first.

    `pause_ms` is the time no beat was heard, less the period; `clock_step_ms` is how far the guest's own clock went on,
    less the period: near 0 if the clock stood still during the pause, negative if it went back.
    """

    last: Beat
    first: Beat
    period_ms: float

    @property
    def pause_ms(self) -> float:
        """What somebody who talks to the guest notices."""
        return (self.first.host_time_s - self.last.host_time_s) * 1000 - self.period_ms

    @property
    def clock_step_ms(self) -> float:
        """What the guest itself notices."""
        return self.first.guest_ms - self.last.guest_ms - self.period_ms


@dataclass(frozen=True)
class Judgement:
    """What the recordings say about one guest. Beats are in the order of the recordings."""

    beats: tuple[Beat, ...]
    missing: tuple[int, ...]
    doubled: tuple[int, ...]
    out_of_order: tuple[int, ...]
    complaints: tuple[str, ...]
    garbled: tuple[str, ...]
    hand_overs: tuple[HandOver, ...]
    clock_went_back: bool

    @property
    def corrupt_pages(self) -> int:
        """The most the guest ever admitted."""
        return max((beat.corrupt_pages for beat in self.beats), default=0)

    @property
    def verified_rounds(self) -> int:
        """How often the guest has compared all of its memory since it was ready."""
        return max((beat.rounds for beat in self.beats), default=0)

    @property
    def rounds_since_hand_over(self) -> int:
        """Whole rounds begun and ended at the last host: one at least, or its memory is not proven."""
        if not self.hand_overs:
            return self.verified_rounds
        return max(0, self.verified_rounds - self.hand_overs[-1].first.rounds - 1)

    @property
    def pauses_ms(self) -> tuple[float, ...]:
        """One for each hand-over, in order."""
        return tuple(hand_over.pause_ms for hand_over in self.hand_overs)

    def faults(self) -> list[str]:
        """One sentence for each thing that must not be; empty if exactly one healthy guest was heard."""
        found = [f"{len(values)} {what}: {values[:5]}" for what, values in self._lists() if values]
        if not self.beats:
            found.append("no beat was heard")
        if self.corrupt_pages:
            found.append(f"{self.corrupt_pages} corrupt pages")
        if self.clock_went_back:
            found.append("the guest's clock went back")
        return found

    def _lists(self) -> tuple[tuple[str, tuple[int, ...] | tuple[str, ...]], ...]:
        return (
            ("beats missing", self.missing),
            ("beats doubled", self.doubled),
            ("beats out of order", self.out_of_order),
            ("complaints of the guest", self.complaints),
            ("garbled lines", self.garbled),
        )


def judge(recordings: Sequence[Recording], period_ms: float = 10.0) -> Judgement:
    """What the recordings of one guest, in the order of its hosts, say together.

    Empty recordings are allowed: a destination that never ran the guest has heard nothing.
    """
    whole = joined(recordings)
    beats = tuple(_beats(whole))
    numbers = [beat.number for beat in beats]
    heard = Counter(numbers)
    return Judgement(
        beats=beats,
        missing=tuple(n for n in range(min(heard), max(heard)) if n not in heard) if heard else (),
        doubled=tuple(sorted(n for n, times in heard.items() if times > 1)),
        out_of_order=tuple(after for before, after in pairwise(numbers) if after < before),
        complaints=tuple(line.text for line in _all(whole) if _COMPLAINT.match(line.text)),
        garbled=tuple(_garbled(whole)),
        hand_overs=tuple(HandOver(a, b, period_ms) for a, b in pairwise(beats) if a.recording != b.recording),
        clock_went_back=any(after.guest_ms < before.guest_ms for before, after in pairwise(beats)),
    )


def is_ready(recording: Recording) -> bool:
    """Whether the guest has filled its memory."""
    return any(line.whole and _READY.match(line.text) for line in recording)


def _all(recordings: Iterable[Recording]) -> Iterable[Line]:
    return (line for recording in recordings for line in recording)


def _beats(recordings: Iterable[Recording]) -> Iterable[Beat]:
    for index, recording in enumerate(recordings):
        for line in recording:
            beat = parse_beat(line, index)
            if beat is not None:
                yield beat


def _garbled(recordings: Sequence[Recording]) -> Iterable[str]:
    """Lines nobody knows. What comes before the first known word is the firmware's, the last may be cut off."""
    lines = list(_all(recordings))
    known = [index for index, line in enumerate(lines) if _is_known(line)]
    after_firmware = lines[known[0] :] if known else []
    return (line.text for line in after_firmware if line.whole and not _is_known(line))


def disk_rounds(lines: Iterable[Line]) -> int:
    """How often the guest has written all of its part of its disk, and has found there what it had written before."""
    told = (_DISK.fullmatch(line.text) for line in lines if line.whole)
    return max((int(found[2]) for found in told if found), default=0)


def _is_known(line: Line) -> bool:
    return any(pattern.match(line.text) for pattern in (_READY, _COMPLAINT, _OFF, _DISK)) or parse_beat(line) is not None


def _decoded(data: bytes) -> str:
    return data.rstrip(b"\r").decode("ascii", "replace")
