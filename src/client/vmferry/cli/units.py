"""Sizes, rates and times in words. Pure: units are always shown, sizes are binary."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

_SIZES = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(count_bytes: int) -> str:
    """`1.5 GiB`; whole bytes below one KiB. What would read `1024.0 KiB` reads `1.0 MiB`."""
    if count_bytes < 1024:
        return f"{count_bytes} B"
    scaled = float(count_bytes)
    for unit in _SIZES:
        scaled /= 1024
        if round(scaled, 1) < 1024:
            return f"{scaled:.1f} {unit}"
    return f"{scaled:.1f} {_SIZES[-1]}"


def rate(bytes_per_s: int) -> str:
    """`117.3 MiB/s`."""
    return f"{size(bytes_per_s)}/s"


def duration(span_ms: int) -> str:
    """`212 ms`, `8.4 s`, `2 min 05 s`, `3 h 07 min`. Nothing is rounded up into the next unit."""
    if span_ms < 1000:
        return f"{span_ms} ms"
    seconds = span_ms // 1000
    if seconds < 60:
        return f"{seconds}.{span_ms % 1000 // 100} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def about(span_s: float, rounding: Callable[[float], int]) -> str:
    """A duration that is only an estimate: whole seconds, then fives, then minutes, then tens of them."""
    step_s = next((step for below, step in ((60, 1), (300, 5), (3600, 60)) if span_s < below), 600)
    rounded_s = rounding(span_s / step_s) * step_s
    if rounded_s < 60:
        return f"{rounded_s} s"
    minutes, seconds = divmod(rounded_s, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if minutes else f"{hours} h"


def clock(span_ms: int) -> str:
    """`0:02:05`, for a running clock."""
    minutes, seconds = divmod(span_ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def percent(fraction: float) -> str:
    """` 62 %`, always as wide; 100 only when nothing is left."""
    return f"{int(fraction * 100):3} %"


def moment(epoch_s: float) -> str:
    """Date and time here, with the offset from UTC."""
    return datetime.fromtimestamp(epoch_s).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def counted(number: int, noun: str) -> str:
    """`1 round`, `4 rounds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
