"""Every rule of the table: broken by the request that the specification names, mended by each part that it lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vmferry import params as parameter_table
from vmferry.combinations import (
    BOTH_HOSTS,
    BY_NAME,
    EVERYWHERE,
    LIBVIRT_CODES,
    RULES,
    CombinationRule,
    Fact,
    Handling,
    Place,
    as_markdown,
    broken,
    check,
    facts_of,
    methods,
    violations,
)
from vmferry.errors import InvalidParameter, NotSupported
from vmferry.flags import NONE, Flag, destination_flags, names
from vmferry.model import Side
from vmferry.params import MigrationParams, ParameterRow

C, S, D, T = Place.CLIENT, Place.SOURCE, Place.DESTINATION, Place.TOOL
F, P = Flag, MigrationParams
UNIX, TCP, RDMA = "unix:///run/m.sock", "tcp://host-b:49152", "rdma://host-b"
LIVE_POST = F.POSTCOPY | F.LIVE
OFFLINE = F.OFFLINE | F.PERSIST_DEST
INVALID, UNSUPPORTED = InvalidParameter, NotSupported

# Specification 3.2, row by row, and the later ones of section 10: rule, where, flags, parameters, facts, error.
Case = tuple[str, Place, Flag, MigrationParams, set[Fact], type[Exception]]
CASES: list[Case] = [
    ("storage-all-and-inc", C, F.NON_SHARED_DISK | F.NON_SHARED_INC, P(), set(), INVALID),
    ("synchronous-writes-without-copy", C, F.NON_SHARED_SYNCHRONOUS_WRITES, P(), set(), INVALID),
    ("managed-peer2peer", C, F.PEER2PEER, P(), {Fact.MIGRATE3_CALL}, INVALID),
    ("direct-not-offered", C, F.LIVE, P(), {Fact.TO_URI_CALL}, UNSUPPORTED),
    ("direct-offline", C, F.OFFLINE | F.PERSIST_DEST, P(), {Fact.TO_URI_CALL, Fact.DIRECT_OFFERED}, INVALID),
    ("direct-tunnelled", C, F.TUNNELLED, P(), {Fact.TO_URI_CALL, Fact.DIRECT_OFFERED}, INVALID),
    ("direct-persist", C, F.PERSIST_DEST, P(), {Fact.TO_URI_CALL, Fact.DIRECT_OFFERED}, INVALID),
    ("direct-destination", C, NONE, P(destination_name="x"), {Fact.TO_URI_CALL, Fact.DIRECT_OFFERED}, INVALID),
    ("direct-set-up", C, F.TLS, P(), {Fact.TO_URI_CALL, Fact.DIRECT_OFFERED}, INVALID),
    ("offline-without-persist", S | D, F.OFFLINE, P(), set(), INVALID),
    ("offline-memory", S, OFFLINE | F.AUTO_CONVERGE, P(), set(), INVALID),
    ("offline-memory-parameters", S, OFFLINE | F.NON_SHARED_DISK, P(compression=("xbzrle",)), set(), INVALID),
    ("offline-addresses", S, OFFLINE | F.NON_SHARED_DISK, P(disks_port=1), set(), INVALID),
    ("offline-bandwidth", S, OFFLINE, P(bandwidth_mib_per_s=1), set(), INVALID),
    ("offline-two-definitions", S, OFFLINE, P(destination_xml="<a/>", persistent_xml="<a/>"), set(), INVALID),
    ("offline-target-zero", S, OFFLINE | F.NON_SHARED_INC, P(migrate_disks_target_zero=("vda",)), set(), INVALID),
    (
        "offline-synchronous-writes",
        S,
        OFFLINE | F.NON_SHARED_DISK | F.NON_SHARED_SYNCHRONOUS_WRITES,
        P(),
        set(),
        INVALID,
    ),
    ("offline-tunnelled", D, F.OFFLINE | F.PERSIST_DEST | F.TUNNELLED, P(), set(), INVALID),
    ("zerocopy-without-parallel", S, F.ZEROCOPY, P(), set(), INVALID),
    ("zerocopy-tls", S, F.ZEROCOPY | F.PARALLEL | F.TLS, P(), set(), INVALID),
    ("zerocopy-compressed", S, F.ZEROCOPY | F.PARALLEL, P(compression=("zstd",)), set(), INVALID),
    ("postcopy-without-live", S | D, F.POSTCOPY, P(), set(), UNSUPPORTED),
    ("postcopy-paused", S | D, LIVE_POST | F.PAUSED, P(), set(), UNSUPPORTED),
    ("postcopy-parallel", S | D, LIVE_POST | F.PARALLEL, P(), set(), INVALID),
    ("resume-without-postcopy", S | D, F.POSTCOPY_RESUME | F.PEER2PEER, P(), set(), UNSUPPORTED),
    ("resume-without-protection", S, LIVE_POST | F.POSTCOPY_RESUME, P(), set(), UNSUPPORTED),
    ("tls-forced", S | D, F.LIVE, P(), {Fact.TLS_FORCED}, INVALID),
    ("tls-unix-without-name", S, F.TLS, P(migrate_uri=UNIX), set(), UNSUPPORTED),
    ("tls-unix-disks", S, F.TLS | F.NON_SHARED_DISK, P(disks_uri=UNIX), set(), UNSUPPORTED),
    ("rdma-missing", S | D, F.LIVE, P(migrate_uri=RDMA), {Fact.RDMA_MISSING}, UNSUPPORTED),
    ("rdma-without-hard-limit", S | D, F.LIVE, P(migrate_uri=RDMA), {Fact.HARD_LIMIT_MISSING}, INVALID),
    ("tunnelled-addresses", C | S | D, F.TUNNELLED, P(migrate_uri=TCP), set(), UNSUPPORTED),
    ("tunnelled-addresses", C | S | D, F.TUNNELLED, P(listen_address="::"), set(), UNSUPPORTED),
    ("tunnelled-addresses", C | S | D, F.TUNNELLED | F.NON_SHARED_DISK, P(disks_port=9), set(), UNSUPPORTED),
    ("tunnelled-addresses", C | S | D, F.TUNNELLED | F.NON_SHARED_DISK, P(disks_uri=TCP), set(), UNSUPPORTED),
    ("disks-port-and-uri", S | D, F.NON_SHARED_DISK, P(disks_port=9, disks_uri=TCP), set(), INVALID),
    ("unix-storage-without-uri", D, F.NON_SHARED_INC, P(migrate_uri=UNIX), set(), INVALID),
    ("unix-listen-address", D, NONE, P(migrate_uri=UNIX, listen_address="::"), set(), INVALID),
    ("capability-missing", S | D, F.LIVE, P(), {Fact.CAPABILITY_MISSING}, UNSUPPORTED),
    ("auto-converge-parameters", S, F.LIVE, P(auto_converge_initial_percent=20), set(), INVALID),
    ("auto-converge-parameters", S, F.LIVE, P(auto_converge_increment_percent=20), set(), INVALID),
    ("mt-parameters", S | D, F.LIVE, P(compression_mt_level=1), set(), INVALID),
    ("mt-parameters", S | D, F.LIVE, P(compression=("xbzrle",), compression_mt_threads=1), set(), INVALID),
    ("mt-parameters", S | D, F.COMPRESSED, P(compression_mt_dthreads=1), set(), INVALID),
    ("xbzrle-parameters", S | D, F.LIVE, P(compression_xbzrle_cache_bytes=4096), set(), INVALID),
    ("xbzrle-parameters", S | D, NONE, P(compression=("mt",), compression_xbzrle_cache_bytes=4096), set(), INVALID),
    ("zlib-parameters", S | D, F.PARALLEL, P(compression=("zstd",), compression_zlib_level=1), set(), INVALID),
    ("zstd-parameters", S | D, F.PARALLEL, P(compression=("zlib",), compression_zstd_level=1), set(), INVALID),
    ("parallel-methods-without-parallel", S | D, F.LIVE, P(compression=("zlib",)), set(), INVALID),
    ("parallel-methods-without-parallel", S | D, F.LIVE, P(compression=("zstd",)), set(), INVALID),
    ("parallel-two-methods", S | D, F.PARALLEL, P(compression=("zlib", "zstd")), set(), INVALID),
    ("parallel-other-methods", S | D, F.PARALLEL, P(compression=("xbzrle",)), set(), INVALID),
    ("parallel-other-methods", S | D, F.PARALLEL, P(compression=("mt",)), set(), INVALID),
    ("parallel-compressed-without-method", S | D, F.PARALLEL | F.COMPRESSED, P(), set(), INVALID),
    ("parallel-parameters", S | D, F.LIVE, P(parallel_connections=4), set(), INVALID),
    ("persistent-xml-without-persist", C | S, F.LIVE, P(persistent_xml="<domain/>"), set(), INVALID),
    ("disks-without-copy", C | S, F.LIVE, P(migrate_disks=("vda",)), set(), UNSUPPORTED),
    ("disks-without-copy", C | S, F.LIVE, P(migrate_disks_detect_zeroes=("vda",)), set(), UNSUPPORTED),
    ("disks-without-copy", C | S, F.LIVE, P(migrate_disks_target_zero=("vda",)), set(), UNSUPPORTED),
    ("disks-address-without-copy", C | S | D, F.LIVE, P(disks_port=9), set(), INVALID),
    ("disks-address-without-copy", C | S | D, F.LIVE, P(disks_uri=TCP), set(), INVALID),
    ("tls-name-without-tls", C | S, F.LIVE, P(tls_destination="host-b"), set(), INVALID),
    ("downtime-without-live", C | S, NONE, P(max_downtime_ms=50), set(), INVALID),
    ("downtime-without-live", C | S, NONE, P(fixed_downtime_ms=50), set(), INVALID),
    ("switchover-without-live", S, NONE, P(switchover_bandwidth_mib_per_s=50), set(), INVALID),
    ("postcopy-bandwidth-without-postcopy", S, F.LIVE, P(postcopy_bandwidth_mib_per_s=50), set(), INVALID),
    ("downtime-max-and-fixed", C | S, F.LIVE, P(max_downtime_ms=50, fixed_downtime_ms=40), set(), INVALID),
    ("live-offline", T, F.LIVE | F.OFFLINE | F.PERSIST_DEST, P(), set(), INVALID),
]
PLACES = [C, S, D, T]


@pytest.mark.parametrize(("name", "places", "flags", "params", "facts", "error"), CASES)
def test_a_rule_is_broken_where_it_is_looked_at_and_nowhere_else(
    name: str, places: Place, flags: Flag, params: MigrationParams, facts: set[Fact], error: type[Exception]
) -> None:
    """The case breaks this rule alone, at its places alone, and ends in its error."""
    for place in PLACES:
        found = [rule.name for rule in broken(flags, params, place, facts)]
        assert found == ([name] if place in places else []), place
    with pytest.raises(error) as caught:
        check(flags, params, places, facts)
    assert len(caught.value.violations) == 1  # type: ignore[attr-defined]
    assert type(caught.value) is error is BY_NAME[name].error


def test_every_enforced_rule_has_a_case() -> None:
    """A new rule without a case fails here."""
    assert {case[0] for case in CASES} == {rule.name for rule in RULES if rule.handling is Handling.ENFORCED}


# What mends each request; one line for each part of a rule that says "without".
MENDED: list[tuple[Flag, MigrationParams, set[Fact]]] = [
    (F.NON_SHARED_DISK, P(), set()),
    (F.NON_SHARED_SYNCHRONOUS_WRITES | F.NON_SHARED_DISK, P(), set()),
    (F.NON_SHARED_SYNCHRONOUS_WRITES | F.NON_SHARED_INC, P(), set()),
    (F.PEER2PEER, P(), {Fact.TO_URI_CALL}),
    (F.PEER2PEER | F.OFFLINE | F.PERSIST_DEST, P(), {Fact.TO_URI_CALL, Fact.DIRECT_OFFERED}),
    (F.PEER2PEER | F.TUNNELLED, P(), {Fact.TO_URI_CALL, Fact.DIRECT_OFFERED}),
    (F.LIVE, P(), {Fact.TO_URI_CALL, Fact.DIRECT_OFFERED}),
    (F.ZEROCOPY | F.PARALLEL, P(), set()),
    (LIVE_POST, P(), set()),
    (LIVE_POST | F.POSTCOPY_RESUME | F.CHANGE_PROTECTION, P(), set()),
    (LIVE_POST | F.POSTCOPY_RESUME | F.PEER2PEER, P(), set()),
    (F.TLS, P(), {Fact.TLS_FORCED}),
    (F.TUNNELLED, P(), {Fact.TLS_FORCED}),
    (F.TLS, P(migrate_uri=UNIX, tls_destination="host-b"), set()),
    (F.TLS | LIVE_POST | F.POSTCOPY_RESUME | F.PEER2PEER, P(migrate_uri=UNIX), set()),
    (F.TLS | F.NON_SHARED_DISK, P(disks_uri=TCP), set()),
    (F.LIVE, P(migrate_uri=TCP), {Fact.RDMA_MISSING, Fact.HARD_LIMIT_MISSING}),
    (F.NON_SHARED_DISK, P(disks_port=9), set()),
    (F.NON_SHARED_DISK, P(migrate_uri=UNIX, disks_uri=UNIX), set()),
    (F.LIVE, P(migrate_uri=UNIX), set()),
    (F.LIVE, P(migrate_uri=TCP, listen_address="::"), set()),
    (F.AUTO_CONVERGE, P(auto_converge_initial_percent=20, auto_converge_increment_percent=5), set()),
    (NONE, P(compression=("mt",), compression_mt_level=1), set()),
    (NONE, P(compression=("xbzrle", "mt"), compression_xbzrle_cache_bytes=4096), set()),
    (F.COMPRESSED, P(compression_xbzrle_cache_bytes=4096), set()),
    (F.PARALLEL | F.COMPRESSED, P(compression=("zlib",), compression_zlib_level=1), set()),
    (F.PARALLEL, P(compression=("zstd",), compression_zstd_level=1, parallel_connections=4), set()),
    (F.PERSIST_DEST, P(persistent_xml="<domain/>"), set()),
    (F.NON_SHARED_INC, P(migrate_disks=("vda",), migrate_disks_detect_zeroes=("vda",)), set()),
    (F.UNDEFINE_SOURCE, P(), {Fact.DOMAIN_TRANSIENT}),
]


@pytest.mark.parametrize(("flags", "params", "facts"), MENDED)
def test_a_request_that_lacks_nothing_breaks_no_rule(flags: Flag, params: MigrationParams, facts: set[Fact]) -> None:
    """What each rule asks for is enough to be let through, wherever it is looked at."""
    assert not violations(flags, params, EVERYWHERE | T, facts)
    check(flags, params, EVERYWHERE | T, facts)


# What libvirt refuses and vmferry can do (specification 3.2 against 8.7).
LIFTED = {
    "tunnelled-parallel": F.TUNNELLED | F.PARALLEL,
    "managed-tunnelled": F.TUNNELLED,
    "tunnelled-without-peer2peer": F.TUNNELLED,
    "offline-storage": F.OFFLINE | F.PERSIST_DEST | F.NON_SHARED_DISK,
    "storage-tunnelled": F.TUNNELLED | F.NON_SHARED_INC,
    "postcopy-tunnelled": LIVE_POST | F.TUNNELLED,
    "tls-tunnelled": F.TLS | F.TUNNELLED,
}


@pytest.mark.parametrize("name", LIFTED)
def test_a_lifted_rule_is_told_and_not_enforced(name: str) -> None:
    """The row still matches what libvirt refuses, and lets it pass."""
    rule, flags = BY_NAME[name], LIFTED[name]
    assert rule.handling is Handling.LIFTED
    assert rule.differs
    assert rule.libvirt_code in {*LIBVIRT_CODES, ""}
    assert rule.matches(flags, set(), rule.facts)
    for fact in (Fact.MIGRATE3_CALL, Fact.FIXED_CALL):
        assert not violations(flags, P(), EVERYWHERE, {fact})


def test_every_lifted_rule_is_tested() -> None:
    """A rule cannot be lifted without a line in the list above."""
    assert set(LIFTED) == {rule.name for rule in RULES if rule.handling is Handling.LIFTED}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_what_is_wrong_and_what_helps(rule: CombinationRule) -> None:
    """Texts are there, codes are libvirt's, and where there is no code the row says why."""
    violation = rule.violation()
    assert violation.subject
    assert violation.description
    assert violation.remedy
    assert rule.libvirt_code in LIBVIRT_CODES or rule.libvirt_code == ""
    assert rule.libvirt_code or rule.differs or rule.handling is Handling.HARMLESS or rule.places == T
    used = rule.parameters | rule.any_parameter | rule.no_parameter
    assert used <= set(parameter_table.BY_NAME)


def test_names_are_unique() -> None:
    """A name finds one rule."""
    assert len(BY_NAME) == len(RULES)


@pytest.mark.parametrize("row", [row for row in parameter_table.PARAMETERS if row.needs], ids=lambda row: row.name)
def test_a_parameter_without_what_it_needs_is_refused_and_with_it_is_not(row: ParameterRow) -> None:
    """The needs in the table of parameters and the rules here say the same."""
    value = {"compression_xbzrle_cache_bytes": 4096, "disks_uri": TCP}.get(row.attribute, 1)
    value = "x" if row.kind is parameter_table.Kind.STRING and value == 1 else value
    chosen: dict[str, Any] = {row.attribute: (value,) if row.repeatable else value}
    params = MigrationParams(**chosen)
    place = S if Side.SOURCE in row.sides else D
    assert [row.name in finding.subject for finding in violations(NONE, params, place)] == [True]
    for flag in row.needs_any:
        assert not violations(flag, params, place)
    if row.needs_method:
        parallel = F.PARALLEL if row.needs_method in ("zlib", "zstd") else NONE
        assert not violations(parallel, replace(params, compression=(row.needs_method,)), place)


def test_a_destination_does_not_miss_flags_that_never_reach_it() -> None:
    """A full list of parameters beside masked flags is what a regular migration sends."""
    flags = F.AUTO_CONVERGE | F.TLS | F.PERSIST_DEST
    params = P(auto_converge_initial_percent=20, tls_destination="host-b", persistent_xml="<domain/>")
    assert not violations(flags, params, BOTH_HOSTS)
    assert not violations(destination_flags(flags), params, D)


def test_findings_come_all_at_once_and_the_gravest_names_the_error() -> None:
    """The error's class is the one that only the caller can mend."""
    flags = F.POSTCOPY | F.OFFLINE | F.ZEROCOPY
    assert [rule.name for rule in broken(flags, P(), S)] == [
        "offline-without-persist",
        "offline-memory",
        "zerocopy-without-parallel",
        "postcopy-without-live",
    ]
    with pytest.raises(InvalidParameter) as caught:
        check(flags, P(), S)
    assert len(caught.value.violations) == 4
    assert caught.value.detail == "libvirt: OPERATION_INVALID, ARGUMENT_UNSUPPORTED"


@pytest.mark.parametrize(
    ("flags", "params", "found"),
    [
        (NONE, P(), ()),
        (F.COMPRESSED, P(), ("xbzrle",)),
        (F.COMPRESSED | F.PARALLEL, P(), ()),
        (NONE, P(compression=("mt",)), ("mt",)),
        (F.COMPRESSED, P(compression=("mt", "xbzrle")), ("mt", "xbzrle")),
    ],
)
def test_the_methods_in_effect(flags: Flag, params: MigrationParams, found: tuple[str, ...]) -> None:
    """COMPRESSED alone means xbzrle, except over parallel connections."""
    assert methods(flags, params) == found


def test_facts_are_read_from_the_request() -> None:
    """Schemes and methods become facts."""
    assert facts_of(NONE, P(migrate_uri=UNIX, disks_uri=UNIX)) == {Fact.UNIX_MIGRATE_URI, Fact.UNIX_DISKS_URI}
    assert facts_of(NONE, P(migrate_uri="rdma:host-b", compression=("zlib",))) == {
        Fact.RDMA_MIGRATE_URI,
        Fact.METHOD_ZLIB,
    }


def test_a_flag_alone_is_never_a_surprise() -> None:
    """Which single flags cannot stand alone is a short list, and a change of it should be seen."""
    alone = {names(flag)[0] for flag in Flag if violations(flag, P(), EVERYWHERE)}
    assert alone == {"NON_SHARED_SYNCHRONOUS_WRITES", "OFFLINE", "POSTCOPY", "POSTCOPY_RESUME", "ZEROCOPY"}


def test_the_table_is_drawn() -> None:
    """One line for each rule."""
    drawn = as_markdown()
    assert len(drawn.splitlines()) == 2 + len(RULES)
    assert all(f"| {rule.name} |" in drawn for rule in RULES)
