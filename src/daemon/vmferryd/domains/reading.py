"""Reading XML so that nothing is dropped silently.

A `Document` remembers every element, attribute and text that a reader took. Whatever is left when the reading is
over becomes a finding, up to a number that nobody would read to the end: what is supported is therefore exactly
what some reader asks for. Reading never stops at something wrong: it notes a finding, returns a stand-in, and
`Document.close` refuses the whole.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from typing import TypeVar, cast

from lxml import etree

from vmferryd.domains.findings import DefinitionRefused, Finding
from vmferryd.domains.remedies import remedy_for

Node = etree._Element  # noqa: SLF001 - lxml has no public name for what its parser returns
Choice = TypeVar("Choice", bound=StrEnum)

MISSING = "?"
MAXIMUM_FINDINGS = 500
_TEXT = ""
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,9}")


class Document:
    """What has been read of a document, and what is wrong with it."""

    def __init__(self, root: Node) -> None:
        self._consumed: dict[Node, set[str]] = {}
        self._verbatim: set[Node] = set()
        self._claims: set[tuple[str, str]] = set()
        self._findings: list[Finding] = []
        self._tree = root.getroottree()
        self.root = Element(self, root, None, root.tag)

    def xpath(self, node: Node) -> str:
        """Return the path of an element, as XPath would find it."""
        return self._tree.getpath(node)

    def take(self, node: Node, name: str = _TEXT) -> None:
        """The attribute `name` of `node`, or its text, is read."""
        self.enter(node)
        self._consumed[node].add(name)

    def enter(self, node: Node) -> None:
        """The element is known; what it holds has yet to be read."""
        self._consumed.setdefault(node, set())

    def take_whole(self, node: Node) -> None:
        """The element and everything in it are read."""
        self.enter(node)
        self._verbatim.add(node)

    def is_whole(self, node: Node) -> bool:
        """Return whether the element lies in one that was taken as a whole."""
        return node in self._verbatim or any(around in self._verbatim for around in node.iterancestors())

    def claim(self, scope: str, value: str) -> bool:
        """Return whether `value` is the first of its kind; from now on it is taken."""
        key = (scope, value)
        is_first = key not in self._claims
        self._claims.add(key)
        return is_first

    def note(self, finding: Finding) -> None:
        """The document will be refused, with `finding` among the reasons."""
        self._findings.append(finding)

    @property
    def is_full(self) -> bool:
        """Whether so much is wrong that nothing more is noted: no document can keep us busy with its findings."""
        return len(self._findings) >= MAXIMUM_FINDINGS

    def close(self) -> None:
        """Everything in the document was read and right.

        Raises:
            DefinitionRefused: with all findings, those about what nobody read included.
        """
        for node, names in list(self._consumed.items()):
            if not self.is_full and not self.is_whole(node):
                room = MAXIMUM_FINDINGS - len(self._findings)
                self._findings.extend(islice(self._left_over(node, names), room))
        if self._findings:
            raise DefinitionRefused(sorted(set(self._findings), key=_position))

    def _left_over(self, node: Node, names: set[str]) -> Iterator[Finding]:
        for name in map(_decoded, node.attrib):
            if name not in names:
                yield self._unsupported(node, f"/@{name}", f"{node.tag}/@{name}", f"the attribute '{name}'")
        if _TEXT not in names and _says_something(node.text):
            yield self._unsupported(node, "/text()", "text()", "text at this place")
        for child in node:
            if not _is(child, etree.Comment) and child not in self._consumed:
                yield self._unsupported_node(child, node)
            if _says_something(child.tail):
                yield self._unsupported(node, "/text()", "text()", "text at this place")

    def _unsupported_node(self, child: Node, parent: Node) -> Finding:
        if _is(child, etree.ProcessingInstruction):
            return self._unsupported(child, "", "processing-instruction()", "a processing instruction")
        return self._unsupported(child, "", f"{parent.tag}/{child.tag}", f"the element '{child.tag}'")

    def _unsupported(self, node: Node, suffix: str, key: str, what: str) -> Finding:
        return Finding(self.xpath(node) + suffix, line_of(node), f"{what} is not supported", remedy_for(key))


class Element:
    """A cursor on an element that may be absent: what an absent element is asked for is absent too."""

    __slots__ = ("_document", "_node", "_parent", "_tag")

    def __init__(self, document: Document, node: Node | None, parent: "Element | None", tag: str) -> None:
        self._document = document
        self._node = node
        self._parent = parent
        self._tag = tag
        if node is not None:
            document.enter(node)

    @property
    def present(self) -> bool:
        """Whether the document has this element."""
        return self._node is not None

    @property
    def line(self) -> int | None:
        """The line of the element, or of the nearest one around it."""
        if self._node is not None:
            return line_of(self._node)
        return self._parent.line if self._parent is not None else None

    @property
    def xpath(self) -> str:
        """The path of the element, or the one it would have."""
        if self._node is not None:
            return self._document.xpath(self._node)
        around = self._parent.xpath if self._parent is not None else ""
        return f"{around}/{self._tag}"

    def refuse(self, problem: str, remedy: str, *, at: str = "") -> None:
        """The document will be refused because of this element, or of its part `at` (such as `/@name`)."""
        if not self._document.is_full and not self._is_given_up():
            self._document.note(Finding(self.xpath + at, self.line, problem, remedy))

    def give_up(self) -> None:
        """Nothing more will be said of this element or of anything in it."""
        if self._node is not None:
            self._document.take_whole(self._node)

    def refuse_whole(self, problem: str, remedy: str) -> None:
        """The document will be refused because of this element, which was taken as a whole."""
        if not self._document.is_full:
            self._document.note(Finding(self.xpath, self.line, problem, remedy))

    def is_first(self, scope: str, value: str) -> bool:
        """Return whether `value` is the first of its kind; from now on it is taken."""
        return self._document.claim(scope, value)

    def claim(self, scope: str, value: str, *, at: str = "") -> None:
        """`value` belongs to this element; it is refused if another one had it already."""
        if not self._document.claim(scope, value):
            self.refuse(f"the {scope} '{value}' is used twice", "Give each its own.", at=at)

    def child(self, tag: str) -> "Element":
        """Return the only child of that name, which may be absent; a second one is refused."""
        found = self.children(tag)
        for extra in found[1:]:
            extra.refuse(f"the element '{tag}' is given twice", "Keep one of them.")
            extra.give_up()
        return found[0] if found else Element(self._document, None, self, tag)

    def children(self, tag: str) -> "list[Element]":
        """Return all children of that name."""
        if self._node is None:
            return []
        return [Element(self._document, node, self, tag) for node in self._node.iterchildren(tag)]

    def flag(self, tag: str) -> bool:
        """Return whether there is a child of that name; it says nothing but that."""
        return self.child(tag).present

    def foreign_children(self) -> Iterator[tuple["Element", Node]]:
        """Yield the children that no reader has entered, each then taken as a whole."""
        for node in self._node.iterchildren("*") if self._node is not None else ():
            if node not in self._document._consumed:  # noqa: SLF001 - the two classes are one mechanism
                self._document.take_whole(node)
                yield Element(self._document, node, self, str(node.tag)), node

    def string(self, name: str) -> str | None:
        """Return an attribute, None if it is absent; an empty one is refused."""
        raw = self.raw(name)
        if self._node is None or raw is None:
            return None
        self._document.take(self._node, name)
        if not raw:
            self.refuse(f"the attribute '{name}' is empty", "Give it a value or remove it.", at=f"/@{name}")
            return None
        return raw

    def need(self, name: str) -> str:
        """Return an attribute that has to be there."""
        value = self.string(name)
        if value is None:
            self.refuse(f"the attribute '{name}' is missing", remedy_for(f"{self._tag}/@{name}"), at=f"/@{name}")
        return MISSING if value is None else value

    def matching(self, name: str, pattern: re.Pattern[str], remedy: str) -> str | None:
        """Return an attribute that has the form of `pattern`, None if it is absent."""
        value = self.string(name)
        if value is not None and not pattern.fullmatch(value):
            self.refuse(f"'{value}' does not have the right form", remedy, at=f"/@{name}")
        return value

    def need_matching(self, name: str, pattern: re.Pattern[str], remedy: str) -> str:
        """Return an attribute that has to be there and has the form of `pattern`."""
        return self.need(name) if self.raw(name) is None else self.matching(name, pattern, remedy) or MISSING

    def raw(self, name: str) -> str | None:
        """Return an attribute without reading it: it still has to be read."""
        return self._node.get(name) if self._node is not None else None

    def text(self) -> str | None:
        """Return the element's text exactly as it is, None if there is none."""
        if self._node is None:
            return None
        self._document.take(self._node)
        return self._node.text or None

    def need_text(self) -> str:
        """Return the text of an element that has to be there."""
        value = self.text()
        if value is None:
            problem = "is empty" if self.present else "is missing"
            self.refuse(f"the element '{self._tag}' {problem}", remedy_for(f"missing/{self._tag}"))
        return MISSING if value is None else value

    def choice(self, name: str, kind: type[Choice]) -> Choice | None:
        """Return an attribute that is one of a few words, None if it is absent."""
        raw = self.string(name)
        return None if raw is None else self._one_of(raw, kind, f"/@{name}", f"{self._tag}/@{name}")

    def need_choice(self, name: str, kind: type[Choice]) -> Choice:
        """Return an attribute that has to be there and is one of a few words."""
        raw = self.need(name)
        if raw == MISSING:
            return next(iter(kind))
        return self._one_of(raw, kind, f"/@{name}", f"{self._tag}/@{name}")

    def kind(self, name: str, words: type[Choice], usual: Choice | None = None) -> Choice:
        """Return the attribute that decides what the element is, `usual` if it is absent.

        Where the kind is not supported, nothing else of the element is reported.
        """
        raw = self.raw(name)
        if raw is None and usual is not None:
            return usual
        value = self.need_choice(name, words)
        if raw not in set(words):
            self.give_up()
        return value

    def text_choice(self, kind: type[Choice]) -> Choice | None:
        """Return a text that is one of a few words, None if there is none."""
        raw = self.text()
        return None if raw is None else self._one_of(raw.strip(), kind, "", self._tag)

    def on_off(self, name: str) -> bool | None:
        """Return a switch spelled on or off, None if it is absent."""
        return self._switch(name, "on", "off")

    def yes_no(self, name: str) -> bool | None:
        """Return a switch spelled yes or no, None if it is absent."""
        return self._switch(name, "yes", "no")

    def integer(self, name: str, minimum: int = 0, maximum: int = 2**31 - 1) -> int | None:
        """Return a decimal attribute within bounds, None if it is absent."""
        raw = self.string(name)
        return None if raw is None else self._number(raw, minimum, maximum, f"/@{name}")

    def need_integer(self, name: str, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """Return a decimal attribute within bounds that has to be there."""
        raw = self.need(name)
        return minimum if raw == MISSING else self._number(raw, minimum, maximum, f"/@{name}")

    def hexadecimal(self, name: str, maximum: int) -> int | None:
        """Return an attribute written as 0x… or in decimal, None if it is absent."""
        raw = self.string(name)
        if raw is None:
            return None
        value = int(raw, 0) if _HEXADECIMAL.fullmatch(raw) else -1
        return self._within(value, raw, 0, maximum, f"/@{name}")

    def text_integer(self, minimum: int, maximum: int) -> int | None:
        """Return a decimal text within bounds, None if there is none."""
        raw = self.text()
        return None if raw is None else self._number(raw.strip(), minimum, maximum, "")

    def _is_given_up(self) -> bool:
        if self._node is not None:
            return self._document.is_whole(self._node)
        return self._parent is not None and self._parent._is_given_up()  # noqa: SLF001 - the same class

    def _number(self, raw: str, minimum: int, maximum: int, at: str) -> int:
        value = int(raw) if _DECIMAL.fullmatch(raw) else minimum - 1
        return self._within(value, raw, minimum, maximum, at)

    def _within(self, value: int, raw: str, minimum: int, maximum: int, at: str) -> int:
        if minimum <= value <= maximum:
            return value
        problem = f"'{raw}' is not a number from {minimum} to {maximum}"
        self.refuse(problem, "Write a number within these bounds.", at=at)
        return minimum

    def _switch(self, name: str, on: str, off: str) -> bool | None:
        raw = self.string(name)
        if raw not in (on, off, None):
            self.refuse(f"'{raw}' is neither {on} nor {off}", f"Write {on} or {off}.", at=f"/@{name}")
        return None if raw is None else raw == on

    def _one_of(self, raw: str, kind: type[Choice], at: str, key: str) -> Choice:
        try:
            return kind(raw)
        except ValueError:
            allowed = "Supported: " + ", ".join(kind) + "."
            self.refuse(f"the value '{raw}' is not supported", remedy_for(f"{key}={raw}", allowed), at=at)
            return next(iter(kind))


def line_of(node: Node) -> int | None:
    """Return the line a parsed element begins on."""
    return cast("int | None", node.sourceline)


def _is(node: Node, factory: object) -> bool:
    """Return whether the node is a comment or the like: lxml gives it the function that makes one as its tag."""
    return cast("object", node.tag) is factory


def _decoded(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode()


def _position(finding: Finding) -> tuple[int, str]:
    return (finding.line or 0, finding.xpath)


def _says_something(text: str | None) -> bool:
    return text is not None and bool(text.strip())
