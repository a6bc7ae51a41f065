"""The promise holds in every world that can be reached, and whoever breaks a rule of it is found out."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from explorer.explore import Search
from explorer.mutants import MUTANTS, Mutant
from explorer.report import PAGE, row
from explorer.settings import USUAL, all_settings
from explorer.world import Setting

NIGHT = int(os.environ.get("VMFERRY_EXPLORE_FAULTS", "0"))
"""With 2 every pair of faults is explored in every setting, which takes minutes; with 3 every three of them: hours."""

SETTINGS = tuple(replace(each, faults=NIGHT) for each in all_settings()) if NIGHT else USUAL

HANDOVER_RULES = range(1, 11)


def _name(setting: Setting) -> str:
    return f"{setting.name}, {setting.faults} faults"


@pytest.mark.parametrize("setting", SETTINGS, ids=_name)
def test_the_promise_holds(setting: Setting) -> None:
    """At most one copy executes, one can always be brought back, and every world leads to an end; docs/proof.md says so."""
    explored = Search(setting).run()
    assert explored.finding is None, str(explored.finding)
    assert NIGHT or row(explored) in PAGE.read_text().splitlines(), "the figures have changed: run `make proof`"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"rule {mutant.rule}, {mutant.name}")
def test_a_mutant_is_found_out(mutant: Mutant) -> None:
    """A program that breaks a rule breaks the promise somewhere, and the way there can be read."""
    finding = Search(mutant.setting, mutant.rules).run().finding
    assert finding is not None, "nothing would notice"
    assert finding.trace


def test_the_real_rules_hold_where_mutants_do_not() -> None:
    """What finds a mutant out is the mutant: its setting is one in which the real rules are explored too."""
    assert {mutant.setting for mutant in MUTANTS} <= set(USUAL)


def test_every_rule_has_a_mutant() -> None:
    """No rule of the handover is without a program that breaks it."""
    assert {mutant.rule for mutant in MUTANTS} == set(HANDOVER_RULES)
