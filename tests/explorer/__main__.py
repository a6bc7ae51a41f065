"""`python -m explorer`: explores one setting, all of them, or the mutants, and prints what was found.

python -m explorer --protocol 3 --mode regular --copy pre --faults 3
python -m explorer --all --faults 2 --processes 2       the long mode
python -m explorer --mutants                            what breaks a rule, and how it was found out
python -m explorer --write                              docs/proof.md gets the figures of the usual run
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from explorer.explore import Explored, Search
from explorer.mutants import MUTANTS
from explorer.report import PAGE, figures, mutant_row, page_with
from explorer.settings import USUAL, all_settings
from explorer.world import Copying, Mode, Setting
from vmferry.protocol import ProtocolVersion


def explored(setting: Setting) -> Explored:
    """The exploration of one setting, for a process of its own."""
    return Search(setting).run()


def _several(settings: tuple[Setting, ...], processes: int) -> list[Explored]:
    found = []
    with ProcessPoolExecutor(processes) as pool:
        for each in pool.map(explored, settings):
            sys.stdout.write(figures(each) + "\n")
            sys.stdout.flush()
            found.append(each)
    return found


def _mutants() -> int:
    survived = 0
    for mutant in MUTANTS:
        found = Search(mutant.setting, mutant.rules).run()
        survived += found.finding is None
        sys.stdout.write(mutant_row(mutant, found) + "\n")
    return survived


def main() -> int:
    """0 when the promise holds everywhere, and no mutant survives."""
    parser = argparse.ArgumentParser(prog="explorer", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--protocol", type=int, choices=[1, 2, 3], default=3)
    parser.add_argument("--mode", choices=list(Mode), default=Mode.REGULAR)
    parser.add_argument("--copy", choices=list(Copying), default=Copying.PRE)
    parser.add_argument("--faults", type=int, default=2)
    parser.add_argument("--slips", action="store_true", help="a hypervisor may send the last part although nobody let it")
    parser.add_argument("--all", action="store_true", help="every setting")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mutants", action="store_true")
    parser.add_argument("--write", action="store_true", help="the usual settings; their figures go to docs/proof.md")
    given = parser.parse_args()
    if given.mutants:
        return _mutants()
    one = Setting(ProtocolVersion(given.protocol), Mode(given.mode), Copying(given.copy), given.faults, given.slips)
    several = tuple(replace(each, faults=given.faults) for each in all_settings()) if given.all else (one,)
    found = _several(USUAL if given.write else several, given.processes)
    if given.write:
        PAGE.write_text(page_with(found))
    return sum(each.finding is not None for each in found)


if __name__ == "__main__":
    sys.exit(main())
