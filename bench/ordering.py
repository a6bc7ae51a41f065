"""One order given to a program, and what it cost until the answer."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Order:
    """How long whoever gave it waited, under which load, and the CPU seconds of both daemons and of the program."""

    wall_ms: float
    load: float
    source_cpu_s: float
    destination_cpu_s: float
    client_cpu_s: float


async def ordered(daemons: Sequence[int], *command: str) -> Order:
    """`command` has been obeyed by the two `daemons`, source and destination, which are processes."""
    load, before, began_s = os.getloadavg()[0], _cpu_s(daemons), time.monotonic()
    await said(*command)
    wall_ms = (time.monotonic() - began_s) * 1000
    return Order(wall_ms, load, *(after - earlier for after, earlier in zip(_cpu_s(daemons), before, strict=True)))


async def said(*command: str) -> str:
    """What a program printed.

    Raises:
        RuntimeError: it failed; its complaint is in the text.
    """
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    answer, complaint = await program.communicate()
    if program.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {program.returncode}: {(complaint or answer).decode()}")
    return answer.decode()


def _cpu_s(daemons: Sequence[int]) -> list[float]:
    """Of each daemon so far, and of every program that has ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return [*map(_of_process_s, daemons), ended.ru_utime + ended.ru_stime]


def _of_process_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S
