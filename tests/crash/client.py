"""A client with points: `python -m crash.client ORDER.json`. Prints, as one line of JSON, how the migration ended for it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from crash.points import Teller
from crash.telling import telling
from vmferry.attempt import Attempt
from vmferry.channel import ChannelOptions, open_channel, parse_uri
from vmferry.client import Connection
from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferry.migrate import Migrated, Patience
from vmferry.params import MigrationParams


async def run(order: dict[str, Any]) -> dict[str, str]:
    """What the client knows in the end: `place` as it was told, and `words`."""
    options = ChannelOptions(order["keepalive_s"], order["keepalive_s"])
    kind = telling(await Teller.connected(Path(order["points"])), "client")
    async with (
        open_channel(parse_uri(order["source"]), options) as here,
        open_channel(parse_uri(order["destination"]), options) as there,
    ):
        try:
            await _migrate(kind(parse_uri(order["source"]), here), kind(parse_uri(order["destination"]), there), order)
        except VmferryError as error:
            return {"place": str(error.guest or ""), "words": f"{error.reason}: {error} {error.detail}"}
    return {"place": "destination", "words": "done"}


async def _migrate(source: Connection, destination: Connection, order: dict[str, Any]) -> Migrated:
    params = MigrationParams(destination_xml=order["xml"], bandwidth_mib_per_s=order["bandwidth_mib_per_s"])
    flags, attempt = Flag(order["flags"]), Attempt(patience=Patience(order["patience_s"]))
    if Flag.PEER2PEER in flags:
        return await source.migrate_to_uri(order["domain"], order["peer"], flags=flags, params=params, attempt=attempt)
    return await source.migrate(order["domain"], destination, flags=flags, params=params, attempt=attempt)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))))  # noqa: T201 - its result
