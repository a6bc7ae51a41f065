"""A path's filesystem is found by its mount, and whether other hosts have it by its type."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from vmferryd.domains import filesystems
from vmferryd.domains.filesystems import REACHES, Mount, Reach, mount_of, reaches_of, read_mounts

TEXT = """\
22 28 0:21 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:50 / /srv/images rw - nfs4 server:/images rw,vers=4.2
31 30 0:51 / /srv/images/local rw master:1 propagate_from:2 - xfs /dev/vdb rw
32 22 0:52 /a /with\\040blank rw - ceph 10.0.0.1:/ rw
33 22 0:53 / /twice rw - autofs systemd-1 rw
34 22 0:54 / /twice rw - gfs2 /dev/san rw
not a mount
"""


def test_mounts_are_read() -> None:
    """Optional fields and octal blanks are understood, and what is no mount is skipped."""
    mounts = read_mounts(TEXT)
    assert 6 == len(mounts)
    assert Mount(PurePath("/with blank"), "ceph") in mounts


@pytest.mark.parametrize(
    ("path", "kind", "reach"),
    [
        ("/var/lib/a.img", "ext4", Reach.LOCAL),
        ("/srv/images/a.img", "nfs4", Reach.SHARED),
        ("/srv/images2/a.img", "ext4", Reach.LOCAL),
        ("/srv/images/local/a.img", "xfs", Reach.LOCAL),
        ("/with blank/a.img", "ceph", Reach.COHERENT),
        ("/twice/a.img", "gfs2", Reach.COHERENT),
    ],
)
def test_deepest_mount_counts(path: str, kind: str, reach: Reach) -> None:
    """The deepest mount that the path is beneath counts, and of two in one place the later one."""
    mount = mount_of(PurePath(path), read_mounts(TEXT))
    assert mount is not None
    assert (kind, reach) == (mount.type, mount.reach)


def test_links_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link on a local filesystem to a shared one is shared."""
    for name in ("local", "shared"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared" / "a.img").touch()
    (tmp_path / "local" / "link.img").symlink_to(tmp_path / "shared" / "a.img")
    table = tmp_path / "mountinfo"
    real = tmp_path.resolve()
    table.write_text(f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {real}/shared rw - nfs x rw\n")
    monkeypatch.setattr(filesystems, "MOUNTS", table)
    paths = [str(tmp_path / "local" / "link.img"), str(tmp_path / "local" / "none.img")]
    assert dict(zip(paths, (Reach.SHARED, Reach.LOCAL), strict=True)) == reaches_of(paths)


def test_unreadable_mounts_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be looked up counts as local."""
    monkeypatch.setattr(filesystems, "MOUNTS", Path("/nonexistent"))
    assert {"/a": Reach.LOCAL} == reaches_of(["/a"])


def test_this_host() -> None:
    """The kernel's own table is understood."""
    assert read_mounts(filesystems.MOUNTS.read_text())
    assert Reach.LOCAL not in REACHES.values()
