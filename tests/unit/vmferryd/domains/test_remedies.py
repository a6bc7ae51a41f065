"""Remedies."""

from vmferryd.domains.remedies import remedy_for


def test_a_known_construct_has_its_own_remedy():
    """It says what to write instead."""
    assert "vnc" in remedy_for("graphics/@type=spice")


def test_an_unknown_construct_has_the_general_remedy():
    """There is always something to do; where the caller knows better, that."""
    assert remedy_for("a/b").startswith("Remove it")
    assert "Do this." == remedy_for("a/b", "Do this.")
