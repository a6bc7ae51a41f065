"""Running plans: one, many, in several processes, and making a failing one small."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import structlog

from simulation import oracle
from simulation.loop import Stuck, VirtualLoop, quiet, simulated
from simulation.plan import Plan, draw
from simulation.world import World

COLLECT_EVERY = 8
TESTS = Path(__file__).parent.parent
MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - only where the journals of a run are, for its duration
RANGES_OF_A_DAY = 1_000_000
_FIGURES = ("runs", "steps", "virtual_s", "faults")


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one plan. `trace` is the same for the same run, and for no other."""

    seed: int
    verdict: tuple[str, ...]
    trace: int
    steps: int
    virtual_s: float
    fired: tuple[str, ...] = ()
    seen: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A failure, for people; the last line replays it."""
        return [
            f"seed {self.seed} breaks the promise:",
            *(f"  {finding}" for finding in self.verdict),
            *(f"  plan: {line}" for line in draw(self.seed).lines()),
            *(f"  fired {line}" for line in self.fired),
            f"  replay: {replay(self.seed)}",
        ]


def replay(seed: int, keep: Iterable[int] | None = None) -> str:
    """The command that runs that seed again, step by step the same."""
    kept = "" if keep is None else " --keep " + (",".join(map(str, keep)) or "none")
    return f"PYTHONPATH=tests .venv/bin/python -m simulation {seed}{kept}"


def run(plan: Plan) -> Run:
    """The plan has been carried out and judged."""
    with quiet():
        done = _run_at_all(plan)
        gc.collect()
    return done


def _run_at_all(plan: Plan) -> Run:
    shelf = MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="vmf-sim-", dir=shelf))
    try:
        with simulated(Random(f"schedule {plan.seed}"), plan.order) as loop:
            return _run(plan, loop, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(plan: Plan, loop: VirtualLoop, directory: Path) -> Run:
    world = World(plan, loop, directory)

    async def all_of_it() -> list[str]:
        await world.run()
        return await oracle.judged(world)

    try:
        verdict = loop.run_until_complete(loop.world.spawn(all_of_it()))
    except Exception as error:  # noqa: BLE001 - whatever it is, it has a seed
        verdict = [str(error) if isinstance(error, Stuck) else f"{type(error).__name__}: {error}"]
    facts = world.facts
    return Run(plan.seed, tuple(verdict), loop.trace, loop.steps, loop.now_s - 1000, tuple(facts.fired), dict(facts.seen))


@contextmanager
def silent_daemons(*, speaking: Callable[..., Any] | None = None) -> Iterator[None]:
    """The daemons' logs go nowhere, or to `speaking`."""
    before = structlog.get_config()
    if speaking is None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    else:
        structlog.configure(processors=[structlog.contextvars.merge_contextvars, speaking])
    try:
        yield
    finally:
        structlog.configure(**before)


def run_all(seeds: Iterable[int], *, until_s: float = float("inf")) -> Iterator[Run]:
    """The runs of those seeds, one after the other, until the machine's monotonic clock says `until_s`."""
    with silent_daemons(), quiet():
        gc.collect()
        gc.freeze()
        try:
            for number, seed in enumerate(seeds, 1):
                if time.monotonic() > until_s:
                    return
                yield _run_at_all(draw(seed))
                if number % COLLECT_EVERY == 0:
                    gc.collect()
        finally:
            gc.collect()
            gc.unfreeze()


def shrunk(plan: Plan, *, fails: Callable[[Plan], bool] | None = None) -> list[int]:
    """The numbers of faults that are enough to make the plan fail: without any one of them it does not."""
    fails = fails or (lambda smaller: bool(run(smaller).verdict))
    kept = list(range(len(plan.faults)))
    shorter = True
    while shorter:
        shorter = False
        for number in tuple(kept):
            without = [other for other in kept if other != number]
            if fails(plan.keeping(without)):
                kept, shorter = without, True
    return kept


# -- many, in several processes --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What became of many runs."""

    runs: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    faults: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    failures: list[Run] = field(default_factory=list)

    def count(self, done: Run) -> None:
        """One more."""
        self.runs += 1
        self.steps += done.steps
        self.virtual_s += done.virtual_s
        self.faults += len(done.fired)
        self.seen.update(done.seen)
        if done.verdict:
            self.failures.append(done)

    def lines(self) -> list[str]:
        """It, for people."""
        ends = ", ".join(f"{name} {count}" for name, count in self.seen.most_common())
        hours = self.virtual_s / 3600
        head = f"{self.runs} runs, {self.steps} steps, {self.faults} faults, {hours:.0f} simulated hours"
        return [head, f"the clients were told: {ends}"]


def seeds_of_today() -> int:
    """The first seed of today's own range; every day has other ones."""
    return datetime.now(UTC).date().toordinal() * RANGES_OF_A_DAY


def run_in_processes(ranges: Sequence[range], processes: int, *, minutes: float | None = None) -> Tally:
    """All `ranges` have been run, each process taking its share of each; with `minutes` not longer than that."""
    tally = Tally()
    workers = [_worker(ranges, number, processes, minutes) for number in range(processes)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            for line in worker.stdout:
                _take(tally, json.loads(line))
            if worker.wait() != 0:
                raise RuntimeError(f"a process that runs simulations ended with {worker.returncode}")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()
    return tally


def _worker(ranges: Sequence[range], number: int, processes: int, minutes: float | None) -> subprocess.Popen[str]:
    shares = [f"{seeds[number::processes].start}:{seeds.stop}:{processes}" for seeds in ranges if len(seeds) > number]
    bound = [] if minutes is None else ["--minutes", str(minutes)]
    command = [sys.executable, "-m", "simulation.worker", *bound, *shares]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(TESTS)})


def _take(tally: Tally, line: dict[str, Any]) -> None:
    if "failure" in line:
        facts = line["failure"]
        tally.failures.append(Run(**facts | {"verdict": tuple(facts["verdict"]), "fired": tuple(facts["fired"])}))
        return
    for name in _FIGURES:
        setattr(tally, name, getattr(tally, name) + line[name])
    tally.seen.update(line["seen"])


def told(tally: Tally) -> Iterator[str]:
    """A worker's lines."""
    yield from (json.dumps({"failure": asdict(failure)}) for failure in tally.failures)
    figures = {name: getattr(tally, name) for name in _FIGURES}
    yield json.dumps(figures | {"seen": dict(tally.seen)})
