"""Building the guest: one C program, one archive, one kernel; kept by the hash of what they are made of."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.guest import cpio
from support.guest.kernel import GuestUnavailable, Kernel, find_kernel

__all__ = ["GuestImage", "GuestSettings", "GuestUnavailable", "build_guest", "kernel_command_line"]

_SOURCE = Path(__file__).with_name("init.c")
_COMPILE = ("gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror")

# In the order of what each is for; README.md says what each gains.
_KERNEL_PARAMETERS = (
    # truth: every kernel entry flushes TCG's soft TLB
    "pti=on",
    "mitigations=off",
    # silence on the first serial port
    "console=ttyS1",
    "quiet",
    "loglevel=0",
    # the clock: the TSC is the one that costs the guest no exit, and it migrates
    "tsc=reliable",
    "no_timer_check",
    # speed: TCG runs `rep stosb` byte by byte; a kernel that sees fsrm without erms does not boot
    "clearcpuid=erms,fsrm,rep_good",
    "nokaslr",
    "edd=off",
    "cryptomgr.notests",
    "random.trust_cpu=on",
    # an end that is seen
    "panic=-1",
)


@dataclass(frozen=True)
class GuestImage:
    """What `-kernel` and `-initrd` want."""

    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class GuestSettings:
    """What the guest does with its memory and time.

    `memory_mib` of 0 fills all that is available but 48 MiB; a working set of 0 is all memory. With a `disk_mib` it writes to
    that much of its first disk for ever, from 16 MiB on.
    """

    memory_mib: int = 0
    dirty_mib_s: int = 50
    workset_mib: int = 64
    verify_percent: int = 30
    beat_ms: int = 10
    seed: int = 1
    disk_mib: int = 0
    disk_writes_s: int = 200


def kernel_command_line(settings: GuestSettings) -> str:
    """What `-append` wants for a guest that behaves as the settings say."""
    wishes = {
        "mib": settings.memory_mib,
        "dirty_mib_s": settings.dirty_mib_s,
        "workset_mib": settings.workset_mib,
        "verify_percent": settings.verify_percent,
        "beat_ms": settings.beat_ms,
        "seed": settings.seed,
        "disk_mib": settings.disk_mib,
        "disk_writes_s": settings.disk_writes_s,
    }
    return " ".join((*_KERNEL_PARAMETERS, *(f"ferry.{name}={value}" for name, value in wishes.items())))


def build_guest(cache_directory: Path) -> GuestImage:
    """A guest that boots; built once for each source text and kernel, also by several callers at a time.

    Raises:
        GuestUnavailable: there is no compiler, or no kernel to be had.
    """
    cache_directory.mkdir(parents=True, exist_ok=True)
    kernel = find_kernel(cache_directory)
    initrd = cache_directory / f"initrd-{_fingerprint(kernel)}.cpio"
    if not initrd.exists():
        _write_whole(initrd, _initramfs(kernel, _compiled(cache_directory)))
    return GuestImage(kernel.image, initrd)


def _fingerprint(kernel: Kernel) -> str:
    parts = (" ".join(_COMPILE), _SOURCE.read_text(), Path(cpio.__file__).read_text(), kernel.release)
    modules = (hashlib.sha256(module.read_bytes()).hexdigest() for module in kernel.modules)
    return hashlib.sha256("\0".join((*parts, *modules)).encode()).hexdigest()[:16]


def _compiled(cache_directory: Path) -> bytes:
    if not shutil.which("gcc"):
        raise GuestUnavailable("no gcc: install gcc and libc6-dev")
    with tempfile.TemporaryDirectory(dir=cache_directory) as work:
        program = Path(work) / "init"
        command = [*_COMPILE, "-o", str(program), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GuestUnavailable(f"gcc cannot build the guest (is libc6-dev installed?): {done.stderr[-500:]}")
        return program.read_bytes()


def _initramfs(kernel: Kernel, program: bytes) -> bytes:
    modules = (cpio.regular_file(module.name, module.read_bytes()) for module in kernel.modules)
    console = cpio.character_device("dev/console", 5, 1)
    return cpio.archive([cpio.directory("dev"), console, cpio.executable("init", program), *modules])


def _write_whole(path: Path, content: bytes) -> None:
    """The file is there with all of its content; nobody ever saw a part of it."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    Path(name).chmod(0o644)
    Path(name).replace(path)


_FOR_DAYS = GuestSettings(beat_ms=50)
"""For a guest that runs until somebody remembers it: 3 MiB of beats an hour."""


def main(place: Path) -> None:
    """`place` has a guest to boot: `kernel`, `initrd`, and the kernel's command line in `cmdline`.

    Raises:
        GuestUnavailable: see `build_guest`.
    """
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        image = build_guest(Path(cache))
        shutil.copy(image.kernel, place / "kernel")
        shutil.copy(image.initrd, place / "initrd")
    (place / "cmdline").write_text(f"{kernel_command_line(_FOR_DAYS)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
