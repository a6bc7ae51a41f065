"""Sizes and times in words."""

import math

import pytest

from vmferry.cli import units
from vmferry.cli.units import about


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 69, "512.0 EiB"),
        (1 << 72, "4096.0 EiB"),
    ],
)
def test_sizes(count, text):
    """Sizes."""
    assert units.size(count) == text


@pytest.mark.parametrize(
    ("span_ms", "text"),
    [(0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (59_999, "59.9 s"), (125_000, "2 min 05 s"), (11_220_000, "3 h 07 min")],
)
def test_durations(span_ms, text):
    """Durations."""
    assert units.duration(span_ms) == text


def test_others():
    """Others."""
    assert units.rate(1 << 20) == "1.0 MiB/s"
    assert units.clock(3_725_000) == "1:02:05"
    assert [units.percent(value) for value in (0.0, 0.999, 1.0)] == ["  0 %", " 99 %", "100 %"]
    assert [units.counted(number, "round") for number in (1, 2)] == ["1 round", "2 rounds"]


@pytest.mark.parametrize(
    ("span_s", "least", "most"),
    [
        (0.2, "0 s", "1 s"),
        (59.0, "59 s", "59 s"),
        (61.0, "1 min", "1 min 05 s"),
        (299.5, "4 min 55 s", "5 min"),
        (350.0, "5 min", "6 min"),
        (3599.0, "59 min", "1 h"),
        (4000.0, "1 h", "1 h 10 min"),
    ],
)
def test_estimates_are_rounded(span_s, least, most):
    """To what an estimate can know, downwards and upwards."""
    assert (about(span_s, math.floor), about(span_s, math.ceil)) == (least, most)
