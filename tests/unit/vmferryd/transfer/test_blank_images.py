"""Images that are made before a guest's disk is copied into them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from vmferryd.domains.devices import DiskFormat
from vmferryd.transfer import images
from vmferryd.transfer.images import Blank, capacity_of, create_blank

MARK = "11111111-2222-3333-4444-555555555555"
SIZES = [512, 1 << 20, (512 << 20) + 512, 5 << 42]
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


@pytest.mark.parametrize("form", [DiskFormat.RAW, DiskFormat.QCOW2])
@pytest.mark.parametrize("size_bytes", SIZES[:3])
def test_a_blank_has_its_size_and_goes_with_its_mark(tmp_path: Path, form: DiskFormat, size_bytes: int) -> None:
    """It is there under its own name, holds a disk of the size that was asked for, and is removed by who made it alone."""
    path = tmp_path / "disk"
    create_blank([Blank(str(path), form, size_bytes)], MARK)
    assert size_bytes == capacity_of(str(path), form)
    images.remove([str(path)], MARK.replace("1", "6"))
    assert path.exists()
    images.remove([str(path)], MARK)
    assert [] == list(tmp_path.iterdir())


@needs_qemu_img
@pytest.mark.parametrize("size_bytes", SIZES)
def test_qemu_finds_nothing_wrong_with_an_empty_qcow2_image(tmp_path: Path, size_bytes: int) -> None:
    """Its checker has no finding, and it sees the size."""
    path = tmp_path / "disk"
    create_blank([Blank(str(path), DiskFormat.QCOW2, size_bytes)], MARK)
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
    said = subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True)
    facts = json.loads(said.stdout)
    assert ("qcow2", size_bytes) == (facts["format"], facts["virtual-size"])
    assert "1.1" == facts["format-specific"]["data"]["compat"]


def test_another_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    """Who comes too late finds out, and cleans up only what is his."""
    path = tmp_path / "disk"
    path.write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        create_blank([Blank(str(path), DiskFormat.RAW, 512)], MARK)
    images.remove([str(path)], MARK)
    assert b"another's" == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())
