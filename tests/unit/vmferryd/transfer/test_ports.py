"""Ports of single migrations: each is held once, and given back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmferryd.transfer.ports import Ports


def test_first_free_port() -> None:
    """The range is gone through in its order, and a port that was just given back comes last."""
    ports = Ports(10, 12)
    assert [10, 11, 12] == list(ports.candidates())
    ports.hold(10)
    assert [11, 12] == list(ports.candidates())
    ports.release(10)
    assert [11, 12, 10] == list(ports.candidates())
    ports.hold(12)
    assert [10, 11] == list(ports.candidates())


def test_nothing_left() -> None:
    """The error says who has the ports, and what helps."""
    ports = Ports(10, 11)
    ports.hold(10)
    ports.hold(99)
    error = ports.exhausted()
    assert "10 to 11" in error.message
    assert "hold 1 of them" in error.message
    assert "data.first_port" in error.remedy


def test_ports_outside_of_the_range() -> None:
    """They can be held, and change nothing for the others."""
    ports = Ports(10, 11)
    ports.hold(99)
    assert frozenset({99}) == ports.held
    assert [10, 11] == list(ports.candidates())
    ports.release(99)
    ports.release(99)
    assert frozenset() == ports.held


@given(st.lists(st.tuples(st.booleans(), st.integers(10, 14)), max_size=40))
def test_candidates_are_the_ports_that_nobody_holds(steps: list[tuple[bool, int]]) -> None:
    """Each once, after whatever was held and given back."""
    ports, held = Ports(10, 14), set()
    for holds, port in steps:
        (ports.hold if holds else ports.release)(port)
        (held.add if holds else held.discard)(port)
        assert sorted(ports.candidates()) == sorted(set(range(10, 15)) - held)
        assert ports.held == held
