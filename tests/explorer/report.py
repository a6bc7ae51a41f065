"""What an exploration found, for people: lines for the terminal, and the table of docs/proof.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from explorer.explore import Explored
from explorer.mutants import Mutant

PAGE = Path(__file__).parents[2] / "docs" / "proof.md"
MARKS = re.compile(r"(<!-- explored -->\n).*?(<!-- end -->)", re.DOTALL)


def figures(explored: Explored) -> str:
    """The whole of one exploration."""
    setting = explored.setting
    by_faults = ", ".join(f"{worlds} with {faults}" for faults, worlds in enumerate(explored.by_faults))
    ends = ", ".join(f"{count} {ending}" for ending, count in sorted(explored.endings.items()))
    verdict = "the promise holds in every one" if explored.finding is None else f"VIOLATION: {explored.finding}"
    return (
        f"{setting.name}, up to {setting.faults} faults: {explored.worlds} worlds ({by_faults}), "
        f"{explored.transitions} transitions, {explored.seconds:.1f} s of CPU\n  ends: {ends}\n  {verdict}"
    )


def mutant_row(mutant: Mutant, explored: Explored) -> str:
    """How a mutant was found out."""
    finding = explored.finding
    found = "SURVIVED" if finding is None else f"{len(finding.trace)} steps: {finding.problem}"
    return f"rule {mutant.rule:2}  {mutant.name}: {found}"


def row(explored: Explored) -> str:
    """One exploration in the table. It has no figure that depends on the machine."""
    setting = explored.setting
    ends = explored.endings
    violations = 0 if explored.finding is None else 1
    cells: Iterable[object] = (
        setting.name,
        setting.faults,
        f"{explored.worlds:,}",
        f"{explored.transitions:,}",
        ends["lives at the source"],
        ends["lives at the destination"],
        ends["lost with its hypervisor"],
        violations,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def table(explorations: Iterable[Explored]) -> str:
    """The table of docs/proof.md."""
    head = "| setting | faults | worlds | transitions | ends: source | destination | lost | violations |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *map(row, explorations)]) + "\n"


def page_with(explorations: Iterable[Explored]) -> str:
    """docs/proof.md with the table of these explorations."""
    fresh = table(explorations)
    return MARKS.sub(lambda mark: f"{mark[1]}{fresh}{mark[2]}", PAGE.read_text())
