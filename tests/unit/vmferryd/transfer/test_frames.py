"""Frames are protobuf's own bytes, without protobuf; the tally finds every truncation."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmferry.api.v1 import transfer_pb2
from vmferry.errors import StreamTruncated, TransferFailed
from vmferryd.transfer import frames
from vmferryd.transfer.frames import Tally

SIDES = [
    (transfer_pb2.CarryRequest, frames.decode_request),
    (transfer_pb2.CarryResponse, frames.decode_response),
]


@given(st.binary(max_size=70_000))
@example(b"")
@example(b"x" * 127)
@example(b"x" * 128)
@example(b"x" * 16_384)
@example(b"x" * frames.FRAME_BYTES)
def test_data_is_what_protobuf_writes_and_reads(data: bytes) -> None:
    """A data frame is byte for byte what protobuf writes, and what protobuf writes is read as data."""
    for message, decode in SIDES:
        assert message(data=data).SerializeToString() == frames.encode(data) == frames.encode(memoryview(data))
        assert data == bytes(decode(message(data=data).SerializeToString()))


@given(st.integers(0, 2**64 - 1), st.text(max_size=5), st.binary(max_size=5))
def test_other_frames_go_through_protobuf(total: int, text: str, data: bytes) -> None:
    """Opening, opened and last frames come back as the messages that they were."""
    request = transfer_pb2.CarryRequest(open=transfer_pb2.OpenChannel(migration_id=text, ticket=data))
    opened = transfer_pb2.CarryResponse(opened=transfer_pb2.ChannelOpened())
    assert request == frames.decode_request(frames.encode(request))
    assert opened == frames.decode_response(frames.encode(opened))
    for message, decode in SIDES:
        last = message(last=transfer_pb2.LastFrame(total_bytes=total))
        assert last == decode(frames.encode(last))


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        frames.encode(b"ab") + frames.encode(b"cd"),
        b"\x12\x82\x00ab",
        b"\x12" + b"\x80" * 12,
        frames.encode(b"ab") + transfer_pb2.CarryRequest(last=transfer_pb2.LastFrame(total_bytes=1)).SerializeToString(),
    ],
)
def test_unusual_bytes_mean_what_protobuf_says(wire: bytes) -> None:
    """Whatever is not one plain data field is read, or refused, as protobuf does."""
    try:
        expected = transfer_pb2.CarryRequest.FromString(wire)
    except Exception as error:  # noqa: BLE001 - protobuf's own
        with pytest.raises(type(error)):
            frames.decode_request(wire)
        return
    decoded = frames.decode_request(wire)
    if isinstance(decoded, memoryview):
        assert expected.data == bytes(decoded)
    else:
        assert expected == decoded


def test_tally() -> None:
    """A direction with the right last frame has ended, and nothing may follow."""
    tally = Tally()
    tally.count(b"abc")
    tally.count(memoryview(b"de"))
    tally.last(5)
    tally.closed()
    assert 5 == tally.total_bytes
    with pytest.raises(TransferFailed, match="after the last frame"):
        tally.count(b"f")


def test_truncation() -> None:
    """A wrong total, and an end without a last frame, are truncation."""
    tally = Tally()
    tally.count(b"abc")
    with pytest.raises(StreamTruncated, match="3 bytes of 4"):
        tally.last(4)
    with pytest.raises(StreamTruncated, match="without its last frame"):
        tally.closed()
