"""A look at SQLite's write-ahead log, for what SQLite itself passes over in silence. Pure.

SQLite takes a log up to the first frame that is not whole, as it must: a crash in the middle of a write leaves such a frame.
But a log whose *middle* is damaged is cut off there too, and everything that was committed after it is forgotten without a
word. A journal that forgets what it has promised is worse than none. So the frames behind the first bad one are counted: a
crash leaves at most one transaction there, since the next one begins only when the one before is on the disk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Frame:
    commits: bool
    ours: bool
    whole: bool


def lost_commits(log: bytes) -> int:
    """How many transactions of the current log lie behind its first bad frame; more than one cannot come from a crash."""
    lost, broken = 0, False
    for frame in _frames(log):
        broken = broken or not (frame.ours and frame.whole)
        if broken and frame.ours and frame.commits:
            lost += 1
    return lost


def _frames(log: bytes) -> Iterator[_Frame]:
    if len(log) < _HEADER.size:
        return
    magic, _, page_bytes, _, *salt, first, second = _HEADER.unpack_from(log)
    if magic & ~1 != _MAGIC or not page_bytes:
        return
    words = struct.Struct(">2I" if magic & 1 else "<2I")
    total = (first, second)
    frame_bytes = _FRAME.size + page_bytes
    for start in range(_HEADER.size, len(log) - frame_bytes + 1, frame_bytes):
        _, size_pages, salt_1, salt_2, *stored = _FRAME.unpack_from(log, start)
        total = _checksum(words, log[start : start + 8], total)
        total = _checksum(words, log[start + _FRAME.size : start + frame_bytes], total)
        yield _Frame(bool(size_pages), [salt_1, salt_2] == salt, total == tuple(stored))


def _checksum(words: struct.Struct, data: bytes, seed: tuple[int, int]) -> tuple[int, int]:
    first, second = seed
    for left, right in words.iter_unpack(data):
        first = (first + left + second) & _MASK
        second = (second + right + first) & _MASK
    return first, second
