"""Disk images made and read with QEMU's own tools, and a disk that goes from one folder to another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

_SIZE_BYTES = 48 << 20
DATA = os.urandom(6 << 20)
"""What is on it before a guest writes there."""


def run(*words: str) -> None:
    """The command has succeeded."""
    subprocess.run(words, check=True, capture_output=True)


def digest(image: Path, form: str) -> str:
    """The checksum of what a guest would read, whoever holds the image."""
    with tempfile.NamedTemporaryFile(dir=image.parent.parent) as raw:
        run("qemu-img", "convert", "-U", "-f", form, "-O", "raw", str(image), raw.name)
        return hashlib.sha256(Path(raw.name).read_bytes()).hexdigest()


class Images:
    """A folder for each host, and the traveller's disk."""

    def __init__(self, directory: Path, form: str) -> None:
        self.form = form
        self.here, self.there = directory / "here", directory / "there"
        for folder in (self.here, self.there):
            folder.mkdir()
        source = self.here / "disk"
        run("qemu-img", "create", "-q", "-f", form, str(source), str(_SIZE_BYTES))
        with tempfile.NamedTemporaryFile(dir=directory) as raw:
            raw.write(DATA)
            raw.flush()
            run("qemu-io", "-f", form, "-c", f"write -s {raw.name} 1M {len(DATA)}", str(source))

    def on_top(self) -> None:
        """What was the source's image lies beneath an image of each host that has nothing yet; both hosts have it."""
        beneath = self.here.parent / "beneath"
        (self.here / "disk").rename(beneath)
        for folder in (self.here, self.there):
            run("qemu-img", "create", "-q", "-f", "qcow2", "-F", self.form, "-b", str(beneath), str(folder / "disk"))

    def disk(self) -> str:
        """The disk at the source, as XML."""
        return (
            f"<disk type='file' device='disk'><driver name='qemu' type='{self.form}'/>"
            f"<source file='{self.here}/disk'/><target dev='vda' bus='virtio'/></disk>"
        )

    def at_destination(self, xml: str) -> str:
        """The definition with the destination's image."""
        assert str(self.here) in xml
        return xml.replace(str(self.here), str(self.there))

    def digest(self, folder: Path) -> str:
        """The checksum of what a guest would read."""
        return digest(folder / "disk", self.form)

    def names(self) -> list[str]:
        """What is in the destination's folder."""
        return sorted(path.name for path in self.there.iterdir())
