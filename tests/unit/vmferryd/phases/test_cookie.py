"""The cookie comes back whole, and whatever is wrong with it is refused before anything is touched."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.disks import DiskFigures
from vmferry.errors import CookieRefused
from vmferry.model import MigrationId, Outcome, Phase, Statistics
from vmferry.wish import RunWish
from vmferryd.domains.copying import ImageFacts
from vmferryd.phases import cookie as cookies
from vmferryd.phases.cookie import SECTIONS, Cookie, Expected, Need
from vmferryd.transfer.routes import DataOffer, Otherwise

ID = MigrationId("id-1")
OWN = Expected(ID, "own", "web", "uuid")
PLAIN = Cookie(ID, "web", "uuid", "host-a", "host-uuid-a")
FULL = dataclasses.replace(
    PLAIN,
    daemon_uri="vmferry+tcp://a",
    ticket=b"ticket",
    data=DataOffer("tcp:b:49152", Otherwise.TUNNEL, "tcp:b:49153"),
    lanes=frozenset({"memory", "disk:vda"}),
    capabilities=frozenset({"xbzrle"}),
    outcome=Outcome.COMMITTED,
    signature=b"signature",
    statistics=Statistics(elapsed_ms=3, disks=(DiskFigures("vda", 5, 4), DiskFigures("vdb"))),
    persistent_xml="<domain/>",
    definition_xml="<domain/>",
    took_ms={Phase.BEGIN: 3},
    disks=(ImageFacts("vda", 5, 4), ImageFacts("vdb", 2**40, 0, "/base.qcow2")),
    wish=RunWish.SUSPENDED,
)
READERS = (Phase.PREPARE, Phase.PERFORM, Phase.FINISH, Phase.CONFIRM)
BY_NAME = {section.name: section for section in SECTIONS}
ATTRIBUTES = {
    "lanes": ("lanes",),
    "daemon": ("daemon_uri",),
    "channel": ("ticket",),
    "data": ("data",),
    "capabilities": ("capabilities",),
    "persistent": ("persistent_xml",),
    "definition": ("definition_xml",),
    "disks": ("disks",),
    "statistics": ("statistics",),
    "outcome": ("outcome", "signature"),
    "took": ("took_ms",),
    "wish": ("wish",),
}
texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=20)
made = st.builds(
    Cookie,
    migration_id=st.just(ID),
    name=texts,
    uuid=texts,
    host_name=texts,
    host_uuid=texts,
    daemon_uri=texts,
    ticket=st.binary(max_size=40),
    data=st.none() | st.builds(DataOffer, uri=st.just("") | texts, otherwise=st.sampled_from(Otherwise)),
    capabilities=st.none() | st.frozensets(texts),
    persistent_xml=st.just("") | texts,
    took_ms=st.dictionaries(st.sampled_from(Phase), st.integers(0, 10**9)),
)


@given(made)
def test_round_trip(cookie: Cookie) -> None:
    """What a phase reads comes back as it was; a stored definition announces itself as mandatory."""
    expected = dataclasses.replace(cookie, features=frozenset({"persistent"} if cookie.persistent_xml else set()))
    assert expected == cookies.decode(cookies.encode(cookie), Phase.PREPARE, Expected(ID, "own"))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
@pytest.mark.parametrize("phase", READERS)
def test_every_section_in_every_phase(section: cookies.Section, phase: Phase) -> None:
    """A phase gets the sections that it reads. Of the others it skips what is optional, and refuses what is mandatory."""
    attributes = {name: getattr(FULL, name) for name in ATTRIBUTES[section.name]}
    data = cookies.encode(dataclasses.replace(PLAIN, **attributes))
    if phase not in section.read_by and section.need is Need.MANDATORY:
        with pytest.raises(CookieRefused, match=f"no place in {phase}: {section.name}"):
            cookies.decode(data, phase, OWN)
        return
    read = cookies.decode(data, phase, OWN)
    expected = attributes if phase in section.read_by else {name: getattr(PLAIN, name) for name in attributes}
    assert expected == {name: getattr(read, name) for name in attributes}


def test_every_section_is_tested() -> None:
    """The test above covers each row of the table, and all that a cookie can carry."""
    assert set(BY_NAME) == set(ATTRIBUTES)
    named = {name for names in ATTRIBUTES.values() for name in names}
    carried = {f.name for f in dataclasses.fields(Cookie)}
    assert carried == named | {"migration_id", "name", "uuid", "host_name", "host_uuid", "features"}


def test_missing_sections_are_the_oldest_peer() -> None:
    """A cookie that only says who sends it is read; what it does not say is not known."""
    assert PLAIN == cookies.decode(cookies.encode(PLAIN), Phase.PREPARE, OWN)


def _refused(data: bytes, match: str, expected: Expected = OWN) -> None:
    with pytest.raises(CookieRefused, match=match):
        cookies.decode(data, Phase.PREPARE, expected)


def test_other_migration() -> None:
    """A cookie of another attempt is refused."""
    _refused(cookies.encode(dataclasses.replace(PLAIN, migration_id=MigrationId("id-2"))), "id-2")


def test_other_domain() -> None:
    """A cookie of a domain with another name or UUID is refused; a domain may be named by its UUID."""
    _refused(cookies.encode(dataclasses.replace(PLAIN, name="db")), "belongs to domain db, not to web")
    _refused(cookies.encode(dataclasses.replace(PLAIN, uuid="other")), "UUID other, not to uuid")
    by_uuid = dataclasses.replace(PLAIN, name="uuid")
    assert by_uuid == cookies.decode(cookies.encode(by_uuid), Phase.PREPARE, OWN)


def test_same_host() -> None:
    """A cookie of this very host is refused."""
    _refused(cookies.encode(PLAIN), "same host", dataclasses.replace(OWN, own_host_uuid="host-uuid-a"))


def test_order_of_checks() -> None:
    """With everything wrong the name is told first, then UUID, migration, host and features (specification 4.1)."""
    wrong = dataclasses.replace(PLAIN, features=frozenset({"warp"}))
    data = cookies.encode(wrong)
    expected = Expected(MigrationId("id-2"), "host-uuid-a", "db", "other")
    for match, heal in (
        ("domain web", {"name": "web"}),
        ("UUID uuid", {"uuid": "uuid"}),
        ("migration id-1", {"migration_id": ID}),
        ("same host", {"own_host_uuid": "own"}),
        ("warp", {}),
    ):
        _refused(data, match, expected)
        expected = dataclasses.replace(expected, **heal)


@pytest.mark.checklist(9)
def test_unknown_mandatory_feature() -> None:
    """What must be understood and is not known here is refused by name."""
    _refused(cookies.encode(dataclasses.replace(PLAIN, features=frozenset({"warp"}))), "warp")


@pytest.mark.checklist(9)
def test_unknown_optional_element() -> None:
    """What is not known here and not mandatory is skipped, be it an element, an attribute or a capability."""
    data = cookies.encode(PLAIN).replace(b"</vmferry-migration>", b"<warp speed='9'/></vmferry-migration>")
    data = data.replace(
        b"<migration ", b"<daemon uri='x' warp='9'/><capabilities><cap name='warp'/></capabilities><migration "
    )
    expected = dataclasses.replace(PLAIN, daemon_uri="x", capabilities=frozenset({"warp"}))
    assert expected == cookies.decode(data, Phase.PREPARE, OWN)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "malformed"),
        (b"no xml", "malformed"),
        (b"<other/>", "a other, not"),
        (b"<vmferry-migration/>", "lacks name, uuid, hostname, hostuuid, migration"),
        (b"<vmferry-migration>" + b" " * cookies.MAX_BYTES, "bytes"),
        (b"<!DOCTYPE x [<!ENTITY e 'e'>]><vmferry-migration><name>&e;</name></vmferry-migration>", "lacks|malformed"),
        (cookies.encode(PLAIN).replace(b"</name>", b"</name><channel ticket='***'/>"), "no base64"),
        (cookies.encode(PLAIN).replace(b"</name>", b"</name><channel ticket='\xc3\xa9'/>"), "no base64"),
    ],
)
def test_malformed(data: bytes, match: str) -> None:
    """Whatever cannot be read is refused, and says what is wrong."""
    _refused(data, match)


@pytest.mark.parametrize(
    ("section", "match"),
    [(b"<outcome result='perhaps'/>", "unknown outcome"), (b"<statistics elapsed_ms='x'/>", "no number")],
)
def test_malformed_at_the_end(section: bytes, match: str) -> None:
    """So it is in what Confirm reads."""
    with pytest.raises(CookieRefused, match=match):
        cookies.decode(cookies.encode(PLAIN).replace(b"</name>", b"</name>" + section), Phase.CONFIRM, OWN)


def test_table() -> None:
    """The drawing has a row for each section."""
    assert len(SECTIONS) + 2 == len(cookies.as_markdown().splitlines())
