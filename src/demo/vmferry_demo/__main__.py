"""`vmferry-demo`: what the client of docker-compose.yml runs. Whatever it does not know is for `vmferry`."""

from __future__ import annotations

import asyncio
import os
import sys

from rich.console import Console

from vmferry_demo import containers

PROGRAM = "vmferry"


def main() -> None:
    """What the command line asks for has been done."""
    arguments = sys.argv[1:]
    console = Console(highlight=False)
    match arguments:
        case ["start"]:
            asyncio.run(containers.start(console))
        case ["demo"]:
            sys.exit(0 if asyncio.run(containers.demo(console)) else 1)
        case _:
            os.execvp(PROGRAM, [PROGRAM, *arguments])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
