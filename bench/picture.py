"""Throughput and pause of each way, as bars beside raw QEMU's: an SVG. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from bench.figures import Summary

_WIDTH, _BAR, _GAP, _LABEL, _TOP = 860, 14, 4, 210, 46
_COLUMN = (_WIDTH - _LABEL) // 2 - 70
_COLOURS = ("#4c78a8", "#e45756")


def picture(found: Sequence[Summary], title: str) -> str:
    """The picture; one row for each summary, two columns."""
    height = _TOP + len(found) * (_BAR + _GAP) + len({one.guest for one in found}) * 22 + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"',
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(8, 16, title, "bold"),
        _text(_LABEL, 36, "throughput, MB/s"),
        _text(_LABEL + _COLUMN + 70, 36, "pause that the guest saw, ms"),
        *_rows(found),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _rows(found: Sequence[Summary]) -> Iterator[str]:
    values = [[one.bytes_per_s / 1e6 for one in found], [one.pause_ms for one in found]]
    y, guest = _TOP, ""
    for row, one in enumerate(found):
        if one.guest != guest:
            guest, y = one.guest, y + 22
            yield _text(8, y - 6, guest, "bold")
        yield _text(20, y + 11, one.way)
        for column, of_column in enumerate(values):
            x, value = _LABEL + column * (_COLUMN + 70), of_column[row]
            length = round(_COLUMN * value / max(*of_column, 1e-9, 0))
            yield f'<rect x="{x}" y="{y}" width="{length}" height="{_BAR}" fill="{_COLOURS[column]}"/>'
            yield _text(x + length + 4, y + 11, f"{value:.0f}")
        y += _BAR + _GAP


def _text(x: int, y: int, words: str, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" font-weight="{weight}">{escape(words)}</text>'
