"""Metadata ↔ XML: the simulated guest's settings, and everybody else's elements as they are."""

from lxml import etree

from vmferryd.domains.model import Simulation
from vmferryd.domains.reading import Element, Node

TEST_NAMESPACE = "urn:vmferry:test:1"
_TEST_TAG = f"{{{TEST_NAMESPACE}}}test"
_MAXIMUM = 2**53


def read_simulation(metadata: Element) -> Simulation | None:
    """Return the simulated guest's settings, None where there are none."""
    element = metadata.child(_TEST_TAG)
    if not element.present:
        return None
    return Simulation(
        dirty_rate_pages_per_s=element.integer("dirty-rate-pages-per-s", maximum=_MAXIMUM),
        working_set_pages=element.integer("working-set-pages", 1, _MAXIMUM),
        boot_time_ms=element.integer("boot-time-ms", maximum=_MAXIMUM),
    )


def read_foreign(metadata: Element) -> tuple[str, ...]:
    """Return the other elements as canonical XML, at most one of each namespace as in libvirt."""
    kept = []
    for element, node in metadata.foreign_children():
        namespace = str(etree.QName(node).namespace or "")
        if not namespace:
            element.refuse_whole("metadata needs a namespace", "Put the element into a namespace of your own.")
        elif namespace == TEST_NAMESPACE:
            element.refuse_whole("vmferry has no such element", "In this namespace only 'test' is known.")
        elif not element.is_first("metadata namespace", namespace):
            remedy = "Put both into one element."
            element.refuse_whole(f"the metadata namespace '{namespace}' is used twice", remedy)
        kept.append(canonical(node))
    return tuple(kept)


def write_simulation(metadata: Node, simulation: Simulation | None) -> None:
    """`metadata` ends with the simulated guest's settings, if there are any."""
    if simulation is None:
        return
    settings = {
        "dirty-rate-pages-per-s": simulation.dirty_rate_pages_per_s,
        "working-set-pages": simulation.working_set_pages,
        "boot-time-ms": simulation.boot_time_ms,
    }
    given = {name: str(value) for name, value in settings.items() if value is not None}
    etree.SubElement(metadata, _TEST_TAG, given, nsmap={"vmferry": TEST_NAMESPACE})


def write_foreign(metadata: Node, elements: tuple[str, ...]) -> None:
    """`metadata` ends with the other elements, nothing in them changed."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    metadata.extend([etree.fromstring(element, parser) for element in elements])


def canonical(node: Node) -> str:
    """Return an element as canonical XML with the namespaces it needs."""
    tail, node.tail = node.tail, None
    try:
        return etree.tostring(node, method="c14n").decode()
    finally:
        node.tail = tail
