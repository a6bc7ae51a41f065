"""The pages of a simulated guest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferryd.drivers.memory.pages import PAGE_BYTES, ZERO_PAGE, GuestMemory, Layout, page_content

LAYOUT = Layout(seed=7, total_pages=16, resident_pages=8, working_set_pages=4)


def test_a_page_differs_by_seed_number_and_version() -> None:
    """No two of them have the same bytes, and each has a page's length."""
    contents = {page_content(seed, number, version) for seed in (1, 2) for number in (0, 1) for version in (0, 1)}
    assert len(contents) == 8
    assert {len(content) for content in contents} == {PAGE_BYTES}


@given(writes=st.integers(0, 200), number=st.integers(0, 15))
def test_the_version_counts_the_writes_to_a_page(writes: int, number: int) -> None:
    """The closed form agrees with writing one page after the other."""
    counted = sum(write % LAYOUT.working_set_pages == number for write in range(writes))
    assert LAYOUT.version(number, writes) == counted


@given(steps=st.lists(st.integers(0, 30), max_size=20))
def test_memory_is_never_damaged_by_its_own_writes(steps: list[int]) -> None:
    """However the time between two looks is cut up, each page holds its last version."""
    memory = GuestMemory(LAYOUT, powered_on=True)
    for step in steps:
        memory.write_until(memory.writes + step)
    assert memory.damage() == ()
    assert memory.dirty == {write % LAYOUT.working_set_pages for write in range(sum(steps))}


def test_taking_the_dirty_pages_cleans_them() -> None:
    """The next one to ask gets only what was written since."""
    memory = GuestMemory(LAYOUT, powered_on=True)
    memory.write_until(2)
    assert memory.take_dirty() == [0, 1]
    memory.write_until(3)
    assert memory.take_dirty() == [2]
    assert memory.take_dirty() == []


def test_pages_beyond_the_resident_ones_are_zero() -> None:
    """They take no room, and none of them is wrong."""
    memory = GuestMemory(LAYOUT, powered_on=True)
    assert memory.read(LAYOUT.resident_pages) == ZERO_PAGE
    assert memory.damage() == ()


@pytest.mark.parametrize("number", [0, 5, 12])
def test_a_page_with_other_bytes_is_found(number: int) -> None:
    """In the working set, in the resident pages, and beyond them."""
    memory = GuestMemory(LAYOUT, powered_on=True)
    before = memory.digest()
    memory.load(number, b"\1" * PAGE_BYTES)
    assert memory.damage() == (number,)
    assert (memory.digest() == before) == (number >= LAYOUT.resident_pages)


def test_a_page_that_never_arrived_is_found() -> None:
    """A destination that got all pages but one, and the CPU's state, knows which one is missing."""
    source, destination = GuestMemory(LAYOUT, powered_on=True), GuestMemory(LAYOUT, powered_on=False)
    source.write_until(6)
    for number in range(LAYOUT.resident_pages):
        if number != 3:
            destination.load(number, source.read(number))
    destination.adopt(LAYOUT, source.writes)
    assert destination.damage() == (3,)
