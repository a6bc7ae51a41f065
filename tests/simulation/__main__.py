"""The simulation by hand: one seed again, step by step, or many.

python -m simulation 4711                     this seed, told as it goes
python -m simulation 4711 --keep 0,2          with these of its faults only
python -m simulation 4711 --shrink            with as few of its faults as still make it fail
python -m simulation --count 10000            many: the first so many, and as many of today's own
python -m simulation --minutes 480            as many of today's own as fit into a night
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import Any

import structlog

from simulation.loop import VirtualLoop, quiet
from simulation.plan import Plan, draw
from simulation.running import RANGES_OF_A_DAY, replay, run, run_in_processes, seeds_of_today, shrunk, silent_daemons


def main() -> int:
    """0 when nothing broke the promise."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--keep", help="numbers of faults, with commas between them, or none")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--count", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is None:
        return _many(options)
    plan = draw(options.seed)
    if options.keep is not None:
        plan = plan.keeping([int(number) for number in options.keep.split(",") if number.isdigit()])
    return _shrink(plan) if options.shrink else _one(plan)


def _many(options: argparse.Namespace) -> int:
    today = seeds_of_today()
    if options.minutes is not None:
        ranges = [range(today, today + RANGES_OF_A_DAY)]
    else:
        count = options.count or 1000
        ranges = [range(count), range(today, today + count)]
    _say(f"seeds: {', '.join(f'{seeds.start} to {seeds.stop - 1}' for seeds in ranges)}")
    tally = run_in_processes(ranges, options.processes, minutes=options.minutes)
    for line in (*tally.lines(), *(line for failure in tally.failures for line in failure.lines())):
        _say(line)
    return bool(tally.failures)


def _one(plan: Plan) -> int:
    for line in plan.lines():
        _say(line)
    with silent_daemons(speaking=_speak), quiet():
        done = run(plan)
    for line in (*done.fired, f"trace {done.trace}, {done.steps} steps", *(done.verdict or ("nothing is wrong",))):
        _say(line)
    return bool(done.verdict)


def _shrink(plan: Plan) -> int:
    with silent_daemons(), quiet():
        if not run(plan).verdict:
            _say("it does not fail")
            return 0
        kept = shrunk(plan)
    for line in (*plan.lines()[:1], *(f"fault {number}: {plan.faults[number]}" for number in kept)):
        _say(line)
    _say(replay(plan.seed, kept))
    return 1


def _speak(_: Any, __: str, event: dict[str, Any]) -> Any:
    running = asyncio._get_running_loop()
    if isinstance(running, VirtualLoop):
        facts = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        _say(f"{running.now_s - 1000:9.3f} {running.steps:6} {running.current().name:8} {event['event']:20} {facts}")
    raise structlog.DropEvent


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
