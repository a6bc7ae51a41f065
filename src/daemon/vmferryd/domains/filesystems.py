"""Which filesystem a path is on, and whether other hosts have it too.

The table knows filesystems by the type that the kernel shows in `/proc/self/mountinfo`. One that it does not know counts as
local: a guest whose file the destination does not have loses it, one whose filesystem is shared after all can be moved with
UNSAFE.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath

MOUNTS = Path("/proc/self/mountinfo")


class Reach(Enum):
    """Who else has a filesystem."""

    LOCAL = "local"
    """Nobody."""
    SHARED = "shared"
    """Several hosts, each with a cache of its own."""
    COHERENT = "coherent"
    """Several hosts, whose caches it keeps coherent."""


REACHES = {
    "nfs": Reach.SHARED,
    "nfs4": Reach.SHARED,
    "cifs": Reach.SHARED,
    "smb3": Reach.SHARED,
    "afs": Reach.SHARED,
    "9p": Reach.SHARED,
    "glusterfs": Reach.SHARED,
    "fuse.glusterfs": Reach.SHARED,
    "fuse.ceph": Reach.SHARED,
    "fuse.sshfs": Reach.SHARED,
    "fuse.quobyte": Reach.SHARED,
    "fuse.moosefs": Reach.SHARED,
    "fuse.lizardfs": Reach.SHARED,
    "fuse.juicefs": Reach.SHARED,
    "beegfs": Reach.SHARED,
    "orangefs": Reach.SHARED,
    "pvfs2": Reach.SHARED,
    "ceph": Reach.COHERENT,
    "gfs2": Reach.COHERENT,
    "ocfs2": Reach.COHERENT,
    "gpfs": Reach.COHERENT,
    "lustre": Reach.COHERENT,
    "acfs": Reach.COHERENT,
}
"""By the kernel's name of the type; every other one is local."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of this host."""

    point: PurePath
    type: str

    @property
    def reach(self) -> Reach:
        """Who else has the filesystem."""
        return REACHES.get(self.type, Reach.LOCAL)


def read_mounts(text: str) -> tuple[Mount, ...]:
    """Return the mounts that the text of a `mountinfo` file lists, in its order; lines that are none are skipped."""
    return tuple(mount for line in text.splitlines() if (mount := _mount(line)) is not None)


def _mount(line: str) -> Mount | None:
    before, dash, after = line.partition(" - ")
    fields, kinds = before.split(" "), after.split(" ")
    if not dash or len(fields) < 6:
        return None
    return Mount(PurePath(_unescaped(fields[4])), kinds[0])


def _unescaped(text: str) -> str:
    """The kernel writes blanks and backslashes of a path as octal numbers."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


def mount_of(path: PurePath, mounts: Iterable[Mount]) -> Mount | None:
    """Return the mount that an absolute path without symbolic links is on: the deepest, and of several the last."""
    found: Mount | None = None
    for mount in mounts:
        deeper = found is None or len(mount.point.parts) >= len(found.point.parts)
        if deeper and path.is_relative_to(mount.point):
            found = mount
    return found


def reaches_of(paths: Iterable[str]) -> dict[str, Reach]:
    """Return who else has each path's filesystem, as this host has it mounted now. Blocks while a path is looked up.

    Where the mounts cannot be read, every path counts as local.
    """
    try:
        mounts = read_mounts(MOUNTS.read_text())
    except OSError:
        mounts = ()
    return {path: _reach(path, mounts) for path in paths}


def _reach(path: str, mounts: tuple[Mount, ...]) -> Reach:
    mount = mount_of(PurePath(os.path.realpath(path)), mounts)
    return Reach.LOCAL if mount is None else mount.reach
