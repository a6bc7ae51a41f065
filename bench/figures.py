"""Medians, ratios to raw QEMU, and targets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.guests import Move, Way
from bench.inside import Pause
from bench.tunnel import Carried

GB = 1e9
LONGEST_OVERHEAD_MS = 250
LONGEST_INSIDE_MS = 10
LONGEST_ANSWER_MS = 50
SHARE = 0.99


@dataclass(frozen=True, slots=True)
class Summary:
    """The medians of the moves of one guest by one way, and what they are of raw QEMU's (None: raw was not measured)."""

    guest: str
    way: str
    moves: int
    wall_ms: float
    total_ms: float
    pause_ms: float
    bytes_per_s: float
    overhead_ms: float
    source_cpu_s: float
    destination_cpu_s: float
    client_cpu_s: float
    throughput_ratio: float | None = None
    pause_ratio: float | None = None
    pause_more_ms: float | None = None
    faults: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """One target, and what was measured instead of it."""

    what: str
    wanted: str
    measured: str
    met: bool


def summaries(moves: Sequence[Move]) -> list[Summary]:
    """One for each guest and way, in the order of the moves."""
    groups: dict[tuple[str, str], list[Move]] = {}
    for move in moves:
        groups.setdefault((move.guest, move.way), []).append(move)
    return [_summary(group, groups.get((guest, Way.RAW))) for (guest, _), group in groups.items()]


def _summary(group: Sequence[Move], raw: Sequence[Move] | None) -> Summary:
    def middle(of: Callable[[Move], float], moves: Sequence[Move] = group) -> float:
        return float(median(map(of, moves)))

    pause_ms, rate = middle(_pause_ms), middle(_rate)
    raw_pause_ms = middle(_pause_ms, raw) if raw else None
    return Summary(
        guest=group[0].guest,
        way=group[0].way,
        moves=len(group),
        wall_ms=middle(lambda move: move.wall_ms),
        total_ms=middle(lambda move: move.total_ms),
        pause_ms=pause_ms,
        bytes_per_s=rate,
        overhead_ms=middle(lambda move: move.overhead_ms),
        source_cpu_s=middle(lambda move: move.source_cpu_s),
        destination_cpu_s=middle(lambda move: move.destination_cpu_s),
        client_cpu_s=middle(lambda move: move.client_cpu_s),
        throughput_ratio=rate / middle(_rate, raw) if raw else None,
        pause_ratio=pause_ms / raw_pause_ms if raw_pause_ms else None,
        pause_more_ms=None if raw_pause_ms is None else pause_ms - raw_pause_ms,
        faults=sum(len(move.faults) for move in group),
    )


def _pause_ms(move: Move) -> float:
    return move.pause_ms


def _rate(move: Move) -> float:
    return move.bytes_per_s


def targets(found: Sequence[Summary], pauses: Sequence[Pause], tunnels: Sequence[Carried]) -> list[Target]:
    """Every target that these figures say something about."""
    return [*_of_moves(found), *_of_pauses(pauses), *_of_tunnels(tunnels)]


def _of_moves(found: Sequence[Summary]) -> Iterator[Target]:
    for one in found:
        name = f"{one.guest}: {one.way}"
        least = {Way.DIRECT_FIXED: 0.97, Way.TUNNEL_FIXED: 0.8}.get(Way(one.way))
        if least is not None and one.throughput_ratio is not None:
            yield _at_least(f"{name}, throughput of raw QEMU's", one.throughput_ratio, least)
        if one.way == Way.DIRECT and one.guest.endswith("idle") and one.pause_ratio is not None:
            yield _at_most(f"{name}, pause of raw QEMU's", one.pause_ratio, 0.4)
        most_ms = {Way.DIRECT_FIXED: 10.0, Way.TUNNEL_FIXED: 25.0}.get(Way(one.way))
        if most_ms is not None and one.pause_more_ms is not None:
            yield _at_most(f"{name}, pause beyond raw QEMU's", one.pause_more_ms, most_ms, " ms")
        if one.way == Way.DIRECT:
            yield _at_most(f"{name}, outside QEMU's total time", one.overhead_ms, LONGEST_OVERHEAD_MS, " ms")


def _of_pauses(pauses: Sequence[Pause]) -> Iterator[Target]:
    if pauses:
        middle_ms = float(median(one.daemons_ms for one in pauses))
        yield _at_most("direct, the daemons' share of the pause", middle_ms, LONGEST_INSIDE_MS, " ms")


def _of_tunnels(tunnels: Sequence[Carried]) -> Iterator[Target]:
    for one in best(tunnels):
        if one.tunnels == 1:
            least = 0.6 if one.transport == "tls" else 0.9
            yield _at_least(f"the tunnel alone, {one.transport}", one.bytes_per_s / GB, least, " GB/s")
        else:
            answer_ms = share(one.answers_ms)
            yield _at_most(
                f"an answer beside {one.tunnels} tunnels, {one.transport}, p99", answer_ms, LONGEST_ANSWER_MS, " ms"
            )


def best(tunnels: Sequence[Carried]) -> list[Carried]:
    """The median run of each kind, by its rate."""
    groups: Mapping[tuple[str, int], list[Carried]] = {}
    for one in tunnels:
        groups.setdefault((one.transport, one.tunnels), []).append(one)  # type: ignore[attr-defined]
    return [sorted(group, key=lambda one: one.bytes_per_s)[len(group) // 2] for group in groups.values()]


def share(values: Sequence[float], part: float = SHARE) -> float:
    """The value that `part` of `values` do not exceed; 0 without any."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else 0.0


def _at_least(what: str, value: float, least: float, unit: str = "") -> Target:
    return Target(what, f">= {least:g}{unit}", f"{value:.2f}{unit}", value >= least)


def _at_most(what: str, value: float, most: float, unit: str = "") -> Target:
    return Target(what, f"<= {most:g}{unit}", f"{value:.{1 if unit else 2}f}{unit}", value <= most)


HEADINGS = (
    "guest",
    "way",
    "total s",
    "MB/s",
    "of raw",
    "pause ms",
    "of raw",
    "outside ms",
    "CPU s: source",
    "dest.",
    "client",
)


def rows(found: Sequence[Summary]) -> list[tuple[str, ...]]:
    """The table, below `HEADINGS`."""
    return [
        (
            one.guest,
            one.way + (f" ({one.faults} FAULTS)" if one.faults else ""),
            f"{one.total_ms / 1000:.2f}",
            f"{one.bytes_per_s / 1e6:.0f}",
            "" if one.throughput_ratio is None else f"{one.throughput_ratio:.2f}",
            f"{one.pause_ms:.0f}",
            "" if one.pause_ratio is None else f"{one.pause_ratio:.2f}",
            f"{one.overhead_ms:.0f}",
            f"{one.source_cpu_s:.2f}",
            f"{one.destination_cpu_s:.2f}",
            f"{one.client_cpu_s:.2f}",
        )
        for one in found
    ]


def as_markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(
        [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings), *(f"| {' | '.join(one)} |" for one in lines)]
    )
