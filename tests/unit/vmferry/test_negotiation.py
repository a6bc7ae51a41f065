"""Every combination of features and requests, compared with a table written by hand from the specification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain, combinations, product
from pathlib import Path as FilePath

import pytest

from vmferry import negotiation
from vmferry.combinations import Fact, Place, check
from vmferry.errors import InvalidParameter, NotSupported, PeerUnreachable, PermissionRefused, VmferryError
from vmferry.features import Answers, Feature, FeatureAnswer
from vmferry.flags import NONE, Flag
from vmferry.model import Phase
from vmferry.negotiation import (
    DIFFERENCES,
    Access,
    Mode,
    Path,
    Wanted,
    as_markdown,
    choose_managed,
    choose_managed_fixed,
    choose_peer,
    choose_to_uri,
    choose_unmanaged,
    p2p_flags,
    uris_of_migrate,
    uris_of_to_uri,
)
from vmferry.params import MigrationParams
from vmferry.protocol import ProtocolVersion, Spelling

TABLE = FilePath(__file__).with_name("negotiation_table.txt")
DAEMON = "vmferry+tls://host-b"

FEATURES = {
    "V1": Feature.MIGRATION_V1,
    "V2": Feature.MIGRATION_V2,
    "V3": Feature.MIGRATION_V3,
    "PARAMS": Feature.MIGRATION_PARAMS,
    "P2P": Feature.MIGRATION_P2P,
    "DIRECT": Feature.MIGRATION_DIRECT,
    "OFFLINE": Feature.MIGRATION_OFFLINE,
    "PROTECT": Feature.MIGRATE_CHANGE_PROTECTION,
}
FLAG_WORDS = {
    "p2p": Flag.PEER2PEER,
    "offline": Flag.OFFLINE,
    "tunnelled": Flag.TUNNELLED,
    "protect": Flag.CHANGE_PROTECTION,
}
PARAM_WORDS: dict[str, dict[str, object]] = {
    "xml": {"destination_xml": "<domain/>"},
    "uri": {"migrate_uri": "tcp://host-b:49152"},
    "sent": {"postcopy_bandwidth_mib_per_s": 1},
    "local": {"switchover_bandwidth_mib_per_s": 1},
}
CALLS: dict[str, Callable[[Wanted, Answers, Answers], Path]] = {
    "managed": choose_managed,
    "fixed": choose_managed_fixed,
    "to-uri": lambda wanted, source, _: choose_to_uri(wanted, source),
    "peer": lambda wanted, _, destination: choose_peer(wanted, destination),
}
WORDS = [*FLAG_WORDS, *PARAM_WORDS, "extended", *(f"{side}.{name}" for side in "sd" for name in FEATURES)]
BIT = {word: 1 << number for number, word in enumerate(WORDS)}


@dataclass(frozen=True)
class Line:
    """One line of the table: the words that must hold, the words that must not, and what then comes."""

    number: int
    wanted: int
    unwanted: int
    result: tuple[str, ...]


def read_table() -> dict[str, list[Line]]:
    """The lines of each call, in order."""
    lines: dict[str, list[Line]] = {call: [] for call in CALLS}
    for number, text in enumerate(TABLE.read_text().splitlines(), 1):
        rule, _, result = text.partition("=>")
        if not text or text.startswith("#"):
            continue
        call, _, conditions = rule.partition(":")
        words = conditions.split()
        line = Line(
            number,
            sum(BIT[word] for word in words if not word.startswith("!")),
            sum(BIT[word[1:]] for word in words if word.startswith("!")),
            tuple(result.replace("*", "").split()),
        )
        lines[call].append(line)
    return lines


LINES = read_table()


def expected(call: str, facts: int) -> Line:
    """The first line that matches."""
    return next(line for line in LINES[call] if line.wanted & facts == line.wanted and not line.unwanted & facts)


def subsets(names: list[str]) -> list[tuple[str, ...]]:
    """Every subset."""
    return list(chain.from_iterable(combinations(names, size) for size in range(len(names) + 1)))


@dataclass(frozen=True)
class Side:
    """One daemon's announcement, as answers and as words of the table."""

    answers: Answers
    facts: int


def sides(letter: str, names: list[str]) -> list[Side]:
    """Every announcement that can be made of `names`."""
    return [
        Side(Answers.of(*(FEATURES[name] for name in chosen)), sum(BIT[f"{letter}.{name}"] for name in chosen))
        for chosen in subsets(names)
    ]


@dataclass(frozen=True)
class Request:
    """One request, as the library gets it and as words of the table."""

    wanted: Wanted
    facts: int


def requests(words: list[str]) -> list[Request]:
    """Every request that can be made of `words`."""
    made = []
    for chosen in subsets(words):
        flags = Flag(sum(FLAG_WORDS[word] for word in chosen if word in FLAG_WORDS))
        fields: dict[str, object] = {}
        for word in chosen:
            fields |= PARAM_WORDS.get(word, {})
        facts = sum(BIT[word] for word in chosen) | (BIT["extended"] if {"sent", "local"} & set(chosen) else 0)
        made.append(Request(Wanted(flags, MigrationParams(**fields), DAEMON), facts))  # type: ignore[arg-type]
    return made


def outcome(call: str, wanted: Wanted, source: Answers, destination: Answers) -> Path | VmferryError:
    """What the library says."""
    try:
        return CALLS[call](wanted, source, destination)
    except VmferryError as error:
        return error


def agrees(got: Path | VmferryError, result: tuple[str, ...]) -> bool:
    """Whether the library says what the table says."""
    if isinstance(got, Path):
        return result == (str(got.version.value), got.spelling.value, got.mode.value)
    name, code = result if len(result) == 2 else ("", "")
    named = f"libvirt: {code}" if code != "-" else ""
    return type(got).__name__ == name and got.detail.startswith(named) and bool(got.remedy or got.violations)


def compare(call: str, asked: list[Request], sources: list[Side], destinations: list[Side]) -> Counter[int]:
    """Every combination agrees; the numbers of the lines that were used."""
    used: Counter[int] = Counter()
    for request, source, destination in product(asked, sources, destinations):
        line = expected(call, request.facts | source.facts | destination.facts)
        got = outcome(call, request.wanted, source.answers, destination.answers)
        assert agrees(got, line.result), (call, line, request.wanted, got, source.answers, destination.answers)
        used[line.number] += 1
    return used


ALL = list(FEATURES)
NOBODY = [Side(Answers.of(), 0)]
EVERY_REQUEST = [*FLAG_WORDS, *PARAM_WORDS]
SPREADS: list[tuple[str, list[str], list[Side], list[Side]]] = [
    # Every feature on both sides, by peer-to-peer or not, offline or not, an extended parameter or not.
    ("managed", ["p2p", "offline", "sent"], sides("s", ALL), sides("d", ALL)),
    ("fixed", ["p2p", "offline", "sent"], sides("s", ALL), sides("d", ALL)),
    # Every request, over the features that the tree of the call looks at.
    ("managed", EVERY_REQUEST, sides("s", ["V1", "V2", "V3", "PARAMS", "PROTECT"]), sides("d", ALL[:4])),
    ("managed", EVERY_REQUEST, sides("s", ["V2", "PARAMS", "OFFLINE"]), sides("d", ["V2", "PARAMS", "OFFLINE"])),
    ("managed", EVERY_REQUEST, sides("s", ["V1", "OFFLINE"]), sides("d", ["V1", "OFFLINE"])),
    ("fixed", EVERY_REQUEST, sides("s", ["V1", "V2", "V3", "PARAMS", "P2P"]), sides("d", ALL[:3])),
    ("fixed", EVERY_REQUEST, sides("s", ["V1", "V2", "P2P", "OFFLINE", "PROTECT"]), sides("d", ["V1", "V2", "OFFLINE"])),
    ("to-uri", EVERY_REQUEST, sides("s", ALL), NOBODY),
    ("peer", EVERY_REQUEST, NOBODY, sides("d", ALL)),
]


def remembered(function: Callable[..., None]) -> Callable[..., None]:
    """The same check, which thinks only once about the same request; a pure function allows that."""
    known: dict[tuple[object, ...], VmferryError | None] = {}

    def remember(flags: Flag, params: MigrationParams, places: Place, facts: AbstractSet[Fact] = frozenset()) -> None:
        key = (flags.value, params, places.value, frozenset(facts))
        if key not in known:
            known[key] = None
            try:
                function(flags, params, places, facts)
            except VmferryError as error:
                known[key] = error
        if refusal := known[key]:
            raise refusal.with_traceback(None)

    return remember


def test_every_combination_takes_the_path_of_the_table_and_every_line_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a million combinations; a line that nothing reaches would be a mistake in the table."""
    monkeypatch.setattr(negotiation, "check", remembered(check))
    used: Counter[int] = Counter()
    for call, words, sources, destinations in SPREADS:
        used += compare(call, requests(words), sources, destinations)
    assert {line.number for lines in LINES.values() for line in lines} == set(used)
    assert used.total() > 1_000_000


def test_the_table_is_read_whole() -> None:
    """No line is lost on the way."""
    written = [line for line in TABLE.read_text().splitlines() if "=>" in line and not line.startswith("#")]
    assert sum(map(len, LINES.values())) == len(written) > 70


# -- what the table does not say --------------------------------------------------------------------------------------

MODERN = Answers.of(*FEATURES.values(), host="host-a")
V3_ONLY = Answers.of(Feature.MIGRATION_V3)


@pytest.mark.parametrize("choose", [choose_managed, choose_managed_fixed])
def test_protection_is_added_where_the_source_offers_it_although_nobody_asked(choose: Callable[..., Path]) -> None:
    """And it is for the source's calls only."""
    path = choose(Wanted(), MODERN, MODERN)
    assert path.protection == Flag.CHANGE_PROTECTION
    assert path.flags == NONE
    assert path.source_flags == Flag.CHANGE_PROTECTION
    assert path.destination_flags == NONE
    assert choose(Wanted(), V3_ONLY, MODERN).protection == NONE


def test_protection_that_was_asked_for_is_moved_out_of_the_flag_word() -> None:
    """The coordinator puts it back where it belongs."""
    path = choose_managed(Wanted(Flag.CHANGE_PROTECTION | Flag.LIVE), MODERN, MODERN)
    assert (path.flags, path.protection) == (Flag.LIVE, Flag.CHANGE_PROTECTION)


def test_protection_is_lost_with_a_warning_over_protocol_2() -> None:
    """Without the wish there is no warning."""
    source = Answers.of(Feature.MIGRATION_V2, Feature.MIGRATE_CHANGE_PROTECTION)
    path = choose_managed(Wanted(Flag.CHANGE_PROTECTION), source, source)
    assert (path.flags, path.protection) == (NONE, NONE)
    assert path.warnings
    assert not choose_managed(Wanted(), source, source).warnings


@pytest.mark.parametrize("call", [choose_managed, choose_managed_fixed])
def test_read_only_connections_are_refused_before_anything_else(call: Callable[..., Path]) -> None:
    """Before a question is asked, and before the request is read."""
    nonsense = Flag.PEER2PEER | Flag.NON_SHARED_DISK | Flag.NON_SHARED_INC
    for wanted in (
        Wanted(nonsense, source_access=Access.READ_ONLY),
        Wanted(nonsense, destination_access=Access.READ_ONLY),
    ):
        with pytest.raises(PermissionRefused):
            call(wanted, Answers({}), Answers({}))


def test_to_uri_looks_at_the_source_connection_only() -> None:
    """There is no other."""
    with pytest.raises(PermissionRefused):
        choose_to_uri(Wanted(Flag.PEER2PEER, source_access=Access.READ_ONLY), Answers({}))
    choose_to_uri(Wanted(Flag.PEER2PEER, daemon_uri=DAEMON, destination_access=Access.READ_ONLY), MODERN)


def test_all_findings_of_the_client_come_at_once() -> None:
    """Three mistakes, one error."""
    flags = Flag.PEER2PEER | Flag.NON_SHARED_DISK | Flag.NON_SHARED_INC
    with pytest.raises(InvalidParameter) as caught:
        choose_managed(Wanted(flags, MigrationParams(persistent_xml="<domain/>")), MODERN, MODERN)
    assert len(caught.value.violations) == 3


def test_a_question_that_failed_is_never_a_no() -> None:
    """No tree goes down the ladder for it."""
    lost = PeerUnreachable("gone")
    unasked = Answers(dict.fromkeys(Feature, FeatureAnswer.YES) | {Feature.MIGRATION_PARAMS: lost})
    for call in (choose_managed, choose_managed_fixed):
        wanted = Wanted(Flag.PEER2PEER if call is choose_managed_fixed else NONE, daemon_uri=DAEMON)
        with pytest.raises(PeerUnreachable) as caught:
            call(wanted, unasked, MODERN)
        assert caught.value is lost
    with pytest.raises(PeerUnreachable):
        choose_to_uri(Wanted(Flag.PEER2PEER, daemon_uri=DAEMON), unasked)
    with pytest.raises(PeerUnreachable):
        choose_peer(Wanted(), unasked)


def test_a_question_that_failed_matters_only_where_its_answer_would_have() -> None:
    """Nobody looks at protocol 1 when better is there."""
    failed = Answers(dict.fromkeys(Feature, FeatureAnswer.YES) | {Feature.MIGRATION_V1: PeerUnreachable("x")})
    assert choose_managed(Wanted(), failed, failed).version is ProtocolVersion.V3


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "vmferry+tcp://localhost",
        "vmferry+tcp://LOCALHOST:1",
        "vmferry+tls://localhost.localdomain/",
        "vmferry+tcp://",
        "vmferry+unix://",
        "host-b",
        "vmferry+tcp://[::1",
    ],
)
def test_a_daemon_uri_that_means_the_source_or_cannot_be_read_is_refused(uri: str) -> None:
    """The source would call itself."""
    with pytest.raises(InvalidParameter) as caught:
        choose_to_uri(Wanted(Flag.PEER2PEER, daemon_uri=uri), MODERN)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "uri",
    [DAEMON, "vmferry+tcp://10.0.0.2:1", "vmferry+tcp://[fd00::2]", "vmferry+unix:///run/b.sock", "x+ssh:///?socket=/b"],
)
def test_a_daemon_uri_that_names_a_host_or_a_socket_is_taken(uri: str) -> None:
    """A socket that is named on purpose is no mistake."""
    assert choose_to_uri(Wanted(Flag.PEER2PEER, daemon_uri=uri), MODERN).mode is Mode.PEER_TO_PEER


def test_a_daemon_uri_without_peer_to_peer_is_not_used_and_the_user_hears_of_it() -> None:
    """A forgotten flag should not end in silence."""
    params = MigrationParams(migrate_uri="tcp://host-b:4444")
    path = choose_to_uri(Wanted(params=params, daemon_uri=DAEMON), MODERN)
    assert path.mode is Mode.DIRECT
    assert DAEMON in path.warnings[0]
    assert not choose_to_uri(Wanted(params=params), MODERN).warnings


@pytest.mark.parametrize("uri", [None, DAEMON, "vmferry+unix:///run/b.sock"])
def test_direct_mode_leads_to_a_hypervisor(uri: str | None) -> None:
    """Where a daemon answers no hypervisor listens: most likely PEER2PEER was forgotten."""
    with pytest.raises(InvalidParameter) as caught:
        choose_to_uri(Wanted(params=MigrationParams(migrate_uri=uri)), MODERN)
    assert ("PEER2PEER" in caught.value.remedy) is (uri is not None)


def test_direct_mode_keeps_no_definition() -> None:
    """There is no daemon to keep it."""
    params = MigrationParams(migrate_uri="tcp://host-b:4444")
    with pytest.raises(InvalidParameter, match="do not fit"):
        choose_to_uri(Wanted(Flag.PERSIST_DEST, params), MODERN)


def test_unmanaged_is_shared_by_both_calls() -> None:
    """It is asked for its own part alone, too."""
    assert choose_unmanaged(Wanted(Flag.PEER2PEER, daemon_uri=DAEMON), V3_ONLY) == Path(
        ProtocolVersion.V3, Spelling.FIXED, Mode.PEER_TO_PEER, Flag.PEER2PEER
    )


def test_a_kept_definition_cannot_travel_over_protocol_2() -> None:
    """It would have to go in a cookie that protocol 2 does not have."""
    old = Answers.of(Feature.MIGRATION_P2P, Feature.MIGRATION_V2)
    with pytest.raises(NotSupported, match="definition"):
        choose_peer(Wanted(Flag.PERSIST_DEST, MigrationParams(persistent_xml="<domain/>")), old)


def test_resume_needs_protocol_3() -> None:
    """It walks every phase again, or is refused."""
    flags = Flag.POSTCOPY | Flag.POSTCOPY_RESUME | Flag.LIVE
    old = Answers.of(Feature.MIGRATION_V2)
    assert choose_managed(Wanted(flags), MODERN, MODERN).profile.phases[-1] is Phase.CONFIRM
    with pytest.raises(NotSupported):
        choose_managed(Wanted(flags), old, old)


@pytest.mark.parametrize(
    ("flags", "params", "walked"),
    [
        (Flag.CHANGE_PROTECTION | Flag.LIVE, MigrationParams(), Flag.LIVE),
        (NONE, MigrationParams(compression=("xbzrle",)), Flag.COMPRESSED),
        (NONE, MigrationParams(compression=("xbzrle",), compression_xbzrle_cache_bytes=4096), NONE),
        (NONE, MigrationParams(compression=("xbzrle", "mt")), NONE),
        (NONE, MigrationParams(compression=("mt",)), NONE),
        (Flag.COMPRESSED, MigrationParams(), Flag.COMPRESSED),
        (Flag.COMPRESSED, MigrationParams(compression=("mt",)), Flag.COMPRESSED),
    ],
)
def test_the_flags_of_a_coordinating_source(flags: Flag, params: MigrationParams, walked: Flag) -> None:
    """One call is one job; the usual method is told by its flag."""
    assert p2p_flags(flags, params) == walked
    assert choose_peer(Wanted(flags, params), MODERN).flags == walked


def test_the_only_uri_of_the_oldest_calls() -> None:
    """Its meaning hangs on PEER2PEER."""
    assert uris_of_migrate(Flag.PEER2PEER, "u", "c") == ("u", None)
    assert uris_of_migrate(Flag.PEER2PEER, None, "c") == ("c", None)
    assert uris_of_migrate(NONE, "u", "c") == ("c", "u")
    assert uris_of_to_uri(Flag.PEER2PEER, "u") == ("u", None)
    assert uris_of_to_uri(NONE, "u") == ("", "u")


def paths() -> Iterator[tuple[Path, tuple[Phase, ...]]]:
    """Paths and the phases that are walked on them."""
    regular = Path(ProtocolVersion.V3, Spelling.PARAMS, Mode.REGULAR, NONE)
    whole = (Phase.BEGIN, Phase.PREPARE, Phase.PERFORM, Phase.FINISH, Phase.CONFIRM)
    yield regular, whole
    yield Path(ProtocolVersion.V3, Spelling.PARAMS, Mode.REGULAR, Flag.OFFLINE), (*whole[:2], *whole[3:])
    yield Path(ProtocolVersion.V3, Spelling.PARAMS, Mode.PEER_TO_PEER, NONE), whole
    yield Path(ProtocolVersion.V3, Spelling.PARAMS, Mode.DIRECT, NONE), (Phase.PERFORM,)
    yield Path(ProtocolVersion.V2, Spelling.FIXED, Mode.REGULAR, NONE), whole[:-1]
    yield Path(ProtocolVersion.V1, Spelling.FIXED, Mode.DIRECT, NONE), (Phase.PERFORM,)


@pytest.mark.parametrize(("path", "phases"), list(paths()))
def test_the_profile_follows_from_the_path(path: Path, phases: tuple[Phase, ...]) -> None:
    """Offline, direct and the version, without a question in the walk."""
    assert path.profile.phases == phases


def test_the_differences_are_drawn() -> None:
    """Those of negotiation and those of single rules."""
    drawn = as_markdown()
    assert all(difference.topic in drawn and all(difference) for difference in DIFFERENCES)
    assert "tunnelled-parallel" in drawn
