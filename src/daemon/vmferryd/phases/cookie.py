"""The cookie: what one phase hands to the next, through a coordinator that cannot read it (specification 4). Pure.

An XML document. `name`, `uuid`, `hostname` and `hostuuid` are libvirt's; `migration` binds the cookie to one attempt, and a
cookie of another attempt is refused. Everything else is a section, and `SECTIONS` is the whole list: what it is called, which
phases read it, and whether the receiver must understand it. Optional data is an element that an older receiver skips; what
must be understood is also listed as `feature`, so that an older receiver refuses before anything is touched. A section that
is missing means what the oldest peer did.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum

from lxml import etree

from vmferry.disks import DiskFigures
from vmferry.errors import CookieRefused
from vmferry.model import MigrationId, Outcome, Phase, Statistics
from vmferry.wish import RunWish
from vmferryd.domains.copying import ImageFacts
from vmferryd.transfer.routes import DataOffer, Encryption, Otherwise

ROOT = "vmferry-migration"
MAX_BYTES = 4_194_304


@dataclass(frozen=True, slots=True)
class Cookie:
    """What is handed over. The first five say who sends it and for which migration; the rest depends on the phase.

    `name` is the domain's at the source, whatever it is to be called later. `daemon_uri` is where the receiver's daemon
    reaches the sender's. `ticket` opens the data channel. `data` says that the sender can do without the tunnel, and where it
    waits; None when it does not say. `lanes` are the channels besides the main one that it takes in this migration; None when
    it knows no other. `capabilities` are what the sender's hypervisor can, None when it does not say.
    `outcome` with its `signature` is the destination's word. `persistent_xml` is the definition that the destination is to
    store; `definition_xml` the one that it took from its own store, since none was sent. `disks` are the images that are to
    be copied; None when none of them is the migration's business. `took_ms` has the phases that have run. `wish` is what
    users have asked of the guest's run state since its migration began.
    """

    migration_id: MigrationId
    name: str
    uuid: str
    host_name: str
    host_uuid: str
    daemon_uri: str = ""
    ticket: bytes = b""
    data: DataOffer | None = None
    lanes: frozenset[str] | None = None
    capabilities: frozenset[str] | None = None
    outcome: Outcome | None = None
    signature: bytes = b""
    statistics: Statistics | None = None
    persistent_xml: str = ""
    definition_xml: str = ""
    disks: tuple[ImageFacts, ...] | None = None
    features: frozenset[str] = frozenset()
    took_ms: Mapping[Phase, int] = field(default_factory=dict)
    wish: RunWish = RunWish.NONE


@dataclass(frozen=True, slots=True)
class Expected:
    """What the receiver knows itself. An empty `name` or `uuid` is one that it does not know yet."""

    migration_id: MigrationId
    own_host_uuid: str
    name: str = ""
    uuid: str = ""


class Need(StrEnum):
    """Whether a receiver may skip a section."""

    OPTIONAL = "optional"
    MANDATORY = "mandatory"


@dataclass(frozen=True, slots=True)
class Section:
    """One section: which phases read it, and how it is written (None: there is nothing to write) and read."""

    name: str
    need: Need
    read_by: frozenset[Phase]
    content: str
    write: Callable[[Cookie], etree._Element | None]
    read: Callable[[Cookie, etree._Element], Cookie]


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
    written = [(section, element) for section in SECTIONS if (element := section.write(cookie)) is not None]
    mandatory = {section.name for section, _ in written if section.need is Need.MANDATORY}
    for feature in sorted(cookie.features | mandatory):
        etree.SubElement(root, "feature", name=feature)
    root.extend(element for _, element in written)
    return etree.tostring(root, encoding="utf-8")


def decode(data: bytes, phase: Phase, expected: Expected) -> Cookie:
    """The cookie that the other host sent to `phase` of this migration; sections that the phase does not read are skipped.

    Raises:
        CookieRefused: it is malformed, of another domain or migration, of this very host, or demands what is not known here
            or not expected in this phase.
    """
    root = _parsed(data)
    cookie = _identified(root, expected)
    _check_features(cookie.features, phase)
    for section in SECTIONS:
        element = root.find(section.name)
        if element is not None and phase in section.read_by:
            cookie = section.read(cookie, element)
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


def _identified(root: etree._Element, expected: Expected) -> Cookie:
    """Who sends it, for what: in the order of the specification (4.1), and the migration after the domain."""
    migration = root.find("migration")
    named = {tag: root.findtext(tag) or "" for tag in ("name", "uuid", "hostname", "hostuuid")}
    missing = [tag for tag, text in named.items() if not text] + ([] if migration is not None else ["migration"])
    if missing:
        raise CookieRefused(f"the cookie lacks {', '.join(missing)}")
    assert migration is not None  # noqa: S101 - checked just above
    cookie = Cookie(MigrationId(migration.get("id", "")), named["name"], named["uuid"], named["hostname"], named["hostuuid"])
    remedy = "hand each phase the cookie that the phase before it returned"
    name = "" if cookie.name == expected.uuid else expected.name  # protocol 1 names the domain as its caller does
    for what, has, wanted in (
        ("domain", cookie.name, name),
        ("the domain with UUID", cookie.uuid, expected.uuid),
        ("migration", cookie.migration_id, expected.migration_id),
    ):
        if wanted and has != wanted:
            raise CookieRefused(f"the cookie belongs to {what} {has}, not to {wanted}", remedy=remedy)
    if cookie.host_uuid == expected.own_host_uuid:
        raise CookieRefused(
            f"attempt to migrate domain {cookie.name} to the same host ({cookie.host_name})",
            remedy="choose another destination; two daemons on one machine need different host UUIDs",
        )
    return replace(cookie, features=frozenset(feature.get("name", "") for feature in root.iterfind("feature")))


def _check_features(features: frozenset[str], phase: Phase) -> None:
    known = {section.name: section for section in SECTIONS}
    if unknown := sorted(features - set(known)):
        raise CookieRefused(
            f"the cookie demands what this daemon does not know: {', '.join(unknown)}",
            remedy="use daemons of the same version",
        )
    if misplaced := sorted(name for name in features if phase not in known[name].read_by):
        raise CookieRefused(
            f"the cookie demands what has no place in {phase}: {', '.join(misplaced)}",
            remedy="hand each phase the cookie that the phase before it returned",
        )


# -- the sections ----------------------------------------------------------------------------------------------------


def _daemon(cookie: Cookie) -> etree._Element | None:
    return etree.Element("daemon", uri=cookie.daemon_uri) if cookie.daemon_uri else None


def _read_daemon(cookie: Cookie, element: etree._Element) -> Cookie:
    return replace(cookie, daemon_uri=element.get("uri", ""))


def _channel(cookie: Cookie) -> etree._Element | None:
    return etree.Element("channel", ticket=_text(cookie.ticket)) if cookie.ticket else None


def _read_channel(cookie: Cookie, element: etree._Element) -> Cookie:
    return replace(cookie, ticket=_bytes(element.get("ticket", "")))


def _data(cookie: Cookie) -> etree._Element | None:
    if cookie.data is None:
        return None
    offer = cookie.data
    disks = {"disks": offer.disks} if offer.disks else {}
    secret = {"encryption": offer.encryption.value} if offer.encryption is not Encryption.NONE else {}
    return etree.Element("data", {"uri": offer.uri, "otherwise": offer.otherwise.value, **disks, **secret})


def _read_data(cookie: Cookie, element: etree._Element) -> Cookie:
    otherwise = Otherwise.TUNNEL if element.get("otherwise") == Otherwise.TUNNEL else Otherwise.FAIL
    encryption = Encryption.TLS if element.get("encryption") == Encryption.TLS else Encryption.NONE
    return replace(cookie, data=DataOffer(element.get("uri", ""), otherwise, element.get("disks", ""), encryption))


def _lanes(cookie: Cookie) -> etree._Element | None:
    return None if cookie.lanes is None else _named("lanes", "lane", cookie.lanes)


def _read_lanes(cookie: Cookie, element: etree._Element) -> Cookie:
    return replace(cookie, lanes=_names(element, "lane"))


def _named(name: str, each: str, names: frozenset[str]) -> etree._Element:
    element = etree.Element(name)
    for text in sorted(names):
        etree.SubElement(element, each, name=text)
    return element


def _names(element: etree._Element, each: str) -> frozenset[str]:
    return frozenset(found.get("name", "") for found in element.iterfind(each))


def _capabilities(cookie: Cookie) -> etree._Element | None:
    return None if cookie.capabilities is None else _named("capabilities", "cap", cookie.capabilities)


def _read_capabilities(cookie: Cookie, element: etree._Element) -> Cookie:
    return replace(cookie, capabilities=_names(element, "cap"))


def _outcome(cookie: Cookie) -> etree._Element | None:
    if cookie.outcome is None:
        return None
    return etree.Element("outcome", result=cookie.outcome.value, signature=_text(cookie.signature))


def _read_outcome(cookie: Cookie, element: etree._Element) -> Cookie:
    result = element.get("result", "")
    try:
        return replace(cookie, outcome=Outcome(result), signature=_bytes(element.get("signature", "")))
    except ValueError:
        raise CookieRefused(f"the cookie has an unknown outcome {result!r}") from None


_FIGURES = tuple(f.name for f in fields(Statistics) if f.name != "disks")


def _statistics(cookie: Cookie) -> etree._Element | None:
    if cookie.statistics is None:
        return None
    figures = {name: str(getattr(cookie.statistics, name)) for name in _FIGURES}
    element = etree.Element("statistics", {name: figure for name, figure in figures.items() if figure != "0"})
    for disk in cookie.statistics.disks:
        sizes = {"total": str(disk.total_bytes), "processed": str(disk.processed_bytes)}
        etree.SubElement(element, "disk", {"target": disk.target, **sizes})
    return element


def _read_statistics(cookie: Cookie, element: etree._Element) -> Cookie:
    try:
        figures = {str(name): int(figure) for name, figure in element.attrib.items() if str(name) in _FIGURES}
        disks = tuple(
            DiskFigures(disk.get("target", ""), int(disk.get("total", "0")), int(disk.get("processed", "0")))
            for disk in element.iterfind("disk")
        )
    except ValueError as error:
        raise CookieRefused(f"the cookie has a figure that is no number: {error}") from None
    return replace(cookie, statistics=Statistics(**figures, disks=disks))


def _took(cookie: Cookie) -> etree._Element | None:
    in_order = [phase for phase in Phase if phase in cookie.took_ms]
    return etree.Element("took", {phase.value: str(cookie.took_ms[phase]) for phase in in_order}) if in_order else None


def _read_took(cookie: Cookie, element: etree._Element) -> Cookie:
    given = {str(name): str(figure) for name, figure in element.attrib.items()}
    try:
        return replace(cookie, took_ms={phase: int(given[phase]) for phase in Phase if phase in given})
    except ValueError as error:
        raise CookieRefused(f"the cookie has a time that is no number: {error}") from None


def _wish(cookie: Cookie) -> etree._Element | None:
    return None if cookie.wish is RunWish.NONE else etree.Element("wish", state=cookie.wish.value)


def _read_wish(cookie: Cookie, element: etree._Element) -> Cookie:
    state = element.get("state", "")
    try:
        return replace(cookie, wish=RunWish(state))
    except ValueError:
        raise CookieRefused(f"the cookie has an unknown wish {state!r}") from None


def _persistent(cookie: Cookie) -> etree._Element | None:
    return _document("persistent", cookie.persistent_xml)


def _read_persistent(cookie: Cookie, element: etree._Element) -> Cookie:
    return replace(cookie, persistent_xml=element.text or "")


def _definition(cookie: Cookie) -> etree._Element | None:
    return _document("definition", cookie.definition_xml)


def _read_definition(cookie: Cookie, element: etree._Element) -> Cookie:
    return replace(cookie, definition_xml=element.text or "")


def _disks(cookie: Cookie) -> etree._Element | None:
    if cookie.disks is None:
        return None
    element = etree.Element("disks")
    for image in cookie.disks:
        sizes = {"size": str(image.size_bytes), "allocated": str(image.allocated_bytes)}
        etree.SubElement(element, "disk", {"target": image.target, **sizes, "backing": image.backing})
    return element


def _read_disks(cookie: Cookie, element: etree._Element) -> Cookie:
    try:
        images = tuple(
            ImageFacts(
                disk.get("target", ""), int(disk.get("size", "")), int(disk.get("allocated", "0")), disk.get("backing", "")
            )
            for disk in element.iterfind("disk")
        )
    except ValueError as error:
        raise CookieRefused(f"the cookie has a size that is no number: {error}") from None
    return replace(cookie, disks=images)


def _document(name: str, xml: str) -> etree._Element | None:
    if not xml:
        return None
    element = etree.Element(name)
    element.text = xml
    return element


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise CookieRefused("the cookie has a ticket or signature that is no base64") from None


_PREPARE, _PERFORM = frozenset({Phase.PREPARE}), frozenset({Phase.PERFORM})
_FINISH, _CONFIRM = frozenset({Phase.FINISH}), frozenset({Phase.CONFIRM})

# One row is one section: name, need, the phases that read it, content; then how it is written and read.
# fmt: off
SECTIONS: tuple[Section, ...] = (
    Section("daemon", Need.OPTIONAL, _PREPARE | _PERFORM | _FINISH | _CONFIRM,
            "where the sender's daemon answers", _daemon, _read_daemon),
    Section("channel", Need.OPTIONAL, _PREPARE | _PERFORM,
            "a ticket: Prepare's opens the data channel, an offline Begin's asks for the release", _channel, _read_channel),
    Section("data", Need.OPTIONAL, _PREPARE | _PERFORM,
            "the sender can do without the tunnel; where a destination waits; TLS that one can or does", _data, _read_data),
    Section("lanes", Need.OPTIONAL, _PREPARE | _PERFORM,
            "the sender knows several data channels; a `lane` for each that it takes but the main one", _lanes, _read_lanes),
    Section("capabilities", Need.OPTIONAL, _PREPARE | _PERFORM,
            "what the sender's hypervisor can, one `cap` each; unknown names are ignored", _capabilities, _read_capabilities),
    Section("persistent", Need.MANDATORY, _PREPARE | _FINISH,
            "the definition that the destination is to keep", _persistent, _read_persistent),
    Section("definition", Need.MANDATORY, _PERFORM,
            "protocol 1: the definition that the destination took from its own store", _definition, _read_definition),
    Section("disks", Need.MANDATORY, _PREPARE,
            "offline: the images to copy, with size, allocated bytes, and the file beneath", _disks, _read_disks),
    Section("statistics", Need.OPTIONAL, _FINISH | _CONFIRM,
            "the transfer's figures, by their names", _statistics, _read_statistics),
    Section("took", Need.OPTIONAL, _PREPARE | _PERFORM | _FINISH | _CONFIRM,
            "how long each phase took, in ms", _took, _read_took),
    Section("wish", Need.MANDATORY, _FINISH,
            "a user's suspend or resume since Begin: how the guest is to be in the end", _wish, _read_wish),
    Section("outcome", Need.OPTIONAL, _CONFIRM,
            "the destination's word and its signature", _outcome, _read_outcome),
)
# fmt: on
"""Every section."""

FLOWS: tuple[tuple[Phase, Phase], ...] = (
    (Phase.BEGIN, Phase.PREPARE),
    (Phase.PREPARE, Phase.PERFORM),
    (Phase.PERFORM, Phase.FINISH),
    (Phase.FINISH, Phase.CONFIRM),
)
"""Who hands a cookie to whom in protocol 3."""


def as_markdown() -> str:
    """The table of sections as Markdown."""
    heads = " | ".join(f"{producer.name} to {consumer.name}" for producer, consumer in FLOWS)
    lines = [f"| section | need | {heads} | content |", "|---|---|" + "---|" * (len(FLOWS) + 1)]
    for section in SECTIONS:
        marks = " | ".join("x" if consumer in section.read_by else "" for _, consumer in FLOWS)
        lines.append(f"| {section.name} | {section.need} | {marks} | {section.content} |")
    return "\n".join(lines) + "\n"
