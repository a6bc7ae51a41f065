"""What this machine has of the tools that some tests need, and where things that are built once are kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

GUEST_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vmferry-tests"
"""Where the test guest and its kernel are kept between runs."""

FORBID_SKIP = "VMFERRY_FORBID_SKIP"
"""The environment variable that turns every skip into a failure."""


def qemu_missing() -> str:
    """Why no QEMU guest can run here; empty when one can."""
    if shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 is not installed (Debian: apt-get install qemu-system-x86)"
    return ""


def skipping_forbidden() -> bool:
    """A test that cannot run must fail."""
    return os.environ.get(FORBID_SKIP) == "1"
