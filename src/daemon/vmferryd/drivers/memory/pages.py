"""The memory of a simulated guest: real bytes whose right content can be worked out at any time.

The guest's program writes to the pages of its working set one after the other, for ever. So the number of writes since
power-on says which version every page must have, and version, page number and seed say every byte. A page that a
migration lost, doubled or mixed up is found by `GuestMemory.damage`.

Only pages that were written or received take room on the host; the rest of a resident page's content is worked out when
it is read, and pages beyond the resident ones are zero.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PAGE_BYTES = 4096
ZERO_PAGE = bytes(PAGE_BYTES)
_DIGEST_BYTES = 64


def page_content(seed: int, number: int, version: int) -> bytes:
    """The only right content of a resident page that was written `version` times."""
    mark = struct.pack("<QQQ", seed, number, version)
    return hashlib.blake2b(mark, digest_size=_DIGEST_BYTES).digest() * (PAGE_BYTES // _DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the memory is divided: the working set lies within the resident pages, those within all pages."""

    seed: int
    total_pages: int
    resident_pages: int
    working_set_pages: int

    def version(self, number: int, writes: int) -> int:
        """How often the page has been written after that many writes."""
        if number >= self.working_set_pages:
            return 0
        return max(0, (writes - number + self.working_set_pages - 1) // self.working_set_pages)

    def content(self, number: int, writes: int) -> bytes:
        """What the page must hold after that many writes."""
        if number >= self.resident_pages:
            return ZERO_PAGE
        return page_content(self.seed, number, self.version(number, writes))


class GuestMemory:
    """The pages, and which of them were written since somebody last asked."""

    def __init__(self, layout: Layout, *, powered_on: bool) -> None:
        self.layout = layout
        self.writes = 0
        self.dirty: set[int] = set()
        self.missing: set[int] = set()
        self._powered_on = powered_on
        self._stored: dict[int, bytes] = {}

    def read(self, number: int) -> bytes:
        """The page's bytes now."""
        stored = self._stored.get(number)
        if stored is not None:
            return stored
        return self.layout.content(number, 0) if self._powered_on else ZERO_PAGE

    def write_until(self, writes: int) -> None:
        """The guest's program has made that many writes in all; the pages of the new ones are dirty."""
        for number in self._written_between(self.writes, writes):
            self._stored[number] = self.layout.content(number, writes)
            self.dirty.add(number)
            self.missing.discard(number)  # the program writes whole pages
        self.writes = max(self.writes, writes)

    def load(self, number: int, content: bytes) -> None:
        """The page holds `content`, whatever that is; it counts as clean."""
        self._stored[number] = content

    def fetch(self, number: int, content: bytes) -> None:
        """The page was missing, and holds `content`; one that was not keeps what it has."""
        if number in self.missing:
            self.missing.discard(number)
            self._stored[number] = content

    def adopt(self, layout: Layout, writes: int, missing: Iterable[int] = ()) -> None:
        """The pages are those of a program with this layout, which has made that many writes; `missing` are still to come."""
        self.layout = layout
        self.writes = writes
        self.dirty.clear()
        self.missing = set(missing)

    def wanted(self) -> int | None:
        """The page that the program writes next, if it is missing."""
        count = self.layout.working_set_pages
        following = self.writes % count if count else -1
        return following if following in self.missing else None

    def take_dirty(self) -> Sequence[int]:
        """The dirty pages, in order; they count as clean from now on."""
        taken = sorted(self.dirty)
        self.dirty.clear()
        return taken

    def damage(self) -> tuple[int, ...]:
        """The pages that do not hold what the program's writes left in them; missing ones are not damaged."""
        stored_beyond = (number for number in self._stored if number >= self.layout.resident_pages)
        suspects = (number for number in [*range(self.layout.resident_pages), *stored_beyond] if number not in self.missing)
        return tuple(number for number in suspects if self.read(number) != self.layout.content(number, self.writes))

    def digest(self) -> str:
        """A fingerprint of every page that is not zero by definition."""
        total = hashlib.blake2b(digest_size=16)
        for number in range(self.layout.resident_pages):
            total.update(self.read(number))
        return total.hexdigest()

    def _written_between(self, before: int, after: int) -> Iterable[int]:
        count = self.layout.working_set_pages
        if count == 0:
            return ()
        if after - before >= count:
            return range(count)
        return (write % count for write in range(before, after))
