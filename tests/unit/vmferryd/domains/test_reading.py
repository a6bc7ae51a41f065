"""Reading in which nothing gets lost."""

from enum import StrEnum

import pytest
from lxml import etree

from vmferryd.domains.findings import DefinitionRefused
from vmferryd.domains.reading import Document


class Fruit(StrEnum):
    APPLE = "apple"
    PEAR = "pear"


def document(xml):
    """A document to read."""
    return Document(etree.fromstring(xml))


def problems(opened):
    """The findings at the end of the reading as (xpath, problem)."""
    with pytest.raises(DefinitionRefused) as caught:
        opened.close()
    return [(finding.xpath, finding.problem) for finding in caught.value.findings]


def test_a_document_that_was_read_whole_is_accepted():
    """Nothing left and nothing wrong: closing is silent."""
    opened = document("<a b='1'><c>text</c><!-- comment --></a>")
    assert (1, "text") == (opened.root.integer("b"), opened.root.child("c").text())
    opened.close()


def test_what_was_not_read_is_reported():
    """Attributes, elements and text that nobody asked for are findings; an unknown element only once."""
    opened = document("<a b='1'>x<c d='2'><e/></c></a>")
    assert [
        ("/a/@b", "the attribute 'b' is not supported"),
        ("/a/c", "the element 'c' is not supported"),
        ("/a/text()", "text at this place is not supported"),
    ] == problems(opened)


def test_text_behind_a_child_is_reported():
    """A tail is text too."""
    opened = document("<a><c/>x</a>")
    opened.root.child("c")
    assert [("/a/text()", "text at this place is not supported")] == problems(opened)


def test_an_attribute_of_another_namespace_is_reported():
    """Namespaces do not hide an attribute."""
    assert [("/a/@{urn:x}b", "the attribute '{urn:x}b' is not supported")] == problems(
        document("<a xmlns:x='urn:x' x:b='1'/>")
    )


@pytest.mark.parametrize("raw", ["", "x", "-1", "11", "1.0", "007", " 5", "9" * 30])
def test_a_bad_number_is_refused_with_a_stand_in(raw):
    """The reading goes on with the minimum."""
    opened = document(f"<a b='{raw}'/>")
    assert opened.root.integer("b", 0, 10) in {0, None}
    assert ["/a/@b"] == [xpath for xpath, _ in problems(opened)]


@pytest.mark.parametrize(("raw", "expected"), [("0x1f", 31), ("31", 31), ("0x001F", 31), ("0", 0)])
def test_addresses_may_be_hexadecimal(raw, expected):
    """Both spellings are read."""
    opened = document(f"<a b='{raw}'/>")
    assert expected == opened.root.hexadecimal("b", 31)
    opened.close()


@pytest.mark.parametrize("raw", ["0x20", "1f", "0x", "-1"])
def test_a_bad_hexadecimal_is_refused(raw):
    """Digits without the prefix are not guessed to be hexadecimal."""
    opened = document(f"<a b='{raw}'/>")
    opened.root.hexadecimal("b", 31)
    assert ["/a/@b"] == [xpath for xpath, _ in problems(opened)]


def test_an_unknown_word_names_the_known_ones():
    """The remedy lists what would be right."""
    opened = document("<a b='plum'/>")
    assert Fruit.APPLE is opened.root.choice("b", Fruit)
    with pytest.raises(DefinitionRefused, match=r"the value 'plum' is not supported\. Supported: apple, pear\."):
        opened.close()


def test_a_kind_that_is_not_supported_silences_the_rest():
    """Only the kind is reported, neither what else is in the element nor what it lacks."""
    opened = document("<a><c kind='plum' x='1'><d y='1'/></c></a>")
    child = opened.root.child("c")
    assert Fruit.APPLE is child.kind("kind", Fruit)
    child.child("d").integer("y", 5, 6)
    child.child("missing").need("z")
    assert [("/a/c/@kind", "the value 'plum' is not supported")] == problems(opened)


def test_what_has_to_be_there_is_missed():
    """A missing attribute, element or text is reported where it would be."""
    opened = document("<a><c/></a>")
    opened.root.need("b")
    opened.root.child("c").need_text()
    opened.root.child("d").need_text()
    expected = [
        ("/a/@b", "the attribute 'b' is missing"),
        ("/a/c", "the element 'c' is empty"),
        ("/a/d", "the element 'd' is missing"),
    ]
    assert expected == problems(opened)


def test_a_switch_has_two_words():
    """Anything else is refused."""
    opened = document("<a b='on' c='yes' d='off'/>")
    assert (True, None, None) == (opened.root.on_off("b"), opened.root.on_off("x"), opened.root.yes_no("x"))
    assert opened.root.on_off("c") is False
    assert opened.root.yes_no("d") is False
    assert ["/a/@c", "/a/@d"] == [xpath for xpath, _ in problems(opened)]


def test_what_is_claimed_twice_is_refused():
    """The second claim on a value of one scope is a finding; another scope is another matter."""
    opened = document("<a/>")
    opened.root.claim("name", "x")
    opened.root.claim("number", "x")
    opened.root.claim("name", "x")
    assert [("/a", "the name 'x' is used twice")] == problems(opened)
