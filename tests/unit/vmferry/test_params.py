"""The table of typed parameters against the specification, and both spellings."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmferry import params
from vmferry.errors import InvalidParameter, NotSupported, VmferryError
from vmferry.flags import names as flag_names
from vmferry.model import Side
from vmferry.params import (
    BY_NAME,
    PARAMETERS,
    Fixed,
    Kind,
    MigrationParams,
    ParameterRow,
    Spellings,
    as_markdown,
    checked,
    for_party,
    from_fixed,
    p2p_forwarded,
    read_typed,
    scheme,
    to_fixed,
    typed_only,
    write_typed,
)

# Specification 3.3, 1.7, 2.2 and 7.1: name, type, what it needs, party, S sent on by a source that coordinates, F fixed
# spelling too, option.
SPECIFIED = """
migrate_uri                  S   -                                both   SF --migrateuri
destination_name             S   -                                both   SF --dname
destination_xml              S   -                                both   SF --xml
persistent_xml               S   PERSIST_DEST                     src    -  --persistent-xml
bandwidth                    UL  -                                src    SF --bandwidth
bandwidth.postcopy           UL  -                                both   S  --postcopy-bandwidth
bandwidth.avail.switchover   UL  -                                src    -  --available-switchover-bandwidth
graphics_uri                 S   -                                src    S  --graphicsuri
listen_address               S   -                                dst    S  --listen-address
migrate_disks                S*  NON_SHARED_DISK|NON_SHARED_INC   both   S  --migrate-disks
migrate_disks_detect_zeroes  S*  NON_SHARED_DISK|NON_SHARED_INC   src    -  --migrate-disks-detect-zeroes
migrate_disks_target_zero    S*  NON_SHARED_DISK|NON_SHARED_INC   src    -  --migrate-disks-target-zero
disks_port                   I   NON_SHARED_DISK|NON_SHARED_INC   dst    S  --disks-port
disks_uri                    S   NON_SHARED_DISK|NON_SHARED_INC   both   S  --disks-uri
compression                  S*  -                                both   S  --comp-methods
compression.mt.level         I   mt                               both   S  --comp-mt-level
compression.mt.threads       I   mt                               both   S  --comp-mt-threads
compression.mt.dthreads      I   mt                               both   S  --comp-mt-dthreads
compression.xbzrle.cache     UL  xbzrle                           both   S  --comp-xbzrle-cache
compression.zlib.level       I   zlib                             both   S  --comp-zlib-level
compression.zstd.level       I   zstd                             both   S  --comp-zstd-level
auto_converge.initial        I   AUTO_CONVERGE                    src    -  --auto-converge-initial
auto_converge.increment      I   AUTO_CONVERGE                    src    -  --auto-converge-increment
parallel.connections         I   PARALLEL                         both   S  --parallel-connections
tls.destination              S   TLS                              src    -  --tls-destination
vmferry.downtime.max         UL  LIVE                             src    -  --max-downtime
vmferry.downtime.fixed       UL  LIVE                             src    -  --fixed-downtime
"""
KINDS = {"S": Kind.STRING, "I": Kind.INT, "UL": Kind.UNSIGNED}
PARTIES = {"src": {Side.SOURCE}, "dst": {Side.DESTINATION}, "both": set(Side)}

GOOD: dict[str, list[str | int]] = {
    "bandwidth": [0, 1, 2**43 - 1],
    "bandwidth.postcopy": [0, 2**44 - 1],
    "bandwidth.avail.switchover": [0, 2**43 - 1],
    "graphics_uri": ["spice://host-b:5900", "vnc://[fd00::2]:5900/?tlsPort=5901&tlsSubject=CN"],
    "disks_port": [0, 1, 65535],
    "disks_uri": ["tcp://host-b:49153", "tcp://host-b", "unix:///run/nbd.sock"],
    "compression": ["xbzrle", "mt", "zlib", "zstd"],
    "compression.mt.level": [0, 9],
    "compression.mt.threads": [1, 255],
    "compression.mt.dthreads": [1, 255],
    "compression.xbzrle.cache": [4096, 1 << 26, 1 << 63],
    "compression.zlib.level": [0, 9],
    "compression.zstd.level": [0, 20],
    "auto_converge.initial": [1, 99],
    "auto_converge.increment": [1, 99],
    "parallel.connections": [1, 255],
    "vmferry.downtime.max": [1, 2_000_000],
    "vmferry.downtime.fixed": [1, 2_000_000],
}
BAD: dict[str, list[object]] = {
    "bandwidth": [-1, 2**43, "1", 1.5, True],
    "bandwidth.postcopy": [-1, 2**44],
    "bandwidth.avail.switchover": [-1, 2**43],
    "graphics_uri": ["http://host-b", "spice:", "vnc://", "host-b", "spice://[::1", "vnc://host:0", "vnc://host:99999"],
    "disks_port": [-1, 65536, "", "80", False],
    "disks_uri": ["rdma://host-b", "tcp://", "unix:relative", "unix://host/path", "host-b:1", "tcp://host:x"],
    "compression": ["", "gzip", "XBZRLE", 1],
    "compression.mt.level": [-1, 10],
    "compression.mt.threads": [0, 256],
    "compression.mt.dthreads": [0, 256],
    "compression.xbzrle.cache": [0, 1, 2048, 4097, 3 << 20, (1 << 63) + 1, 1 << 64],
    "compression.zlib.level": [-1, 10],
    "compression.zstd.level": [-1, 21],
    "auto_converge.initial": [0, 100],
    "auto_converge.increment": [0, 100],
    "vmferry.downtime.max": [0, 2_000_001],
    "vmferry.downtime.fixed": [0, 2_000_001],
    "parallel.connections": [0, 256],
}
ANY_TEXT: list[str | int] = ["x", "a:b", "\N{SNOWMAN}"]
NO_TEXT: list[object] = ["", 1, None, b"x", "x" * (4 * 1024 * 1024 + 1)]


@pytest.mark.parametrize("line", SPECIFIED.split("\n")[1:-1])
def test_each_row(line: str) -> None:
    """Every column is the specified one."""
    name, kind, needs, party, marks, option = line.split()
    row = BY_NAME[name]
    assert row.kind is KINDS[kind.rstrip("*")]
    assert row.repeatable is kind.endswith("*")
    assert (row.needs_method or "|".join(flag_names(row.needs_any)) or "-") == needs
    assert set(row.sides) == PARTIES[party]
    assert (row.forwarding is params.Forwarding.SENT_ON) is ("S" in marks)
    assert (row.spellings is Spellings.BOTH) is ("F" in marks)
    assert row.option == option
    assert row.meaning.endswith(".")


def test_every_attribute_has_one_row_and_every_row_one_attribute() -> None:
    """And both lists have the same order."""
    assert [row.attribute for row in PARAMETERS] == [field.name for field in fields(MigrationParams)]
    assert [row.name for row in PARAMETERS] == [line.split()[0] for line in SPECIFIED.split("\n")[1:-1]]


CASES_GOOD = [(row, value) for row in PARAMETERS for value in GOOD.get(row.name, ANY_TEXT)]
CASES_BAD = [(row, value) for row in PARAMETERS for value in BAD.get(row.name, NO_TEXT)]


@pytest.mark.parametrize(("row", "value"), CASES_GOOD, ids=lambda value: str(getattr(value, "name", value))[:30])
def test_what_is_in_range_is_read_and_written_back(row: ParameterRow, value: str | int) -> None:
    """The bounds belong to the range."""
    read = read_typed([(row.name, value)])
    assert getattr(read, row.attribute) == ((value,) if row.repeatable else value)
    assert write_typed(read) == [(row.name, value)]
    assert params.given(read) == (row,)


@pytest.mark.parametrize(("row", "value"), CASES_BAD, ids=lambda value: str(getattr(value, "name", value))[:30])
def test_what_is_not_is_refused_by_name(row: ParameterRow, value: str | int) -> None:
    """Beyond the bounds, of another type, empty or of the wrong shape."""
    with pytest.raises(InvalidParameter) as caught:
        read_typed([(row.name, value)])
    assert [violation.subject for violation in caught.value.violations] == [row.name]


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.name)
def test_a_name_may_be_repeated_only_where_the_table_says_so(row: ParameterRow) -> None:
    """And never with the same value."""
    some: list[str | int] = GOOD.get(row.name, ANY_TEXT)
    first, second = some[0], some[-1]
    pairs: list[tuple[str, str | int]] = [(row.name, first), (row.name, second)]
    if row.repeatable:
        assert getattr(read_typed(pairs), row.attribute) == (first, second)
        pairs = [(row.name, first), (row.name, first)]
    with pytest.raises(InvalidParameter) as caught:
        read_typed(pairs)
    assert "times" in str(caught.value)


def test_an_unknown_name_is_not_supported() -> None:
    """A newer daemon might know it."""
    with pytest.raises(NotSupported) as caught:
        read_typed([("bandwidth", 1), ("warp", 9)])
    assert [str(violation) for violation in caught.value.violations] == [
        "warp: is not known here (check the spelling, or leave it out)"
    ]


def test_all_findings_come_at_once() -> None:
    """One error, in the order of the request."""
    with pytest.raises(InvalidParameter) as caught:
        read_typed([("warp", 9), ("bandwidth", -1), ("disks_port", 1), ("disks_port", 2), ("compression", "gzip")])
    assert [violation.subject for violation in caught.value.violations] == [
        "warp",
        "bandwidth",
        "compression",
        "disks_port",
    ]


def test_more_parameters_than_one_call_can_carry_are_refused() -> None:
    """The bound is the wire's."""
    assert len(read_typed([("migrate_disks", f"vd{n}") for n in range(64)]).migrate_disks) == 64
    with pytest.raises(InvalidParameter, match="refused") as caught:
        read_typed([("migrate_disks", f"vd{n}") for n in range(65)])
    assert "65 parameters" in str(caught.value)


def test_nothing_given_is_nothing_written() -> None:
    """Defaults do not travel."""
    assert read_typed([]) == MigrationParams()
    assert write_typed(MigrationParams()) == []


# -- both spellings ----------------------------------------------------------------------------------------------------


def values(row: ParameterRow) -> st.SearchStrategy[object]:
    """What a row accepts."""
    if row.attribute == "compression_xbzrle_cache_bytes":
        return st.integers(12, 63).map(lambda shift: 1 << shift)
    if row.kind is not Kind.STRING:
        return st.integers(row.minimum, row.maximum)
    some = st.sampled_from(GOOD[row.name]) if row.name in GOOD else st.text(min_size=1, max_size=20)
    return st.lists(some, max_size=5, unique=True).map(tuple) if row.repeatable else some


def any_params() -> st.SearchStrategy[MigrationParams]:
    """Every `MigrationParams` that can be asked for."""
    return st.fixed_dictionaries({}, optional={row.attribute: values(row) for row in PARAMETERS}).map(
        lambda chosen: MigrationParams(**chosen)  # type: ignore[arg-type]
    )


@given(any_params())
@settings(max_examples=300)
def test_the_typed_spelling_is_read_as_it_was_written(wanted: MigrationParams) -> None:
    """For everything that can be asked for."""
    assert read_typed(write_typed(wanted)) == wanted
    assert checked(wanted) == wanted


@given(any_params())
def test_the_order_of_different_names_does_not_matter(wanted: MigrationParams) -> None:
    """Only the order of a repeated name does, and it is kept."""
    pairs = write_typed(wanted)
    assert read_typed(sorted(pairs, key=lambda pair: pair[0], reverse=True)) == wanted


@given(any_params())
def test_the_fixed_spelling_holds_what_fits_and_refuses_the_rest(wanted: MigrationParams) -> None:
    """Nothing falls off silently."""
    misfits = typed_only(wanted)
    if misfits:
        with pytest.raises(NotSupported) as caught:
            to_fixed(wanted)
        assert tuple(violation.subject for violation in caught.value.violations) == misfits
    else:
        again = from_fixed(to_fixed(wanted))
        assert again.bandwidth_mib_per_s == (wanted.bandwidth_mib_per_s or None)
        assert to_fixed(again) == to_fixed(wanted)


def test_the_fixed_spelling_has_four_places() -> None:
    """Empty places mean not given."""
    wanted = MigrationParams(
        migrate_uri="tcp:b:1", destination_name="web-2", destination_xml="<domain/>", bandwidth_mib_per_s=5
    )
    assert to_fixed(wanted) == Fixed("tcp:b:1", "web-2", 5, "<domain/>")
    assert from_fixed(Fixed("tcp:b:1", "web-2", 5, "<domain/>")) == wanted
    assert from_fixed(Fixed("", "", 0, "")) == from_fixed(Fixed()) == MigrationParams()


@pytest.mark.parametrize("bandwidth", [-1, 2**43])
def test_the_fixed_spelling_is_checked_as_well(bandwidth: int) -> None:
    """The same bounds hold."""
    with pytest.raises(InvalidParameter):
        from_fixed(Fixed(bandwidth_mib_per_s=bandwidth))


# -- parties -----------------------------------------------------------------------------------------------------------


@given(any_params())
def test_each_side_gets_what_it_uses(wanted: MigrationParams) -> None:
    """No more, no less."""
    for side in Side:
        kept = params.given(for_party(wanted, side))
        assert kept == tuple(row for row in params.given(wanted) if side in row.sides)


@given(any_params())
def test_a_coordinating_source_sends_on_what_the_destination_must_know(wanted: MigrationParams) -> None:
    """And keeps what concerns itself alone."""
    sent = {row.name for row in params.given(p2p_forwarded(wanted))}
    used_there = {row.name for row in params.given(wanted) if Side.DESTINATION in row.sides}
    assert used_there <= sent
    assert not sent & {"persistent_xml", "auto_converge.initial", "auto_converge.increment", "tls.destination"}


def test_bandwidth_0_is_not_sent_on() -> None:
    """It means the stored value of the source's domain."""
    assert p2p_forwarded(MigrationParams(bandwidth_mib_per_s=0)) == MigrationParams()
    assert p2p_forwarded(MigrationParams(bandwidth_mib_per_s=7)).bandwidth_mib_per_s == 7


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("tcp:b:1", "tcp"),
        ("tcp://b:1", "tcp"),
        ("UNIX:///s", "unix"),
        ("rdma://b", "rdma"),
        ("b", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_scheme_of_a_migration_uri(uri: str | None, found: str) -> None:
    """With and without slashes."""
    assert scheme(uri) == found


def test_the_table_is_drawn() -> None:
    """One line for each parameter."""
    drawn = as_markdown()
    assert len(drawn.splitlines()) == 2 + len(PARAMETERS)
    assert all(f"| `{row.name}` |" in drawn for row in PARAMETERS)


def test_a_refusal_is_one_of_ours() -> None:
    """A word where a number belongs."""
    with pytest.raises(VmferryError, match="refused"):
        read_typed([("bandwidth", "much")])  # a word where a number belongs
