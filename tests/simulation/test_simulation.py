"""The promise, in ten thousand runs; that a seed is a run; and that the simulation finds what it is there to find."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice

import pytest

from simulation import running
from simulation.mutants import MUTANTS, lying, mutated
from simulation.plan import Plan, What, draw
from simulation.running import TESTS, Run, run_all, run_in_processes, seeds_of_today, shrunk

RUNS = int(os.environ.get("VMFERRY_SIMULATIONS", "10000"))
"""So many, half of them the same each time and half of them today's own."""
FOUND = (2683, 2892, 739946001845, 739946002311, 739946003661, 739947001851)
"""Seeds that found something once: a guest that dies while it is moved or found, or while nothing can be written."""
SEEDS_FOR_A_MUTANT = 4_000
SEEDS_OF_A_LIAR = 60

_TRACES = """
import sys
from simulation.running import run_all
print([done.trace for done in run_all(range(int(sys.argv[1]), int(sys.argv[2])))])
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_promise(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever goes wrong, one guest lives in the end, undamaged, never executed twice, and nothing is left over."""
    today = seeds_of_today()
    ranges = (range(RUNS - RUNS // 2), range(today, today + RUNS // 2))
    with capsys.disabled():
        sys.stdout.write("\nseeds " + " and ".join(f"{seeds.start} to {seeds.stop - 1}" for seeds in ranges) + "\n")
        tally = run_in_processes(ranges, os.cpu_count() or 1)
        sys.stdout.write("\n".join(tally.lines()) + "\n")
    assert RUNS == tally.runs
    assert [] == [line for failure in tally.failures for line in failure.lines()]
    _has_something_to_say(tally)


def _has_something_to_say(tally: running.Tally) -> None:
    """Runs in which nothing happens would show nothing."""
    assert tally.faults > tally.runs / 2
    assert tally.seen["Migrated"] > tally.runs / 2
    assert len(tally.seen) > 8 or tally.runs < 1000


def test_what_was_found_once_is_not_found_again() -> None:
    """Each of these seeds has told a client of an inner error."""
    assert [] == [line for done in run_all(FOUND) for line in done.verdict]


def test_a_seed_is_a_run() -> None:
    """The same seed is the same run in every step, in another process too, whatever else that has done before."""
    here = [done.trace for done in run_all(range(100, 112))]
    for hash_seed, first in (("1", 100), ("2", 106)):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TESTS)}
        command = [sys.executable, "-c", _TRACES, str(first), "112"]
        there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert str(here[first - 100 :]) == there.strip()
    assert len(set(here)) == len(here)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str) -> None:
    """Code without one of the rules doubles or loses a guest, and the simulation sees it. That it crashes is no proof."""
    with mutated(name):
        broken = (done for done in _failures(SEEDS_FOR_A_MUTANT) if _breaks_the_promise(done))
        caught = list(islice(broken, 1))
    assert caught, f"{SEEDS_FOR_A_MUTANT} seeds have not shown what is wrong with code that {name}"


def _breaks_the_promise(done: Run) -> bool:
    return any(word in finding for finding in done.verdict for word in (" executed ", " is lost: "))


def test_a_client_that_lies_is_harmless() -> None:
    """Coordinators that tell the source the opposite of what they have heard neither double nor lose a guest."""
    with lying():
        assert [] == [line for failure in _failures(SEEDS_OF_A_LIAR) for line in failure.lines()]


def _failures(count: int) -> Iterator[Run]:
    return (done for done in run_all(range(count)) if done.verdict)


def test_a_failing_plan_is_made_small() -> None:
    """What is left of a failing plan is what makes it fail: nothing of it can be left out."""
    plan = next(plan for plan in map(draw, range(1000)) if len(plan.faults) == 4)

    def fails(smaller: Plan) -> bool:
        return {plan.faults[1], plan.faults[3]} <= set(smaller.faults)

    assert [1, 3] == shrunk(plan, fails=fails)


def test_a_failure_says_how_to_see_it_again() -> None:
    """The report of a failing seed names the plan, what went wrong, and one command that does it again."""
    with mutated("gives up without the destination's word"):
        failure = next(_failures(SEEDS_FOR_A_MUTANT))
        assert failure.lines()[-1].endswith(f"-m simulation {failure.seed}")
        assert any("lost" in line for line in failure.lines())
        kept = shrunk(draw(failure.seed))
        assert running.run(draw(failure.seed).keeping(kept)).verdict


def test_plans_have_everything() -> None:
    """Every kind of fault is drawn by some seed of the base range."""
    drawn = {fault.what for seed in range(3000) for fault in draw(seed).faults}
    assert set(What) == drawn
