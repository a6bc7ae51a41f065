"""What the receiver of a simulated guest says back, without I/O: pages that it misses or wants first, and the reply.

::

    missing  magic, count, numbers      (once, on a new way after a cut)
    request  magic, number              (as often as it likes, in post-copy)
    reply    see `stream.encode_reply`  (once, at the end)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vmferryd.drivers.memory.stream import decode_reply

_REQUEST_MAGIC = b"VMFQ"
_MISSING_MAGIC = b"VMFM"
_MAGIC_BYTES = 4
_NUMBER = struct.Struct(">4sQ")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A page that is needed first."""

    number: int


@dataclass(frozen=True, slots=True)
class StillMissing:
    """All pages that have not arrived."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LastWord:
    """The reply; empty when all is well."""

    problem: str


def encode_request(number: int) -> bytes:
    """The page is needed first."""
    return _NUMBER.pack(_REQUEST_MAGIC, number)


def encode_missing(numbers: Iterable[int]) -> bytes:
    """These have not arrived."""
    listed = sorted(numbers)
    return _NUMBER.pack(_MISSING_MAGIC, len(listed)) + struct.pack(f">{len(listed)}Q", *listed)


class BackReader:
    """Reads what comes back."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, raw: bytes) -> Iterator[PageRequest | StillMissing | LastWord]:
        """Every word that is complete by now.

        Raises:
            TransferFailed: these are no such words.
        """
        self._buffer += raw
        while (word := self._word()) is not None:
            yield word

    def _word(self) -> PageRequest | StillMissing | LastWord | None:
        magic = self._buffer[:_MAGIC_BYTES]
        if magic not in (_REQUEST_MAGIC, _MISSING_MAGIC):
            problem = decode_reply(self._buffer)
            if problem is not None:
                self._buffer = b""
            return None if problem is None else LastWord(problem)
        if len(self._buffer) < _NUMBER.size:
            return None
        _, number = _NUMBER.unpack_from(self._buffer)
        size = _NUMBER.size if magic == _REQUEST_MAGIC else _NUMBER.size + 8 * number
        if len(self._buffer) < size:
            return None
        body, self._buffer = self._buffer[_NUMBER.size : size], self._buffer[size:]
        return PageRequest(number) if magic == _REQUEST_MAGIC else StillMissing(struct.unpack(f">{number}Q", body))
