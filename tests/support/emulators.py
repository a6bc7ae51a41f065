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

from support.packages import PackageUnavailable, run_apt, unpacked
from support.tools import GUEST_CACHE

EMULATOR = "VMFERRY_TEST_EMULATOR"
"""The environment variable that names another QEMU to test against."""

_PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
_TRUTHFUL = (9, 0)
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


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
        configuration = _configuration(Path(work))
        run_apt(["apt-get", "update", "-qq"], configuration=configuration)
        policy = run_apt(["apt-cache", "policy", _PACKAGES[0]], configuration=configuration)
        found = re.search(r"Candidate: (?:\d+:)?([\w.]+)", policy)
        return unpacked(_PACKAGES, cache / f"qemu-backported-{found[1] if found else 'unknown'}", configuration)


def _configuration(folder: Path) -> Path:
    """An apt of its own, in `folder`: the system's mirror, and of it only the backports."""
    targets = run_apt(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"])
    release = _release()
    mirror = next((line.split()[0] for line in targets.splitlines() if line.endswith(f" {release}")), None)
    if mirror is None:
        raise PackageUnavailable(f"apt has no source of {release}")
    signed = f" [signed-by={_KEYRING}]" if _KEYRING.exists() else ""
    (folder / "sources.list").write_text(f"deb{signed} {mirror} {release}-backports main\n")
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    configuration = folder / "apt.conf"
    configuration.write_text(
        f'Dir::Etc::SourceList "{folder}/sources.list";\nDir::Etc::SourceParts "-";\n'
        f'Dir::State::Lists "{folder}/lists";\nDir::Cache "{folder}/cache";\nAPT::Sandbox::User "root";\n'
    )
    return configuration


def _release() -> str:
    described = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return described.get("VERSION_CODENAME", "").strip('"')


if __name__ == "__main__":
    sys.stdout.write(f"{truthful_emulator() or ''}\n")
