"""Disk images made and read with QEMU's own tools."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path


def run(*words: str) -> None:
    """The command has succeeded."""
    subprocess.run(words, check=True, capture_output=True)


def digest(image: Path, form: str) -> str:
    """The checksum of what a guest would read, whoever holds the image."""
    with tempfile.NamedTemporaryFile(dir=image.parent.parent) as raw:
        run("qemu-img", "convert", "-U", "-f", form, "-O", "raw", str(image), raw.name)
        return hashlib.sha256(Path(raw.name).read_bytes()).hexdigest()
