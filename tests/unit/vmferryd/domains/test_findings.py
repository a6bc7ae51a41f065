"""Findings and the exception that carries them."""

from vmferryd.domains.findings import DefinitionRefused, Finding

FIRST = Finding("/domain/a", 3, "'a' is wrong", "Remove it.")
SECOND = Finding("/domain/b", None, "'b' is wrong", "Change it.")


def test_a_finding_says_where_what_and_how():
    """Place, problem and remedy are one line; the line number only where there is one."""
    assert "/domain/a (line 3): 'a' is wrong. Remove it." == str(FIRST)
    assert "/domain/b: 'b' is wrong. Change it." == str(SECOND)


def test_a_refusal_lists_all_findings():
    """The text has one line for each finding, in order."""
    refused = DefinitionRefused([FIRST, SECOND])
    assert (FIRST, SECOND) == refused.findings
    heading, *lines = str(refused).splitlines()
    assert "the domain definition is refused for 2 reasons:" == heading
    assert [f"  {FIRST}", f"  {SECOND}"] == lines


def test_one_reason_is_singular():
    """A single finding is announced as one."""
    assert str(DefinitionRefused([FIRST])).startswith("the domain definition is refused for 1 reason:")
