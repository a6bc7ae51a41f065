"""Where the guest's Linux comes from: installed, kept from an earlier time, or downloaded as a package."""

import os
from dataclasses import dataclass
from pathlib import Path

from support.packages import PackageUnavailable, run_apt, unpacked

_CLOUD_KERNEL = "linux-image-cloud-amd64"
_MODULES = (
    "drivers/acpi/button.ko",
    "drivers/input/evdev.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
)
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
    try:
        name = _kernel_package()
        kernel = _kernel_below(unpacked([name], cache_directory / f"kernel-{name}"))
    except PackageUnavailable as reason:
        raise GuestUnavailable(f"no kernel in /boot, and none can be downloaded: {reason}; {_REMEDY}") from None
    if kernel is None:
        raise GuestUnavailable(f"{name} holds no kernel: {_REMEDY}")
    return kernel


def _kernel_package() -> str:
    """The package behind the one that only names the newest."""
    for line in run_apt(["apt-cache", "depends", _CLOUD_KERNEL]).splitlines():
        if "Depends:" in line:
            return line.split()[-1]
    raise PackageUnavailable(f"apt knows no {_CLOUD_KERNEL}")
