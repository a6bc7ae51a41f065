"""The bytes in which images travel from one daemon to the other, inside the data channel. Pure.

::

    source        IMAGE DATA... END   IMAGE DATA... END   HELD                LAST
    destination                                                OK | REFUSED         OK

Only what an image holds is sent: what lies between two pieces of data is a hole. END has a digest over the image's pieces and
their places. HELD asks whether everything is safe on the destination's disks; LAST is the last part, without which nothing
that arrived may be used (handover rule 2).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from vmferry.errors import TransferFailed

PIECE_BYTES = 1 << 20
"""The most data in one piece."""

HEAD = struct.Struct(">BQI")
"""A record's kind and its two numbers: place or size, and the length of what follows."""

MOST_WORDS_BYTES = 1 << 16
"""The longest reason that a refusal can have."""


class Kind(IntEnum):
    """What a record is."""

    IMAGE = 1
    DATA = 2
    END = 3
    HELD = 4
    LAST = 5
    OK = 6
    REFUSED = 7


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `number` is the place of data or the size of an image, `length` what follows the head."""

    kind: Kind
    number: int = 0
    length: int = 0

    LONGEST: ClassVar[dict[Kind, int]] = {Kind.DATA: PIECE_BYTES, Kind.END: 32, Kind.REFUSED: MOST_WORDS_BYTES}

    def head(self) -> bytes:
        """The head's bytes."""
        return HEAD.pack(self.kind, self.number, self.length)


def read_head(head: bytes) -> Record:
    """The record that begins so.

    Raises:
        TransferFailed: it is none.
    """
    kind, number, length = HEAD.unpack(head)
    if kind not in set(Kind) or length > Record.LONGEST.get(Kind(kind), 0):
        raise TransferFailed(f"the stream of images has a record of kind {kind} with {length} bytes, which is none")
    return Record(Kind(kind), number, length)


class Digest:
    """A digest over the pieces of one image, at either end."""

    def __init__(self) -> None:
        self._state = hashlib.blake2b(digest_size=32)

    def add(self, place: int, data: bytes | bytearray | memoryview) -> None:
        """A piece has passed."""
        self._state.update(HEAD.pack(Kind.DATA, place, len(data)))
        self._state.update(data)

    def value(self) -> bytes:
        """What both ends must have in the end."""
        return self._state.digest()
