"""The cookie: what one phase hands to the next, through a coordinator that cannot read it (specification 4). Pure.

An XML document. `name`, `uuid`, `hostname` and `hostuuid` are libvirt's; `migration` binds the cookie to one attempt, and a
cookie of another attempt is refused. Optional data is an element that an older receiver skips; what the receiver must
understand is also listed as `feature`, so that an older receiver refuses before anything is touched.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields, replace

from lxml import etree

from vmferry.errors import CookieRefused
from vmferry.model import MigrationId, Outcome, Statistics

ROOT = "vmferry-migration"
MAX_BYTES = 4_194_304
PERSISTENT = "persistent"
DEFINITION = "definition"

FEATURES = frozenset({PERSISTENT, DEFINITION})
"""Mandatory features that this daemon understands."""


@dataclass(frozen=True, slots=True)
class Cookie:
    """What is handed over. The first five say who sends it and for which migration; the rest depends on the phase.

    `daemon_uri` is where the receiver's daemon reaches the sender's. `ticket` opens the data channel. `outcome` with its
    `signature` is the destination's word. `persistent_xml` is the definition that the destination is to store;
    `definition_xml` the one that it took from its own store, since none was sent.
    """

    migration_id: MigrationId
    name: str
    uuid: str
    host_name: str
    host_uuid: str
    daemon_uri: str = ""
    ticket: bytes = b""
    outcome: Outcome | None = None
    signature: bytes = b""
    statistics: Statistics | None = None
    persistent_xml: str = ""
    definition_xml: str = ""
    features: frozenset[str] = frozenset()


def encode(cookie: Cookie) -> bytes:
    """The cookie's bytes."""
    root = etree.Element(ROOT)
    for tag, text in (
        ("name", cookie.name),
        ("uuid", cookie.uuid),
        ("hostname", cookie.host_name),
        ("hostuuid", cookie.host_uuid),
    ):
        etree.SubElement(root, tag).text = text
    etree.SubElement(root, "migration", id=cookie.migration_id)
    mandatory = {tag for tag, xml in ((PERSISTENT, cookie.persistent_xml), (DEFINITION, cookie.definition_xml)) if xml}
    for feature in sorted(cookie.features | mandatory):
        etree.SubElement(root, "feature", name=feature)
    _sections(root, cookie)
    return etree.tostring(root, encoding="utf-8")


def _sections(root: etree._Element, cookie: Cookie) -> None:
    if cookie.daemon_uri:
        etree.SubElement(root, "daemon", uri=cookie.daemon_uri)
    if cookie.ticket:
        etree.SubElement(root, "channel", ticket=_text(cookie.ticket))
    if cookie.outcome:
        etree.SubElement(root, "outcome", result=cookie.outcome.value, signature=_text(cookie.signature))
    if cookie.statistics:
        figures = {f.name: str(getattr(cookie.statistics, f.name)) for f in fields(Statistics)}
        etree.SubElement(root, "statistics", {name: figure for name, figure in figures.items() if figure != "0"})
    if cookie.persistent_xml:
        etree.SubElement(root, PERSISTENT).text = cookie.persistent_xml
    if cookie.definition_xml:
        etree.SubElement(root, DEFINITION).text = cookie.definition_xml


def decode(data: bytes, migration_id: MigrationId, own_host_uuid: str) -> Cookie:
    """The cookie that the other host sent for this migration.

    Raises:
        CookieRefused: it is malformed, of another migration, of this very host, or demands what is not known here.
    """
    root = _parsed(data)
    cookie = _read(root)
    if cookie.migration_id != migration_id:
        raise CookieRefused(
            f"the cookie belongs to migration {cookie.migration_id}, not to {migration_id}",
            remedy="hand each phase the cookie that the phase before it returned",
        )
    if cookie.host_uuid == own_host_uuid:
        raise CookieRefused(
            f"attempt to migrate domain {cookie.name} to the same host ({cookie.host_name})",
            remedy="choose another destination; two daemons on one machine need different host UUIDs",
        )
    if unknown := sorted(cookie.features - FEATURES):
        raise CookieRefused(
            f"the cookie demands what this daemon does not know: {', '.join(unknown)}",
            remedy="use daemons of the same version",
        )
    return cookie


def _parsed(data: bytes) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    if len(data) > MAX_BYTES:
        raise CookieRefused(f"the cookie has {len(data)} bytes; {MAX_BYTES} are allowed")
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise CookieRefused(f"the cookie is malformed: {error}") from None
    if root.tag != ROOT:
        raise CookieRefused(f"the cookie is a {root.tag}, not a {ROOT}")
    return root


def _read(root: etree._Element) -> Cookie:
    migration = root.find("migration")
    named = {tag: root.findtext(tag) or "" for tag in ("name", "uuid", "hostname", "hostuuid")}
    missing = [tag for tag, text in named.items() if not text] + ([] if migration is not None else ["migration"])
    if missing:
        raise CookieRefused(f"the cookie lacks {', '.join(missing)}")
    assert migration is not None  # noqa: S101 - checked just above
    cookie = Cookie(MigrationId(migration.get("id", "")), named["name"], named["uuid"], named["hostname"], named["hostuuid"])
    return replace(
        cookie,
        daemon_uri=_attribute(root, "daemon", "uri"),
        ticket=_bytes(_attribute(root, "channel", "ticket")),
        outcome=_outcome(_attribute(root, "outcome", "result")),
        signature=_bytes(_attribute(root, "outcome", "signature")),
        statistics=_statistics(root.find("statistics")),
        persistent_xml=root.findtext(PERSISTENT) or "",
        definition_xml=root.findtext(DEFINITION) or "",
        features=frozenset(feature.get("name", "") for feature in root.iterfind("feature")),
    )


def _attribute(root: etree._Element, tag: str, name: str) -> str:
    element = root.find(tag)
    return "" if element is None else element.get(name, "")


def _outcome(text: str) -> Outcome | None:
    try:
        return Outcome(text) if text else None
    except ValueError:
        raise CookieRefused(f"the cookie has an unknown outcome {text!r}") from None


def _statistics(element: etree._Element | None) -> Statistics | None:
    if element is None:
        return None
    known = {f.name for f in fields(Statistics)}
    try:
        return Statistics(**{str(name): int(figure) for name, figure in element.attrib.items() if str(name) in known})
    except ValueError as error:
        raise CookieRefused(f"the cookie has a figure that is no number: {error}") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise CookieRefused("the cookie has a ticket or signature that is no base64") from None
