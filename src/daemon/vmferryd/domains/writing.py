"""Writing XML: what is None is not written."""

from collections.abc import Mapping

from lxml import etree

from vmferryd.domains.reading import Node

Attributes = Mapping[str, str | int | None]


def add(parent: Node, tag: str, attributes: Attributes | None = None, text: str | int | None = None) -> Node:
    """Return the new last child of `parent`, with those attributes that are given."""
    node = etree.SubElement(parent, tag, _given(attributes or {}))
    node.text = None if text is None else str(text)
    return node


def add_if_any(parent: Node, tag: str, attributes: Attributes) -> None:
    """`parent` has such a child if any attribute is given."""
    if _given(attributes):
        add(parent, tag, attributes)


def add_text(parent: Node, tag: str, text: str | int | None) -> None:
    """`parent` has such a child if there is a text."""
    if text is not None:
        add(parent, tag, text=text)


def add_flags(parent: Node, flags: Mapping[str, bool]) -> None:
    """`parent` has an empty child for each flag that is set."""
    for tag, is_set in flags.items():
        if is_set:
            add(parent, tag)


def on_off(switch: bool | None) -> str | None:  # noqa: FBT001 - a value on its way into the document
    """Spell a switch as on or off."""
    return None if switch is None else ("on" if switch else "off")


def yes_no(switch: bool | None) -> str | None:  # noqa: FBT001 - a value on its way into the document
    """Spell a switch as yes or no."""
    return None if switch is None else ("yes" if switch else "no")


def hexadecimal(value: int | None, digits: int) -> str | None:
    """Spell a number as 0x…, padded with zeroes."""
    return None if value is None else f"0x{value:0{digits}x}"


def _given(attributes: Attributes) -> dict[str, str]:
    return {name: str(value) for name, value in attributes.items() if value is not None}
