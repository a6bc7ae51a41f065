"""What this machine has of the tools that some tests need, and where things that are built once are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

GUEST_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vmferry-tests"
"""Where the test guest and its kernel are kept between runs."""

FORBID_SKIP = "VMFERRY_FORBID_SKIP"
"""The environment variable that turns every skip into a failure."""


def qemu_missing() -> str:
    """Why no QEMU guest can run here; empty when one can."""
    return missing_tools({"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils"})


def missing_tools(packages: Mapping[str, str]) -> str:
    """Which of the tools, each with its Debian package, is not installed; empty when all are."""
    for tool, package in packages.items():
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian: apt-get install {package})"
    return ""


def skipping_forbidden() -> bool:
    """A test that cannot run must fail."""
    return os.environ.get(FORBID_SKIP) == "1"
