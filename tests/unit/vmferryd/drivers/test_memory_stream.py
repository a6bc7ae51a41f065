"""What simulated hypervisors say to each other."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import StreamTruncated, TransferFailed
from vmferryd.drivers.memory.pages import PAGE_BYTES, Layout
from vmferryd.drivers.memory.stream import (
    Decoder,
    Encoder,
    EndRecord,
    MachineState,
    PageRecord,
    Record,
    RoundRecord,
    ZerosRecord,
    decode_reply,
    encode_reply,
)

PAGES = 16
STATE = MachineState("life", 12, 3, Layout(1, PAGES, 8, 4), 100, 5)
CONTENT = bytes(range(256)) * (PAGE_BYTES // 256)
RECORDS: list[Record] = [ZerosRecord(8, 8), PageRecord(3, CONTENT), RoundRecord(1), STATE, EndRecord()]


def whole_stream() -> bytes:
    """One of each record."""
    encoder = Encoder()
    parts = [encoder.header(PAGES), encoder.zeros(8, 8), encoder.page(3, CONTENT), encoder.round(1)]
    return b"".join([*parts, encoder.state(STATE), encoder.end()])


def read_whole(raw: bytes) -> list[Record]:
    """What a stream says that ends here."""
    decoder = Decoder(PAGES)
    read = list(decoder.feed(raw))
    decoder.finish()
    return read


STREAM = whole_stream()


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_is_read_however_it_is_cut(cuts: list[int]) -> None:
    """The records come out as they went in."""
    edges = [0, *sorted(cuts), len(STREAM)]
    decoder = Decoder(PAGES)
    read = [record for start, end in pairwise(edges) for record in decoder.feed(STREAM[start:end])]
    assert read == RECORDS
    decoder.finish()


@given(length=st.integers(0, len(STREAM) - 1))
def test_a_shorter_stream_is_truncated(length: int) -> None:
    """Wherever it ends, the end is missing."""
    decoder = Decoder(PAGES)
    assert EndRecord() not in list(decoder.feed(STREAM[:length]))
    with pytest.raises(StreamTruncated):
        decoder.finish()


@given(at=st.integers(0, len(STREAM) - 1), flip=st.integers(1, 255))
def test_a_changed_byte_never_passes(at: int, flip: int) -> None:
    """Whichever byte was changed on the way, the stream is refused or has no end."""
    changed = bytearray(STREAM)
    changed[at] ^= flip
    with pytest.raises(TransferFailed):
        read_whole(bytes(changed))


def test_a_guest_of_another_size_is_refused() -> None:
    """The number of pages is part of the machine."""
    with pytest.raises(TransferFailed, match="16 pages"):
        list(Decoder(PAGES + 1).feed(STREAM))


def test_a_page_beyond_the_memory_is_refused() -> None:
    """No sender writes outside the guest."""
    encoder = Encoder()
    with pytest.raises(TransferFailed, match="beyond"):
        list(Decoder(PAGES).feed(encoder.header(PAGES) + encoder.page(PAGES, CONTENT)))


@pytest.mark.parametrize("problem", ["", "no memory"])
def test_a_reply_says_what_it_said(problem: str) -> None:
    """All is well, or the problem; nothing while it is not complete."""
    raw = encode_reply(problem)
    assert decode_reply(raw) == problem
    assert all(decode_reply(raw[:length]) is None for length in range(len(raw)))


def test_something_else_is_no_reply() -> None:
    """A peer of another kind does not pass for a receiver."""
    with pytest.raises(TransferFailed):
        decode_reply(b"HTTP/1.1 400 Bad Request")
