"""QEMU driven by hand over QMP: what there is to compare with."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bench.guests import DEFAULT_LIMIT_MS, GuestKind, Move, Way
from support.guest import GuestImage
from support.guest.raw_migration import Host, Options, migrate, qemu_command, running
from support.ports import free_port
from vmferry_demo.heartbeats import judge, parse_beat

UNLIMITED_MIB_PER_S = 1 << 20
BEATS = 30
HEAR_S = 120.0


async def move(kind: GuestKind, emulator: str, image: GuestImage, directory: Path, number: int) -> Move:
    """A fresh guest has moved once, over loopback TCP, with QEMU's default limit and without one of bandwidth."""
    options = Options(
        hops=1,
        memory_mib=kind.memory_mib,
        machine="q35",
        cpu="max",
        accelerator="tcg",
        serial="fifo",
        append="",
        settle_s=0,
        bandwidth_mib_s=UNLIMITED_MIB_PER_S,
        downtime_limit_ms=DEFAULT_LIMIT_MS,
    )

    def command(place: Path, *more: str) -> list[str]:
        return [emulator, *qemu_command(options, image, kind.settings, place)[1:], *more]

    async with AsyncExitStack() as stack:
        here, there = directory / "here", directory / "there"
        source = await stack.enter_async_context(running(command(here), here, "fifo"))
        await source.recorder.wait_until_ready(HEAR_S)
        await _heard(source)
        load = os.getloadavg()[0]
        ordered_s = time.monotonic()
        destination = await stack.enter_async_context(running(command(there, "-incoming", "defer"), there, "fifo"))
        hop = await migrate(source, destination, options, f"tcp:127.0.0.1:{free_port()}")
        wall_ms = (time.monotonic() - ordered_s) * 1000
        await _heard(destination)
        judgement = judge([source.recorder.recording(), destination.recorder.recording()], kind.settings.beat_ms)
    return Move(
        guest=kind.name,
        way=Way.RAW,
        round=number,
        wall_ms=wall_ms,
        total_ms=hop.total_ms,
        pause_ms=judgement.hand_overs[0].pause_ms,
        transferred_bytes=round(hop.transferred_mib * 2**20),
        load=load,
        faults=judgement.faults(),
    )


async def _heard(host: Host) -> None:
    """The guest has beaten often enough that it has settled."""
    await host.recorder.wait_until(lambda lines: sum(1 for line in lines if parse_beat(line)) >= BEATS, timeout_s=HEAR_S)
