"""How much a tunnel carries when memory feeds it, and how fast a daemon answers that relays two of them at full speed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.certificates import certificates_of
from support.ports import free_port
from vmferry.client import Connection, connect

PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Carried:
    """What tunnels carried together, what that cost each daemon, and how long calls to them took meanwhile, each."""

    transport: str
    tunnels: int
    bytes_per_s: float
    source_cpu_s: float
    answers_ms: tuple[float, ...]
    load: float


async def carried(transport: str, tunnels: int, size_bytes: int, directory: Path) -> Carried:
    """Each of `tunnels` has carried `size_bytes` from memory to memory, between two daemons on loopback."""
    directory.mkdir()
    folder = certificates_of("vmferry bench", directory / "certificates") if transport == "tls" else None
    query = f"?certificates={folder}" if folder else ""
    uris = [f"vmferry+{transport}://127.0.0.1:{free_port()}" for _ in range(2)]
    told = [{"uri": uri, "state": f"{directory / uri[-5:]}", "certificates": str(folder or "")} for uri in uris]
    told[0] |= {"peer": f"{uris[1]}{query}", "tunnels": tunnels, "bytes": size_bytes}  # type: ignore[dict-item]
    load = os.getloadavg()[0]
    async with _process(told[1]), _process(told[0]) as source, connect(f"{uris[0]}{query}") as control:
        await _ask(source)  # buffers and connections as they are after some time of service
        asking = asyncio.create_task(_answers_ms(control))
        found = await _ask(source)
        asking.cancel()
        answers = await asking
    rate = tunnels * size_bytes / found["took_s"]
    return Carried(transport, tunnels, rate, found["cpu_s"], tuple(answers), load)


async def _answers_ms(control: Connection) -> list[float]:
    """How long each of many calls took, one after the other, until cancelled."""
    took_ms: list[float] = []
    try:
        while True:
            asked_s = time.monotonic()
            await control.jobs()
            took_ms.append((time.monotonic() - asked_s) * 1000)
            await asyncio.sleep(PAUSE_S)
    except asyncio.CancelledError:
        return took_ms


@asynccontextmanager
async def _process(told: dict[str, Any]) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    words = [sys.executable, "-m", "bench.relay", json.dumps(told)]
    process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        while (said := await process.stdout.readline()) != b"READY\n":
            assert said, "an end of the tunnel did not start"
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ask(source: asyncio.subprocess.Process) -> dict[str, float]:
    assert source.stdin is not None
    assert source.stdout is not None
    source.stdin.write(b"go\n")
    while said := await source.stdout.readline():
        if said.startswith(b"{"):
            found: dict[str, float] = json.loads(said)
            return found
    raise RuntimeError("the source's end of the tunnel is gone")
