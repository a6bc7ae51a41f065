"""A disk that can be filled up: a small file system of its own. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DEVICE = "vmferry-test-"
_BLOCK_BYTES = 4096


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[None]:
    """A file system of `mib` MiB is mounted at the new folder `path`; afterwards it is not."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", f"{_DEVICE}{os.getpid()}", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    """Nothing on the disk at `path` can grow any more."""
    with contextlib.suppress(OSError), (path / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(_BLOCK_BYTES))


def free(path: Path) -> None:
    """The disk at `path` has the space again that `fill` took."""
    (path / "filler").unlink(missing_ok=True)


def unmount_orphans() -> None:
    """No disk of a test run that was killed is left."""
    for line in Path("/proc/mounts").read_text().splitlines():
        device, path = line.split()[:2]
        if device.startswith(_DEVICE) and not Path("/proc", device.removeprefix(_DEVICE)).exists():
            subprocess.run(["umount", "--lazy", path], check=True)
