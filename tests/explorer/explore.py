"""The search: every world that can be reached with the fewest faults first, and what must hold in each."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from explorer import destination, hypervisors, people, source
from explorer.promise import broken_promise, broken_step, ended, ending
from explorer.rules import REAL, Rules
from explorer.world import Coordinator, DestinationSide, Guests, Move, Setting, SourceSide, World
from vmferry.coordinator import first
from vmferry.errors import PhaseOutOfOrder


def start(setting: Setting) -> World:
    """A guest runs at the source, and somebody wants it elsewhere."""
    return World(Coordinator(first(setting.profile)), SourceSide(), DestinationSide(), Guests(), frozenset())


def successors(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    """Everything that may happen next while nothing fails, and some failures."""
    yield from people.coordinator(world, setting, rules)
    yield from people.network(world, setting, rules)
    yield from source.moves(world, setting, rules)
    yield from destination.moves(world, setting, rules)
    for words, guests in hypervisors.by_themselves(world.guests, setting):
        yield Move(words, world._replace(guests=guests))
    yield from people.destroyer(world)


def failures(world: World, setting: Setting, rules: Rules) -> Iterator[Move]:
    """Every other failure that may happen next."""
    for words, guests in hypervisors.failures(world, setting):
        yield Move(words, world._replace(guests=guests), fault=True)
    yield from people.impatience(world, setting, rules)
    yield from people.twins(world, setting, rules)
    yield from people.crashes(world, setting)
    yield from people.operator(world, rules)
    yield from people.lies(world, setting, rules)


def without_echoes(world: World) -> World:
    """The same world without messages that nobody waits for and that cannot change anything any more.

    Final records never change, so such a message has no effect whenever it arrives: to leave it out merges worlds that no
    later move can tell apart.
    """
    if not world.net:
        return world
    net = frozenset(message for message in world.net if message.mine or not people.is_echo(message, world))
    return world if len(net) == len(world.net) else world._replace(net=net)


@dataclass(frozen=True)
class Finding:
    """A promise that does not hold, and the shortest way there with the fewest faults."""

    problem: str
    trace: tuple[str, ...]
    world: World

    def __str__(self) -> str:
        steps = "\n".join(f"  {number:3}. {words}" for number, words in enumerate(self.trace, 1))
        world = self.world
        return f"{self.problem}\n{steps}\n  source      {world.source}\n  destination {world.destination}\n  {world.guests}"


@dataclass
class Explored:
    """What a search found. `transitions` counts those among the visited worlds."""

    setting: Setting
    worlds: int = 0
    transitions: int = 0
    by_faults: list[int] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    finding: Finding | None = None
    seconds: float = 0.0


class Search:
    """One exploration. Worlds are numbered in the order in which they are found."""

    def __init__(self, setting: Setting, rules: Rules = REAL) -> None:
        self._setting, self._rules = setting, rules
        self._numbers: dict[World, int] = {}
        self._worlds: list[World] = []
        self._parents: array[int] = array("q")
        self._words: list[str] = []
        self._before = array("q")  # edges without a fault, backwards: pairs of numbers
        self._good: list[int] = []
        self.explored = Explored(setting)

    def run(self) -> Explored:
        """Every world with up to `setting.faults` faults has been looked at, or a finding ends it."""
        began_s = time.process_time()
        try:
            self._walk()
            if self.explored.finding is None:
                self._check_that_all_end_well()
        finally:
            self.explored.worlds = len(self._worlds)
            self.explored.seconds = time.process_time() - began_s
        return self.explored

    def _walk(self) -> None:
        layer = [self._found(start(self._setting), -1, "")]
        for faults in range(self._setting.faults + 1):
            before = len(self._worlds) - len(layer)
            later = self._layer(layer, collect=faults < self._setting.faults)
            self.explored.by_faults.append(len(self._worlds) - before)
            if later is None:
                return
            layer = []
            for parent, move in later:
                if move.world not in self._numbers:
                    layer.append(self._found(move.world, parent, move.words))
                    if not self._holds(layer[-1]):
                        return

    def _layer(self, layer: list[int], *, collect: bool) -> list[tuple[int, Move]] | None:
        """All that follows from `layer` without another fault; what follows with one is returned. None: a finding."""
        later: list[tuple[int, Move]] = []
        queue = layer
        while queue:
            following: list[int] = []
            for number in queue:
                if not self._expand(number, following, later if collect else None):
                    return None
            queue = following
        return later

    def _expand(self, number: int, following: list[int], later: list[tuple[int, Move]] | None) -> bool:
        world = self._worlds[number]
        try:
            for move in successors(world, self._setting, self._rules):
                if not move.fault:
                    if not self._step(number, move, following):
                        return False
                elif later is not None:
                    self._later(number, move, later)
            if later is not None:
                for move in failures(world, self._setting, self._rules):
                    self._later(number, move, later)
        except PhaseOutOfOrder as missing:
            self._report(f"the table lacks a step: {missing}", number)
            return False
        return True

    def _later(self, number: int, move: Move, later: list[tuple[int, Move]]) -> None:
        self.explored.transitions += 1
        settled = without_echoes(move.world)
        if settled not in self._numbers:
            later.append((number, Move(move.words, settled, fault=True)))

    def _step(self, number: int, move: Move, following: list[int]) -> bool:
        self.explored.transitions += 1
        world = without_echoes(move.world)
        known = self._numbers.get(world)
        if known is None:
            known = self._found(world, number, move.words)
            following.append(known)
            if not self._holds(known):
                return False
        if problem := broken_step(self._worlds[number], world):
            self._report(problem, known)
            return False
        self._before.extend((known, number))
        return True

    def _found(self, world: World, parent: int, words: str) -> int:
        number = self._numbers[world] = len(self._worlds)
        self._worlds.append(world)
        self._parents.append(parent)
        self._words.append(words)
        return number

    def _holds(self, number: int) -> bool:
        world = self._worlds[number]
        if problem := broken_promise(world, self._rules):
            self._report(problem, number)
            return False
        if ended(world):
            self._good.append(number)
            self.explored.endings[ending(world)] += 1
        return True

    # -- liveness ----------------------------------------------------------------------------------------------------

    def _check_that_all_end_well(self) -> None:
        """From every world that was visited an end can be reached without a further fault."""
        heads, tails = self._before[0::2], self._before[1::2]
        incoming: list[list[int]] = [[] for _ in self._worlds]
        for head, tail in zip(heads, tails, strict=True):
            incoming[head].append(tail)
        reached = bytearray(len(self._worlds))
        stack = list(self._good)
        for number in stack:
            reached[number] = 1
        while stack:
            for tail in incoming[stack.pop()]:
                if not reached[tail]:
                    reached[tail] = 1
                    stack.append(tail)
        stuck = reached.find(0)
        if stuck >= 0:
            self._report("from here nothing leads to an end any more, although nothing else fails", stuck)

    def _report(self, problem: str, number: int) -> None:
        trace, here = [], number
        while self._parents[here] >= 0:
            trace.append(self._words[here])
            here = self._parents[here]
        self.explored.finding = Finding(problem, tuple(reversed(trace)), self._worlds[number])
