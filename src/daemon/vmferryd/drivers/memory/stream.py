"""What two simulated hypervisors say to each other, without I/O.

::

    sender                                  receiver
    header   magic, version, page size, number of pages
    zeros    first, count                   (pages that are zero)
    page     number, content                (as often as needed)
    round    number                         (a whole pass has been sent)
    …
    cpu      length, JSON
    missing  count, numbers                 (only for post-copy: the guest could run; the pages follow)
    page     …
    end      CRC-32 of everything before
                                            reply: magic, well or not, length, words

Integers are big-endian. Whatever comes after `end` is nobody's; an end of the stream before it is truncation.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import ClassVar

from vmferry.errors import StreamTruncated, TransferFailed
from vmferryd.drivers.memory.pages import PAGE_BYTES, Layout

MAGIC = b"VMFT"
VERSION = 1
REPLY_MAGIC = b"VMFR"
_MAX_STATE_BYTES = 64 * 1024
_HEADER = struct.Struct(">4sHIQ")
_KIND = struct.Struct(">B")
_PAGE = struct.Struct(">BQ")
_ZEROS = struct.Struct(">BQQ")
_ROUND = struct.Struct(">BI")
_STATE = struct.Struct(">BI")
_MISSING = struct.Struct(">BQ")
_END = struct.Struct(">BI")
_REPLY = struct.Struct(">4sBH")


class Kind(IntEnum):
    """The first byte of a record."""

    PAGE = 1
    ZEROS = 2
    ROUND = 3
    STATE = 4
    END = 5
    MISSING = 6


@dataclass(frozen=True, slots=True)
class PageRecord:
    """One page."""

    number: int
    content: bytes


@dataclass(frozen=True, slots=True)
class ZerosRecord:
    """Pages that are zero."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A whole pass over the dirty pages has been sent."""

    number: int


@dataclass(frozen=True, slots=True)
class MachineState:
    """All of a guest that is not in its pages. The program travels with its guest: it is in the guest's memory."""

    life: str
    ran_ns: int
    writes: int
    layout: Layout
    dirty_rate_pages_per_s: int
    boot_time_ms: int

    def encode(self) -> bytes:
        """The JSON form."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, raw: bytes) -> MachineState:
        """The opposite of `encode`.

        Raises:
            TransferFailed: it is something else.
        """
        try:
            found = json.loads(raw)
            layout = Layout(**found.pop("layout"))
            return cls(layout=layout, **found)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TransferFailed("The stream's CPU state cannot be read", detail=str(error)) from error


@dataclass(frozen=True, slots=True)
class MissingRecord:
    """The guest could run, without these pages, which follow."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EndRecord:
    """Everything was sent, and arrived as it was sent."""


Record = PageRecord | ZerosRecord | RoundRecord | MachineState | MissingRecord | EndRecord


class Encoder:
    """Makes one stream; every call is to be sent in the order it was made."""

    def __init__(self) -> None:
        self._crc = 0

    def header(self, total_pages: int) -> bytes:
        """The beginning."""
        return self._counted(_HEADER.pack(MAGIC, VERSION, PAGE_BYTES, total_pages))

    def page(self, number: int, content: bytes) -> bytes:
        """One page."""
        return self._counted(_PAGE.pack(Kind.PAGE, number) + content)

    def zeros(self, first: int, count: int) -> bytes:
        """`count` pages that are zero."""
        return self._counted(_ZEROS.pack(Kind.ZEROS, first, count))

    def round(self, number: int) -> bytes:
        """The mark after a whole pass."""
        return self._counted(_ROUND.pack(Kind.ROUND, number))

    def state(self, state: MachineState) -> bytes:
        """The CPU's state."""
        raw = state.encode()
        return self._counted(_STATE.pack(Kind.STATE, len(raw)) + raw)

    def missing(self, numbers: Sequence[int]) -> bytes:
        """The pages that the guest is to run without."""
        return self._counted(_MISSING.pack(Kind.MISSING, len(numbers)) + struct.pack(f">{len(numbers)}Q", *numbers))

    def end(self) -> bytes:
        """The end."""
        return _END.pack(Kind.END, self._crc)

    def _counted(self, raw: bytes) -> bytes:
        self._crc = zlib.crc32(raw, self._crc)
        return raw


class Decoder:
    """Reads one stream. After `EndRecord`, `ended` is true and nothing more is read."""

    def __init__(self, total_pages: int) -> None:
        self.ended = False
        self._total_pages = total_pages
        self._begun = False
        self._crc = 0
        self._buffer = bytearray()
        self._at = 0

    def feed(self, raw: bytes) -> Iterator[Record]:
        """Every record that is complete by now.

        Raises:
            TransferFailed: this is not such a stream, or not for this guest.
        """
        self._buffer += raw
        if not self._begun and not self._header():
            return
        while not self.ended and (record := self._record()) is not None:
            yield record
        del self._buffer[: self._at]
        self._at = 0

    def finish(self) -> None:
        """The other side sends no more.

        Raises:
            StreamTruncated: the end is missing.
        """
        if not self.ended:
            raise StreamTruncated("The stream ended without its last record")

    def _header(self) -> bool:
        raw = self._take(_HEADER.size)
        if raw is None:
            return False
        magic, version, page_bytes, total_pages = _HEADER.unpack(raw)
        if (magic, version, page_bytes) != (MAGIC, VERSION, PAGE_BYTES):
            raise TransferFailed("This is not the stream of a simulated guest", detail=raw.hex())
        if total_pages != self._total_pages:
            raise TransferFailed(f"The sender has {total_pages} pages, and this guest {self._total_pages}")
        self._begun = True
        return True

    def _record(self) -> Record | None:
        if self._at == len(self._buffer):
            return None
        try:
            kind = Kind(self._buffer[self._at])
        except ValueError as error:
            raise TransferFailed("The stream has a record of an unknown kind") from error
        return self._readers[kind](self)

    def _page(self) -> Record | None:
        raw = self._take(_PAGE.size + PAGE_BYTES)
        if raw is None:
            return None
        _, number = _PAGE.unpack_from(raw)
        return PageRecord(self._within(number, 1), raw[_PAGE.size :])

    def _zeros(self) -> Record | None:
        raw = self._take(_ZEROS.size)
        if raw is None:
            return None
        _, first, count = _ZEROS.unpack(raw)
        return ZerosRecord(self._within(first, count), count)

    def _round(self) -> Record | None:
        raw = self._take(_ROUND.size)
        return None if raw is None else RoundRecord(_ROUND.unpack(raw)[1])

    def _state(self) -> Record | None:
        if len(self._buffer) - self._at < _STATE.size:
            return None
        _, length = _STATE.unpack_from(self._buffer, self._at)
        if length > _MAX_STATE_BYTES:
            raise TransferFailed(f"The stream's CPU state would have {length} bytes")
        raw = self._take(_STATE.size + length)
        return None if raw is None else MachineState.decode(raw[_STATE.size :])

    def _missing(self) -> Record | None:
        if len(self._buffer) - self._at < _MISSING.size:
            return None
        _, count = _MISSING.unpack_from(self._buffer, self._at)
        self._within(0, count)
        raw = self._take(_MISSING.size + 8 * count)
        return None if raw is None else MissingRecord(struct.unpack(f">{count}Q", raw[_MISSING.size :]))

    def _end(self) -> Record | None:
        crc = self._crc
        raw = self._take(_END.size)
        if raw is None:
            return None
        if _END.unpack(raw)[1] != crc:
            raise TransferFailed("The stream was changed on its way: its checksum is wrong")
        self.ended = True
        return EndRecord()

    _readers: ClassVar[dict[Kind, Callable[[Decoder], Record | None]]] = {
        Kind.PAGE: _page,
        Kind.ZEROS: _zeros,
        Kind.ROUND: _round,
        Kind.STATE: _state,
        Kind.MISSING: _missing,
        Kind.END: _end,
    }

    def _within(self, first: int, count: int) -> int:
        if first + count > self._total_pages:
            raise TransferFailed(f"The stream has a page {first + count - 1}, beyond the guest's memory")
        return first

    def _take(self, length: int) -> bytes | None:
        if len(self._buffer) - self._at < length:
            return None
        raw = bytes(self._buffer[self._at : self._at + length])
        self._at += length
        self._crc = zlib.crc32(raw, self._crc)
        return raw


def encode_reply(problem: str) -> bytes:
    """The receiver's only words: all is well when `problem` is empty."""
    words = problem.encode()[:1000]
    return _REPLY.pack(REPLY_MAGIC, not words, len(words)) + words


def decode_reply(raw: bytes) -> str | None:
    """The problem that a reply names, empty when all is well; None while the reply is not complete.

    Raises:
        TransferFailed: this is not a reply.
    """
    if len(raw) < _REPLY.size:
        return None
    magic, well, length = _REPLY.unpack_from(raw)
    if magic != REPLY_MAGIC:
        raise TransferFailed("The receiver answered with something else than a reply", detail=raw[:32].hex())
    words = raw[_REPLY.size : _REPLY.size + length]
    if len(words) < length:
        return None
    return "" if well else words.decode(errors="replace") or "unnamed"
