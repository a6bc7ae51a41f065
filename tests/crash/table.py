"""The table of failures as Markdown, from the results of a run. Pure but for reading them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from crash.bounds import KEEPALIVE_S, LIMITS
from crash.cells import MOMENTS, Cell, Channel, Fault, Part, Place, Way, cells
from crash.libvirt import does
from crash.results import read
from vmferryd.config import Keepalive
from vmferryd.limits import Limits

RESULTS = Path(__file__).parents[2] / "docs" / "failures.jsonl"

TITLES: Mapping[Fault, str] = {
    Fault.KILL: "`kill -9` of the {part}",
    Fault.STOP: "The {part} is frozen (SIGSTOP), and goes on later",
    Fault.CUT: "The network between {part} is cut, and carries again later",
    Fault.CUT_FORTH: "The network from {part} is cut in this direction alone",
    Fault.CUT_BACK: "The network to {part} is cut in this direction alone",
    Fault.DISK_FULL: "The disk of the {part} is full, and has space again later",
    Fault.POWER_OFF: "The {part} is switched off, and on again later",
}
_JOINED: Mapping[Fault, str] = {Fault.CUT: " and ", Fault.CUT_FORTH: " to ", Fault.CUT_BACK: " from "}


def failures() -> str:
    """Every failure that was played, with a table of its moments."""
    results = {line["cell"]: line for line in read(RESULTS)}
    parts = [f"{len(results)} of {len(list(cells()))} cells were played for this page.\n"]
    for title, group in groupby(_ordered(), key=_title):
        if rows := list(_rows(list(group), results)):
            parts.append("\n".join([f"### {title}", "", *_HEAD, *rows]) + "\n")
    return "\n".join(parts)


def bounds() -> str:
    """The bounds of the daemons in the run, beside the defaults."""
    rows = [f"| `limits.{name}` | {value:g} | {getattr(Limits(), name):g} |" for name, value in LIMITS.items()]
    rows += [
        f"| `keepalive.{name}` | {KEEPALIVE_S:g} | {getattr(Keepalive(), name):g} |" for name in ("interval_s", "timeout_s")
    ]
    return "\n".join(["| bound | in this run | default |", "|---|---|---|", *rows]) + "\n"


KINDS = ((Way.REGULAR, Channel.NATIVE), (Way.REGULAR, Channel.TUNNEL), (Way.P2P, Channel.NATIVE))
"""The columns."""

_HEAD = (
    "| when | regular | regular, tunnelled | peer-to-peer | you must | libvirt |",
    "|---|---|---|---|---|---|",
)


def _ordered() -> Iterator[Cell]:
    """The cells by what fails, and only then by the way."""
    every = list(cells())
    seen: list[tuple[Fault, Part]] = list(dict.fromkeys((cell.fault, cell.part) for cell in every))
    yield from sorted(every, key=lambda cell: (seen.index((cell.fault, cell.part)), MOMENTS.index(cell.moment)))


def _title(cell: Cell) -> str:
    part = cell.part.value
    if cell.fault in _JOINED:
        part = part.replace("-", _JOINED[cell.fault])
    return TITLES[cell.fault].format(part=part)


def _rows(group: list[Cell], results: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for moment, these in groupby(group, key=lambda cell: cell.moment):
        by_kind = {(cell.way, cell.channel): cell for cell in these}
        if not any(cell.name in results for cell in by_kind.values()):
            continue
        seen = [_seen(results.get(by_kind[kind].name)) if kind in by_kind else "" for kind in KINDS]
        lost = any(cell.places == {Place.LOST} for cell in by_kind.values())
        columns = (_when(moment), *seen, _ACT if lost else "nothing", _others(by_kind))
        yield f"| {' | '.join(columns)} |"


def _others(by_kind: Mapping[tuple[Way, Channel], Cell]) -> str:
    """What libvirt does; of peer-to-peer only what is different."""
    told = {kind: does(cell) for kind, cell in by_kind.items()}
    regular, p2p = told.get(KINDS[0]), told.get(KINDS[2])
    if regular is None or p2p in (None, regular):
        return regular or p2p or ""
    return f"{regular}. Peer-to-peer: {p2p}"


_ACT = "start it again: it died with its hypervisor"


def _when(moment: str) -> str:
    """`after source writes released` as one reads it."""
    side, _, record = moment.partition(" writes ")
    if record:
        when, _, who = side.partition(" ")
        what, _, settled = record.partition(" ")
        return f"{when} the {who} {f'is done with {what.upper()}' if settled else f'writes {what.upper()}'}"
    when, _, call = moment.partition(" client calls ")
    return f"{when} the client has called {call.capitalize()}" if call else moment


def _seen(result: Mapping[str, Any] | None) -> str:
    """Where the guest is, and after which time."""
    if result is None:
        return "not played"
    settled_s, back_s = float(result["settled_s"]), result["back_s"]
    after_s = max(1, math.ceil(settled_s if back_s is None or settled_s < back_s else settled_s - back_s))
    when = "" if back_s is None else ", without waiting for it" if settled_s < back_s else " after it is back"
    stood = f"; stood still {result['pause_s']:.1f} s" if result["place"] != Place.LOST else ""
    doubt = "; meanwhile in doubt" if "in-doubt" in result["meanwhile"] else ""
    return f"**{result['place']}**, {after_s} s{when}{stood}{doubt}"
