"""Amounts of memory."""

import pytest

from vmferryd.domains.units import SPELLINGS, unit_bytes, whole_kib


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        *(("b", 1), ("bytes", 1), ("KB", 1000), ("k", 1024), ("KiB", 1024), ("MB", 1000**2), ("M", 1024**2)),
        *(("MiB", 1024**2), ("GB", 1000**3), ("G", 1024**3), ("gib", 1024**3), ("T", 1024**4), ("TB", 1000**4)),
    ],
)
def test_units_are_libvirts(unit, expected):
    """Binary with 'i' or alone, decimal with 'B', in any case."""
    assert expected == unit_bytes(unit)


@pytest.mark.parametrize("unit", ["", "ib", "pages", "KiBi", "x"])
def test_other_units_are_unknown(unit):
    """What libvirt does not know has no size."""
    assert unit_bytes(unit) is None


def test_every_advertised_spelling_is_known():
    """The remedy names only units that work."""
    assert all(unit_bytes(unit) for unit in SPELLINGS.split(", "))


@pytest.mark.parametrize(("size_bytes", "expected"), [(1, 1024), (1024, 1024), (1025, 2048)])
def test_sizes_are_rounded_up(size_bytes, expected):
    """A guest never gets less than it was promised."""
    assert expected == whole_kib(size_bytes)
