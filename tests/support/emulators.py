"""Which QEMU a test runs its guest on.

QEMU before 9.0 loses guest writes under TCG when the machine is busy (see the guest's README), for no fault of vmferry's. So
the tests whose subject is not an old QEMU run on a newer one: the system's if it is new enough, else the one in the
distribution's backports, unpacked beside the system. Where neither can be had, the system's has to do.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.packages import PackageUnavailable, release, run_apt, suite_configuration, unpacked
from support.tools import GUEST_CACHE

EMULATOR = "VMFERRY_TEST_EMULATOR"
"""The environment variable that names another QEMU to test against."""

_PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
_TRUTHFUL = (9, 0)


@functools.cache
def truthful_emulator() -> str | None:
    """A QEMU that loses nothing under TCG; None where there is none, or where the system's is one."""
    if named := os.environ.get(EMULATOR):
        return named
    system = shutil.which("qemu-system-x86_64")
    if system is None or _version(system) >= _TRUTHFUL:
        return None
    try:
        tree = _backported(GUEST_CACHE)
    except (PackageUnavailable, OSError):
        return None
    program = str(tree / "usr/bin/qemu-system-x86_64")
    return program if _version(program) >= _TRUTHFUL else None


def _version(program: str) -> tuple[int, int]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _backported(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    if known := sorted(cache.glob("qemu-backported-*")):
        return known[-1]
    with tempfile.TemporaryDirectory(dir=cache) as work:
        configuration = suite_configuration(Path(work), f"{release()}-backports")
        policy = run_apt(["apt-cache", "policy", _PACKAGES[0]], configuration=configuration)
        found = re.search(r"Candidate: (?:\d+:)?([\w.]+)", policy)
        return unpacked(_PACKAGES, cache / f"qemu-backported-{found[1] if found else 'unknown'}", configuration)


if __name__ == "__main__":
    sys.stdout.write(f"{truthful_emulator() or ''}\n")
