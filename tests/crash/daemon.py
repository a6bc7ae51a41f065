"""vmferryd with points: `python -m crash.daemon SOCKET CONFIG`. Everything else of it is the daemon's own program."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from crash.points import Teller
from crash.telling import telling
from vmferryd import __main__ as program
from vmferryd import allocator, peers, telemetry
from vmferryd.config import Config, load
from vmferryd.jobs.journal import Record


class Telling:
    """A witness that tells each change of a record's state, and when its effects are done."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._known: dict[tuple[str, str], str] = {}

    async def before(self, record: Record) -> None:
        if word := self._change(record):
            await self._teller.at(f"before {word}")

    async def after(self, record: Record) -> None:
        word = self._change(record)
        self._known[record.migration_id, record.side] = self._what(record)
        if word:
            await self._teller.at(f"after {word}")

    def _change(self, record: Record) -> str:
        what = self._what(record)
        return f"{record.side} writes {what}" if self._known.get((record.migration_id, record.side)) != what else ""

    @staticmethod
    def _what(record: Record) -> str:
        return f"{record.state} settled" if record.settled and record.state.final else str(record.state)


async def _serve(path: Path, config: Config) -> None:
    teller = await Teller.connected(path)
    peers.Connection = telling(teller, "source")  # type: ignore[misc] - a daemon calls phases and release as a source only
    await program.serve(config, Telling(teller))


def main() -> None:
    """Until SIGTERM."""
    path, config = Path(sys.argv[1]), load(Path(sys.argv[2]), {})
    telemetry.configure(config.log)
    allocator.keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(path, config))


if __name__ == "__main__":
    main()
