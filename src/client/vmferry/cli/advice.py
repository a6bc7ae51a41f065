"""What would help a migration that does not come to its end at this rate, each with the command that does it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from vmferry.cli.forecast import USUAL_PAUSE_MS, Course, Forecast
from vmferry.cli.options import NOT_AVAILABLE
from vmferry.cli.units import duration, rate, size
from vmferry.flags import Flag
from vmferry.params import LONGEST_DOWNTIME_MS

MIB = 1 << 20
ROOM = 1.25
"""What is advised has some room: the guest is not always the same."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of a migration besides its figures. `flags` is None for somebody who only watches it.

    `bandwidth_bytes_per_s` is the limit that somebody has set; 0 is none.
    """

    domain: str = ""
    flags: Flag | None = None
    allowed_pause_ms: int = USUAL_PAUSE_MS
    bandwidth_bytes_per_s: int = 0


def diagnosis(forecast: Forecast, circumstances: Circumstances, throttle_percent: int) -> str:
    """Why the migration does not come to its end at this rate, in a sentence; empty while it does."""
    if forecast.course is not Course.NEVER:
        return ""
    slowed = f", although it is slowed down by {throttle_percent} %" if throttle_percent else ""
    return (
        f"no end at this rate{slowed}: the guest changes memory again before it is sent. Each round comes to "
        f"{size(forecast.round_bytes)}, a pause of {duration(forecast.pause_needed_ms)}; "
        f"allowed are {duration(circumstances.allowed_pause_ms)}"
    )


def remedies(forecast: Forecast, circumstances: Circumstances, throttle_percent: int) -> list[str]:
    """What would help, the mildest first; nothing while nothing needs help."""
    if forecast.course is not Course.NEVER:
        return []
    return list(_remedies(forecast, circumstances, throttle_percent))


def _remedies(forecast: Forecast, circumstances: Circumstances, throttle_percent: int) -> Iterator[str]:
    name, flags = circumstances.domain or "NAME", circumstances.flags
    limit = circumstances.bandwidth_bytes_per_s
    if limit:
        enough_mib = math.ceil(forecast.round_bytes * 1000 / circumstances.allowed_pause_ms * ROOM / MIB)
        yield f"more bandwidth than {rate(limit)}: vmferry migrate-setspeed {name} {enough_mib}"
    needed_ms = math.ceil(forecast.pause_needed_ms * ROOM)
    if needed_ms <= LONGEST_DOWNTIME_MS:
        yield f"a longer pause: vmferry migrate-setmaxdowntime {name} {needed_ms}"
    if throttle_percent:
        yield "waiting: the guest is slowed down further, step by step"
    elif flags is None or Flag.AUTO_CONVERGE not in flags:
        yield "the next time --auto-converge, which slows the guest down until it fits"
    if Flag.POSTCOPY not in NOT_AVAILABLE:
        yield _postcopy(name, flags)


def _postcopy(name: str, flags: Flag | None) -> str:
    switch = f"post-copy: vmferry migrate-postcopy {name}"
    if flags is None:
        return f"{switch}, if it was begun with --postcopy"
    return (
        switch if Flag.POSTCOPY in flags else "the next time --postcopy: the guest runs at the destination, its pages follow"
    )
