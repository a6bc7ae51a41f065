"""Moves a guest with the client library: `python examples/migrate.py web vmferry+tcp://host-a vmferry+tcp://host-b`."""

from __future__ import annotations

import asyncio
import sys

from vmferry import Flag, VmferryError, connect
from vmferry.attempt import Attempt
from vmferry.model import Progress


def show(progress: Progress) -> None:
    """One line of what is going on."""
    print(f"{progress.phase}: {progress.step}", file=sys.stderr)


async def main(domain: str, source_uri: str, destination_uri: str) -> None:
    """The guest lives at the destination, or the error says where it is and what to do."""
    async with connect(source_uri) as source, connect(destination_uri) as destination:
        done = await source.migrate(domain, destination, flags=Flag.LIVE, attempt=Attempt(listener=show))
    print(f"{domain} lives at {destination_uri} and stood still for {done.statistics.guest_pause_ms} ms")


try:
    asyncio.run(main(*sys.argv[1:]))
except VmferryError as error:
    sys.exit(f"{error}; the guest is at: {error.guest or 'the source, untouched'}; {error.remedy}")
