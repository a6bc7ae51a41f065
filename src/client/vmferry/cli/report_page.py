"""The report of a migration as one HTML page with its drawings inside; it needs nothing from anywhere else. Pure.

It is built as a tree, so that no text of a host or a guest can become markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from vmferry.cli.report import DISK_HEADINGS, ROUND_HEADINGS, VERDICTS, disk_cells, in_words, instant, round_cells, summary
from vmferry.cli.units import duration, rate, size
from vmferry.model import Side
from vmferry.report import Report, Span

WIDTH = 960
LEFT = 110
LANE = 46
CHART = 220

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #667; --line: #ccd; --back: #fff; --work: #2f6fb3; --wait: #b9cfe6;
  --pause: #d33; --rest: #2f6fb3; --rate: #2a8; --dirty: #d80; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --dim: #99a; --line: #445; --back: #15181c; --work: #5b9be0; --wait: #34506e; --rest: #5b9be0; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 1000px;
  margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25em .9em .25em 0; vertical-align: top;
  border-bottom: 1px solid var(--line); } th { color: var(--dim); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content auto; gap: .2em 1.2em; } dt { color: var(--dim); } dd { margin: 0; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg text.dim { fill: var(--dim); } .work { fill: var(--work); } .wait { fill: var(--wait); }
.pause { fill: var(--pause); opacity: .35; } .axis { stroke: var(--line); } .rest { fill: var(--rest); opacity: .25; }
.line { fill: none; stroke-width: 2; } .rate { stroke: var(--rate); } .dirty { stroke: var(--dirty); }
.dot.rate { fill: var(--rate); } .dot.dirty { fill: var(--dirty); } .note { color: var(--pause); }
"""


def as_page(found: Report) -> str:
    """The whole page."""
    words, _ = VERDICTS.get(found.result, (str(found.result), ""))
    title = f"{found.domain} from {found.source} to {found.destination}: {words} after {duration(found.total_ms)}"
    html = Element("html", lang="en")
    head, body = SubElement(html, "head"), SubElement(html, "body")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _text(head, "title", title)
    _text(head, "style", _STYLE)
    _text(body, "h1", title)
    facts = SubElement(body, "dl")
    for name, value in summary(found):
        if value:
            _text(facts, "dt", name)
            _text(facts, "dd", value)
    for said in found.said:
        at = "" if said.at_ms is None else f" after {duration(said.at_ms)}"
        _text(body, "p", f"{said.host}{at}: {said.text}", {"class": "note"})
    if found.missing:
        _text(body, "p", found.missing, {"class": "note"})
    _text(body, "h2", "What each host did")
    body.append(_timeline(found))
    _table(body, ("At", "Took", "Host", "What", "Waits for"), map(_span_cells, found.spans))
    if found.copies:
        _text(body, "h2", "The disks that were copied")
        _table(body, DISK_HEADINGS, map(disk_cells, found.copies.disks))
    if found.rounds:
        _text(body, "h2", "The rounds of copying memory")
        body.append(_chart(found))
        _table(
            body,
            ROUND_HEADINGS,
            map(round_cells, found.rounds),
        )
    if found.waits:
        _text(body, "h2", "What was waited for, the longest first")
        _table(body, ("Waited", "Host", "For"), [(duration(w.took_ms), w.host, w.waits_for) for w in found.waits])
    return "<!DOCTYPE html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def _text(parent: Element, tag: str, text: str, attributes: dict[str, str] | None = None) -> Element:
    element = SubElement(parent, tag, attributes or {})
    element.text = text
    return element


def _table(parent: Element, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = SubElement(parent, "table")
    line = SubElement(table, "tr")
    for heading in headings:
        _text(line, "th", heading)
    for row in rows:
        line = SubElement(table, "tr")
        for cell in row:
            _text(line, "td", cell)


def _span_cells(span: Span) -> Sequence[str]:
    return instant(span.at_ms), duration(span.took_ms), span.host, span.what, span.waits_for


# -- drawings ------------------------------------------------------------------------------------------------------


def _drawing(height: int, label: str) -> Element:
    box = {"viewBox": f"0 0 {WIDTH} {height}", "role": "img", "aria-label": label}
    return Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **box})


def _x(at_ms: float, total_ms: int) -> float:
    return round(LEFT + (WIDTH - LEFT - 10) * at_ms / max(1, total_ms), 1)


def _axis(svg: Element, total_ms: int, top: int, bottom: int) -> None:
    """Lines at round times, with their labels below."""
    for at_ms in range(0, total_ms + 1, _tick_ms(total_ms)):
        x = str(_x(at_ms, total_ms))
        SubElement(svg, "line", {"x1": x, "x2": x, "y1": str(top), "y2": str(bottom), "class": "axis"})
        _text(svg, "text", duration(at_ms), {"x": x, "y": str(bottom + 16), "class": "dim", "text-anchor": "middle"})


def _tick_ms(total_ms: int) -> int:
    """A round number of which the whole has between five and twelve or so."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if total_ms / (step * factor) <= 10:
                return step * factor
        step *= 10


def _timeline(found: Report) -> Element:
    lanes = [side for side in Side if any(span.side is side for span in found.spans)]
    bottom = 10 + LANE * len(lanes)
    svg = _drawing(bottom + 26, "what each host did, over time")
    _axis(svg, found.total_ms, 6, bottom)
    for lane, side in enumerate(lanes):
        y = 14 + LANE * lane
        _text(svg, "text", found.source if side is Side.SOURCE else found.destination, {"x": "4", "y": str(y + 20)})
        for span in found.spans:
            if span.side is side:
                kind = "wait" if span.waits_for else "work"
                _box(
                    svg,
                    found.total_ms,
                    (span.at_ms, span.took_ms),
                    (y, LANE - 14),
                    kind,
                    f"{duration(span.took_ms)}: {in_words(span)}",
                )
    if found.pause:
        times = (found.pause.at_ms, found.pause.took_ms)
        _box(
            svg,
            found.total_ms,
            times,
            (6, bottom - 6),
            "pause",
            f"the guest stands still for {duration(found.pause.took_ms)}",
        )
    return svg


def _box(svg: Element, total_ms: int, times_ms: tuple[int, int], place: tuple[int, int], kind: str, words: str) -> None:
    (at_ms, took_ms), (y, height) = times_ms, place
    x = _x(at_ms, total_ms)
    width = max(1.5, round(_x(at_ms + took_ms, total_ms) - x - 1, 1))
    box = {"x": str(x), "y": str(y), "width": str(width), "height": str(height), "rx": "2", "class": kind}
    _text(SubElement(svg, "rect", box), "title", words)


def _chart(found: Report) -> Element:
    """What was still to be sent as an area; the two rates as lines, by a scale of their own."""
    svg = _drawing(CHART + 46, "what was still to be sent, and how fast")
    _axis(svg, found.total_ms, 20, CHART)
    rounds = found.rounds
    most_rest = max(1, *(one.figures.remaining_bytes for one in rounds))
    most_rate = max(1, *(max(one.figures.bytes_per_s, one.figures.dirty_bytes_per_s) for one in rounds))
    corners = [(one.at_ms, _y(one.figures.remaining_bytes, most_rest)) for one in rounds]
    area = [(corners[0][0], float(CHART)), *corners, (corners[-1][0], float(CHART))]
    SubElement(svg, "polygon", {"points": _points(area, found.total_ms), "class": "rest"})
    for name in ("rate", "dirty"):
        path = [
            (one.at_ms, _y(one.figures.bytes_per_s if name == "rate" else one.figures.dirty_bytes_per_s, most_rate))
            for one in rounds
        ]
        SubElement(svg, "polyline", {"points": _points(path, found.total_ms), "class": f"line {name}"})
        for at_ms, y in path:
            SubElement(svg, "circle", {"cx": str(_x(at_ms, found.total_ms)), "cy": str(y), "r": "3", "class": f"dot {name}"})
    _text(svg, "text", size(most_rest), {"x": "4", "y": "30"})
    _text(svg, "text", "to send", {"x": "4", "y": "46", "class": "dim"})
    legend = (
        f"area: still to send (top {size(most_rest)}); green: rate, orange: what the guest writes (top {rate(most_rate)})"
    )
    _text(svg, "text", legend, {"x": str(LEFT), "y": str(CHART + 40), "class": "dim"})
    return svg


def _y(value: int, most: int) -> float:
    return round(CHART - (CHART - 24) * value / most, 1)


def _points(corners: Iterable[tuple[float, float]], total_ms: int) -> str:
    return " ".join(f"{_x(at_ms, total_ms)},{y}" for at_ms, y in corners)
