"""The cookie comes back whole, and whatever is wrong with it is refused before anything is touched."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import CookieRefused
from vmferry.model import MigrationId, Outcome, Statistics
from vmferryd.phases import cookie as cookies
from vmferryd.phases.cookie import Cookie

ID = MigrationId("id-1")
PLAIN = Cookie(ID, "web", "uuid", "host-a", "host-uuid-a")
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
    outcome=st.none() | st.sampled_from(Outcome),
    statistics=st.none() | st.builds(Statistics, elapsed_ms=st.integers(0, 2**63), downtime_ms=st.integers(0, 9)),
    persistent_xml=st.just("") | texts,
)


@given(made, st.binary(max_size=40))
def test_round_trip(cookie: Cookie, signature: bytes) -> None:
    """Every field comes back; a stored definition announces itself as mandatory."""
    if cookie.outcome is not None:
        cookie = dataclasses.replace(cookie, signature=signature)
    expected = dataclasses.replace(cookie, features=frozenset({"persistent"} if cookie.persistent_xml else set()))
    assert expected == cookies.decode(cookies.encode(cookie), ID, "own")


def _refused(data: bytes, match: str, own: str = "own") -> None:
    with pytest.raises(CookieRefused, match=match):
        cookies.decode(data, ID, own)


def test_other_migration() -> None:
    """A cookie of another attempt is refused."""
    _refused(cookies.encode(dataclasses.replace(PLAIN, migration_id=MigrationId("id-2"))), "id-2")


def test_same_host() -> None:
    """A cookie of this very host is refused."""
    _refused(cookies.encode(PLAIN), "same host", own="host-uuid-a")


def test_unknown_mandatory_feature() -> None:
    """What must be understood and is not known here is refused by name."""
    _refused(cookies.encode(dataclasses.replace(PLAIN, features=frozenset({"warp"}))), "warp")


def test_unknown_optional_element() -> None:
    """What is not known here and not mandatory is skipped."""
    data = cookies.encode(PLAIN).replace(b"</vmferry-migration>", b"<warp speed='9'/></vmferry-migration>")
    data = data.replace(b"<migration ", b"<statistics elapsed_ms='3' warp='9'/><migration ")
    assert dataclasses.replace(PLAIN, statistics=Statistics(elapsed_ms=3)) == cookies.decode(data, ID, "own")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "malformed"),
        (b"no xml", "malformed"),
        (b"<other/>", "a other, not"),
        (b"<vmferry-migration/>", "lacks name, uuid, hostname, hostuuid, migration"),
        (b"<vmferry-migration>" + b" " * cookies.MAX_BYTES, "bytes"),
        (b"<!DOCTYPE x [<!ENTITY e 'e'>]><vmferry-migration><name>&e;</name></vmferry-migration>", "lacks|malformed"),
        (cookies.encode(PLAIN).replace(b"</name>", b"</name><outcome result='perhaps'/>"), "unknown outcome"),
        (cookies.encode(PLAIN).replace(b"</name>", b"</name><statistics elapsed_ms='x'/>"), "no number"),
        (cookies.encode(PLAIN).replace(b"</name>", b"</name><channel ticket='***'/>"), "no base64"),
        (cookies.encode(PLAIN).replace(b"</name>", b"</name><channel ticket='\xc3\xa9'/>"), "no base64"),
    ],
)
def test_malformed(data: bytes, match: str) -> None:
    """Whatever cannot be read is refused, and says what is wrong."""
    _refused(data, match)
