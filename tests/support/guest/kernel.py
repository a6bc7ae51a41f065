"""Where the guest's Linux comes from: installed, kept from an earlier time, or downloaded as a package."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_CLOUD_KERNEL = "linux-image-cloud-amd64"
_MODULES = ("drivers/acpi/button.ko", "drivers/input/evdev.ko")
_REMEDY = f"install {_CLOUD_KERNEL}, or make `apt-get update && apt-get download {_CLOUD_KERNEL}` work"


class GuestUnavailable(Exception):
    """The guest cannot be built here; the text says why and what helps."""


@dataclass(frozen=True)
class Kernel:
    """A bootable kernel and those of its modules that the guest loads (none is needed to boot)."""

    image: Path
    modules: tuple[Path, ...]

    @property
    def release(self) -> str:
        """What `uname -r` says in the guest."""
        return self.image.name.removeprefix("vmlinuz-")


def find_kernel(cache_directory: Path) -> Kernel:
    """A kernel that can be read now; downloaded into the cache if there is none.

    Raises:
        GuestUnavailable: none is installed and none can be downloaded.
    """
    for root in (Path("/"), *sorted(cache_directory.glob("kernel-*"))):
        kernel = _kernel_below(root)
        if kernel is not None:
            return kernel
    return _downloaded(cache_directory)


def _kernel_below(root: Path) -> Kernel | None:
    images = sorted((root / "boot").glob("vmlinuz-*"), key=lambda image: ("cloud" not in image.name, image.name))
    for image in images:
        if image.is_file() and os.access(image, os.R_OK):
            release = image.name.removeprefix("vmlinuz-")
            modules = (root / "lib/modules" / release / "kernel" / module for module in _MODULES)
            return Kernel(image, tuple(module for module in modules if module.is_file()))
    return None


def _downloaded(cache_directory: Path) -> Kernel:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise GuestUnavailable(f"no kernel in /boot and no apt-get to download one: {_REMEDY}")
    with tempfile.TemporaryDirectory(dir=cache_directory) as work:
        _run_apt(["apt-get", "-o", "APT::Sandbox::User=root", "download", _kernel_package()], Path(work))
        package = next(Path(work).glob("*.deb"))
        tree = Path(work) / "tree"
        _run_apt(["dpkg", "-x", str(package), str(tree)], Path(work))
        _keep(tree, cache_directory / f"kernel-{package.stem}")
    kernel = _kernel_below(cache_directory / f"kernel-{package.stem}")
    if kernel is None:
        raise GuestUnavailable(f"{package.name} holds no kernel: {_REMEDY}")
    return kernel


def _kernel_package() -> str:
    """The package behind the one that only names the newest."""
    for line in _run_apt(["apt-cache", "depends", _CLOUD_KERNEL], None).splitlines():
        if "Depends:" in line:
            return line.split()[-1]
    raise GuestUnavailable(f"apt knows no {_CLOUD_KERNEL}: {_REMEDY}")


def _run_apt(command: list[str], directory: Path | None) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuestUnavailable(f"`{' '.join(command)}` said: {done.stderr.strip()[-300:]}; {_REMEDY}")
    return done.stdout


def _keep(tree: Path, place: Path) -> None:
    """The tree is in its place, whoever of several builders put it there first."""
    try:
        tree.rename(place)
    except OSError:
        if not place.is_dir():
            raise
