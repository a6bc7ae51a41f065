"""One view of a migration on its way in words and figures: for logs, for programs, and for the picture. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vmferry.cli.progress import RoundView, View
from vmferry.cli.render import harmless
from vmferry.cli.units import about, clock, duration, percent, rate, size
from vmferry.model import MigrationId


@dataclass(frozen=True, slots=True)
class Subject:
    """Which migration is shown: its id, and in words what moves where."""

    migration_id: MigrationId
    title: str


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


def remaining(view: View) -> str:
    """How long it will take from now on, as a range that is rounded outwards; empty while nobody can know."""
    least_s, most_s = view.forecast.least_s, view.forecast.most_s
    if least_s is None or view.diagnosis:
        return ""
    if most_s is None:
        return f"at least {about(least_s, math.floor)} left" if least_s >= 1 else ""
    low, high = about(least_s, math.floor), about(most_s, math.ceil)
    return f"about {high} left" if low == high else f"{low} to {high} left"


def parts_of_the_whole(view: View) -> list[str]:
    """Memory and disks, each on its own, where there are disks."""
    known = view.statistics
    if not known.disk_total_bytes:
        return []
    disks = known.disk_total_bytes - known.disk_remaining_bytes
    memory = known.memory_total_bytes - known.memory_remaining_bytes
    named = [("disks", disks, known.disk_total_bytes, known.disk_bytes_per_s)]
    if len(known.disks) > 1:
        named = [(f"disk {harmless(disk.target)}", disk.processed_bytes, disk.total_bytes, 0) for disk in known.disks]
    named += [("memory", memory, known.memory_total_bytes, known.memory_bytes_per_s)] if known.memory_total_bytes else []
    return [
        f"{name} {size(max(0, done))} of {size(total)}" + (f" at {rate(speed)}" if speed else "")
        for name, done, total, speed in named
    ]


def spoken(view: View) -> str:
    """The view in one line, for logs."""
    parts = [f"{view.phase or 'end'}: {harmless(view.step)}".rstrip(": ")]
    if view.round is not None:
        number, fraction = view.round.number, percent(view.round.fraction).strip()
        parts += filter(None, [f"round {number}", fraction, of_round(view.round), *figures(view), remaining(view)])
    if view.diagnosis:
        parts += [view.diagnosis, *(f"helps: {remedy}" for remedy in view.remedies)]
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
        "forecast": {
            "course": view.forecast.course,
            "least_s": _rounded(view.forecast.least_s),
            "most_s": _rounded(view.forecast.most_s),
            "pause_needed_ms": view.forecast.pause_needed_ms,
            "says": view.diagnosis,
            "helps": view.remedies,
        },
        "statistics": view.statistics,
    }


def _rounded(span_s: float | None) -> float | None:
    return None if span_s is None else round(span_s, 1)


def of_round(around: RoundView) -> str:
    """How far it is; nothing of one in which nothing was left to send."""
    if not around.size_bytes:
        return ""
    return f"{size(around.done_bytes)} of {size(around.size_bytes)}, {size(around.left_bytes)} left"
