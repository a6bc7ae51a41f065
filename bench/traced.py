"""A guest moved directly by QEMUs that trace what they do: how long the daemons let it stand still.

These moves are apart from those that are compared, so that none of those is traced.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from bench import by_vmferry
from bench.guests import GuestKind, Move, Way
from bench.inside import EVENTS, IncompleteTrace, Pause, pause_in
from support.guest import GuestImage

_SUFFIX = ".trace"


@dataclass(frozen=True, slots=True)
class Traced:
    """One move, and its pause; None if the traces do not show it: `missing` says why."""

    move: Move
    pause: Pause | None
    missing: str = ""


async def move(pair: by_vmferry.Pair, kind: GuestKind, emulator: str, image: GuestImage, directory: Path) -> Traced:
    """A fresh guest has moved once, directly, in `directory`, which is its own."""
    program = tracing(emulator, directory)
    async with by_vmferry.traveller(kind, str(program), image, directory) as traveller:
        moved = await pair.move(kind, Way.DIRECT, traveller, 0)
    try:
        return Traced(moved, pause_in([path.read_text() for path in directory.glob(f"*{_SUFFIX}")]))
    except IncompleteTrace as incomplete:
        return Traced(moved, None, str(incomplete))


def tracing(emulator: str, directory: Path) -> Path:
    """A program that is `emulator`, and writes what it does into a file of its own in `directory`."""
    options = " ".join(f"-trace {event}" for event in EVENTS)
    file = f"{shlex.quote(str(directory))}/$${_SUFFIX}"
    program = directory / "tracing"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(emulator)} "$@" -msg timestamp=on {options} -D {file}\n')
    program.chmod(0o700)
    return program
