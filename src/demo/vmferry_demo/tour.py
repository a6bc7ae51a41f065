"""There and back in several ways, with the commands that a user would type, and a table of what came of it."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from rich.console import Console

from vmferry.cli import render
from vmferry.cli.units import duration, size
from vmferry.client import connect
from vmferry.model import JobInfo
from vmferry_demo.guest import NAME
from vmferry_demo.heartbeats import judge
from vmferry_demo.serial_recorder import SerialRecorder

READY_S = 180.0
"""How long the guest may take to boot, and to read all of its memory."""

_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Station:
    """A host of the tour, and the URI of its daemon."""

    name: str
    uri: str


@dataclass(frozen=True, slots=True)
class Way:
    """A way to migrate: what `vmferry migrate` is told for it."""

    name: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leg:
    """A migration that is over, as its source knows it."""

    way: Way
    here: Station
    there: Station
    job: JobInfo


@dataclass(frozen=True, slots=True)
class Testimony:
    """What the guest says of itself, and what is wrong with it: nothing, or it is not whole."""

    words: str
    faults: tuple[str, ...] = ()


class Witness(Protocol):
    """Knows how the guest is."""

    async def lives_on(self, host: Station) -> None:
        """The guest has lived for about a second more, at that host.

        Raises:
            TimeoutError: it has not.
        """

    async def testimony(self, host: Station) -> Testimony:
        """What it says, at that host, after all that it went through."""


@dataclass(frozen=True, slots=True)
class SerialWitness:
    """Knows it from the guest's serial port, on which it beats so often in a second."""

    recorder: SerialRecorder
    beats_per_s: int

    async def lives_on(self, host: Station) -> None:  # noqa: ARG002 - its beats are heard wherever it is
        """See Witness."""
        heard = len(self.recorder.recording())
        await self.recorder.wait_until(lambda lines: len(lines) > heard + self.beats_per_s, READY_S)

    async def testimony(self, host: Station) -> Testimony:  # noqa: ARG002 - the same
        """See Witness; all of its memory was read once more at that host, from the first page to the last."""
        rounds = judge([self.recorder.recording()]).verified_rounds
        await self.recorder.wait_until(lambda lines: judge([lines]).verified_rounds >= rounds + _ROUNDS, READY_S)
        found = judge([self.recorder.recording()])
        words = (
            f"{len(found.beats)} heartbeats, {len(found.missing)} missing, {len(found.doubled)} doubled; "
            f"all of its memory read {found.verified_rounds} times, {found.corrupt_pages} corrupt pages."
        )
        return Testimony(words, tuple(found.faults()))


@dataclass(slots=True)
class Tour:
    """The guest's way between two hosts; `legs` are those that are behind it."""

    witness: Witness
    console: Console
    legs: list[Leg] = field(default_factory=list)

    async def there_and_back(self, way: Way, first: Station, second: Station) -> None:
        """The guest was at the second host and is at the first again, and lived on at both.

        Raises:
            SystemExit: a command failed.
        """
        for here, there in pairwise((first, second, first)):
            await self.run("-c", here.uri, "migrate", "--live", *way.options, NAME, there.uri)
            await self.witness.lives_on(there)
            async with connect(here.uri) as source:
                self.legs.append(Leg(way, here, there, await source.newest_job(NAME)))

    async def ended(self, host: Station, *others: Station) -> bool:
        """The guest, which is at `host`, and all hosts were asked, and the table is shown; whether all is well.

        Raises:
            SystemExit: the hosts do not have exactly one copy.
        """
        await self.run("where", NAME, "--hosts", ",".join(one.uri for one in (host, *others)))
        told = await self.witness.testimony(host)
        self.console.print(f"\nThe guest says: {told.words}", soft_wrap=True)
        for fault in told.faults:
            self.console.print(f"[red]{fault}")
        self.console.print()
        render.table(self.console, HEADINGS, rows(self.legs))
        return not told.faults

    async def run(self, *arguments: str) -> None:
        """`vmferry` has run with these arguments, as a user would run it.

        Raises:
            SystemExit: it failed.
        """
        self.console.print(f"[dim]$[/dim] [bold]vmferry {shlex.join(arguments)}", soft_wrap=True)
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "vmferry.cli", *arguments)
        if code := await process.wait():
            raise SystemExit(f"vmferry ended with {code}")


HEADINGS = ("way", "from", "to", "guest's data", "total time", "stood still", "sent", "rounds")


def rows(legs: Iterable[Leg]) -> list[Sequence[str]]:
    """What the table says of each migration."""
    return [_row(leg) for leg in legs]


def _way_of_the_data(job: JobInfo) -> str:
    """`tunnel`, `connection`, or `connection (TLS)` if it is the hypervisors that encrypt."""
    way, _, place = job.data_channel.partition(" to ")
    return f"{way} (TLS)" if place.endswith(" (TLS)") else way


def _row(leg: Leg) -> Sequence[str]:
    figures = leg.job.statistics
    return (
        leg.way.name,
        leg.here.name,
        leg.there.name,
        _way_of_the_data(leg.job),
        duration(leg.job.elapsed_ms),
        duration(figures.guest_pause_ms),
        size(figures.memory_processed_bytes),
        str(figures.memory_iteration),
    )
