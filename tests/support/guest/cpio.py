"""The newc cpio format, as much of it as an initramfs needs."""

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One file, directory or device node of an archive; owned by root, dated 1970."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Entry:
    """A directory everybody may enter."""
    return Entry(path, stat.S_IFDIR | 0o755)


def executable(path: str, content: bytes) -> Entry:
    """A program everybody may run."""
    return Entry(path, stat.S_IFREG | 0o755, content)


def regular_file(path: str, content: bytes) -> Entry:
    """A file everybody may read."""
    return Entry(path, stat.S_IFREG | 0o644, content)


def character_device(path: str, major: int, minor: int) -> Entry:
    """A device node for root alone."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The same entries always give the same bytes."""
    everything = [*entries, Entry(_TRAILER, 0)]
    return b"".join(_packed(entry, inode) for inode, entry in enumerate(everything, start=1))


def _packed(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    uid = gid = modified_s = check = 0
    links = 1
    host_device = (0, 0)
    size_bytes = len(entry.content)
    numbers = (inode, entry.mode, uid, gid, links, modified_s, size_bytes, *host_device, *entry.device)
    header = b"070701" + b"".join(b"%08X" % number for number in (*numbers, len(name), check))
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
