"""The table of flags against libvirt's numbers, and the masks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import InvalidParameter
from vmferry.features import Feature
from vmferry.flags import (
    BY_FLAG,
    FLAGS,
    KNOWN,
    NONE,
    Flag,
    as_markdown,
    destination_flags,
    known,
    names,
    source_flags,
    unknown_bits,
)
from vmferry.model import Side

# Specification 3.1 (numbers, names, sides) and 7.1 (options).
SPECIFIED = """
0 LIVE source --live
1 PEER2PEER source,destination --p2p
2 TUNNELLED source,destination --tunnelled
3 PERSIST_DEST destination --persistent
4 UNDEFINE_SOURCE source --undefinesource
5 PAUSED destination --suspend
6 NON_SHARED_DISK source,destination --copy-storage-all
7 NON_SHARED_INC source,destination --copy-storage-inc
8 CHANGE_PROTECTION source --change-protection
9 UNSAFE source --unsafe
10 OFFLINE source,destination --offline
11 COMPRESSED source,destination --compressed
12 ABORT_ON_ERROR source --abort-on-error
13 AUTO_CONVERGE source --auto-converge
14 RDMA_PIN_ALL source,destination --rdma-pin-all
15 POSTCOPY source,destination --postcopy
16 TLS source,destination --tls
17 PARALLEL source,destination --parallel
18 NON_SHARED_SYNCHRONOUS_WRITES source --copy-storage-synchronous-writes
19 POSTCOPY_RESUME source,destination --postcopy-resume
20 ZEROCOPY source --zerocopy
"""


@pytest.mark.parametrize("line", SPECIFIED.split("\n")[1:-1])
def test_each_row(line: str) -> None:
    """Number, name, sides and option are the specified ones."""
    bit, name, sides, option = line.split()
    row = BY_FLAG[Flag(1 << int(bit))]
    assert (row.bit, row.name, row.option) == (int(bit), name, option)
    assert row.sides == tuple(Side(side) for side in sides.split(","))
    assert row.meaning.endswith(".")


def test_every_flag_has_one_row_in_the_order_of_its_number() -> None:
    """No gap, no duplicate."""
    assert [row.bit for row in FLAGS] == list(range(21))
    assert len(Flag) == len(FLAGS) == len({row.option for row in FLAGS})
    assert KNOWN.value == (1 << 21) - 1


def test_the_features_that_flags_need() -> None:
    """Three flags need an announcement."""
    assert {row.flag: row.feature for row in FLAGS if row.feature} == {
        Flag.PEER2PEER: Feature.MIGRATION_P2P,
        Flag.CHANGE_PROTECTION: Feature.MIGRATE_CHANGE_PROTECTION,
        Flag.OFFLINE: Feature.MIGRATION_OFFLINE,
    }


@pytest.mark.parametrize(("value", "bits"), [(0, ()), (KNOWN.value, ()), (1 << 21, (21,)), (1 << 40 | 1 << 25 | 3, (25, 40))])
def test_unknown_bits_are_named(value: int, bits: tuple[int, ...]) -> None:
    """By their numbers, ascending."""
    assert unknown_bits(value) == bits


def test_names_tell_known_flags_and_unknown_bits() -> None:
    """Nothing that is set stays unnamed."""
    assert names(Flag(1 | 1 << 30)) == ("LIVE", "bit 30")
    assert names(NONE) == ()


@given(st.integers(0, (1 << 32) - 1))
def test_a_value_with_unknown_bits_is_refused_with_all_their_names(value: int) -> None:
    """What is known passes unchanged."""
    strange = unknown_bits(value)
    if not strange:
        assert known(value) == value
        return
    with pytest.raises(InvalidParameter) as caught:
        known(value)
    assert [violation.subject for violation in caught.value.violations] == [f"bit {bit}" for bit in strange]


@given(st.integers(0, (1 << 32) - 1))
def test_the_destination_never_sees_what_concerns_the_source_alone(value: int) -> None:
    """Exactly three bits are taken away; unknown ones stay, so that the daemon can name them."""
    masked = destination_flags(Flag(value))
    assert not masked & (Flag.CHANGE_PROTECTION | Flag.ABORT_ON_ERROR | Flag.AUTO_CONVERGE)
    assert masked | (Flag(value) & (1 << 8 | 1 << 12 | 1 << 13)) == Flag(value)


@given(st.integers(0, KNOWN.value))
def test_the_source_sees_the_request_and_protection(value: int) -> None:
    """Nothing but protection is added."""
    assert source_flags(Flag(value)) == Flag(value)
    assert source_flags(Flag(value), protection=Flag.CHANGE_PROTECTION) == Flag(value | 1 << 8)
    assert source_flags(Flag(value), protection=Flag.TLS) == Flag(value)


def test_the_table_is_drawn() -> None:
    """One line for each flag."""
    drawn = as_markdown()
    assert len(drawn.splitlines()) == 2 + len(FLAGS)
    assert all(f"| {row.name} | `{row.option}` |" in drawn for row in FLAGS)
