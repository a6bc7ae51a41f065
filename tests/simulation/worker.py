"""One process of many that run simulations: `python -m simulation.worker [--minutes N] FIRST:STOP:STEP …`."""

from __future__ import annotations

import argparse
import itertools
import sys
import time

from simulation.running import Tally, run_all, told


def main() -> None:
    """Each share was run; the failures and the figures are on the standard output, one JSON document a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("shares", nargs="*")
    options = parser.parse_args()
    until_s = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    seeds = itertools.chain.from_iterable(range(*map(int, share.split(":"))) for share in options.shares)
    tally = Tally()
    for done in run_all(seeds, until_s=until_s):
        tally.count(done)
    for line in told(tally):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
