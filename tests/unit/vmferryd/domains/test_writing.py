"""Writing elements."""

from lxml import etree

from vmferryd.domains.writing import add, add_flags, add_if_any, add_text, hexadecimal, on_off, yes_no


def test_what_is_none_is_not_written():
    """Absent attributes, texts and flags leave no trace."""
    root = etree.Element("a")
    add(root, "b", {"c": 1, "d": None}, text=2)
    add_if_any(root, "e", {"f": None})
    add_text(root, "g", None)
    add_flags(root, {"h": True, "i": False})
    assert b'<a><b c="1">2</b><h/></a>' == etree.tostring(root)


def test_switches_have_libvirts_words():
    """The same switch is on/off in one place and yes/no in another."""
    assert ("on", "off", None) == (on_off(True), on_off(False), on_off(None))
    assert ("yes", "no", None) == (yes_no(True), yes_no(False), yes_no(None))


def test_hexadecimal_is_padded():
    """A number has at least the digits asked for."""
    assert ("0x001f", None) == (hexadecimal(31, 4), hexadecimal(None, 4))
