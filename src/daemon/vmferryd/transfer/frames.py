"""The bytes of a tunnel's messages: `CarryRequest` and `CarryResponse` of transfer.proto, without protobuf's copies. Pure.

Guest memory comes in pieces of about 1 MiB. protobuf copies each of them several times on both sides, which costs more than
TLS does. Both messages have the same shape: one field, number 1 for opening, 2 for data, 3 for the last frame. So a data
frame is a fixed tag, a length, and the bytes themselves; everything else goes through protobuf as usual. The result is what
protobuf would have written, and any gRPC client can read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from vmferry.api.v1 import transfer_pb2
from vmferry.errors import StreamTruncated, TransferFailed

FRAME_BYTES = 1 << 20
"""The most data in one frame: large enough that a message's fixed cost vanishes, small enough to share a connection."""

_DATA_TAG = 0x12  # field 2, length-delimited

Request: TypeAlias = transfer_pb2.CarryRequest | memoryview | bytes
Response: TypeAlias = transfer_pb2.CarryResponse | memoryview | bytes
"""A frame: data as bytes, anything else as its message."""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(frame: Request | Response) -> bytes:
    """The wire form of a frame."""
    if isinstance(frame, (bytes, memoryview)):
        return b"".join((bytes((_DATA_TAG,)), _varint(len(frame)), frame))
    return frame.SerializeToString()


def _data(wire: bytes) -> memoryview | None:
    """The data of a pure data frame, not copied; None for any other message."""
    if not wire or wire[0] != _DATA_TAG:
        return None
    length, shift = 0, 0
    for position in range(1, min(len(wire), 11)):
        byte = wire[position]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            start = position + 1
            return memoryview(wire)[start:] if len(wire) - start == length else None
    return None


def _decoder(parse: Callable[[bytes], object]) -> Callable[[bytes], object]:
    def decode(wire: bytes) -> object:
        data = _data(wire)
        return parse(wire) if data is None else data

    return decode


decode_request = _decoder(transfer_pb2.CarryRequest.FromString)
"""A frame from the source: a memoryview for data, else a `CarryRequest`."""

decode_response = _decoder(transfer_pb2.CarryResponse.FromString)
"""A frame from the destination: a memoryview for data, else a `CarryResponse`."""


@dataclass(slots=True)
class Tally:
    """Counts one direction and judges its end. A direction that ends without a matching last frame is truncated."""

    total_bytes: int = 0
    ended: bool = False

    def count(self, data: memoryview | bytes) -> None:
        """`data` has passed.

        Raises:
            TransferFailed: data came after the last frame.
        """
        if self.ended:
            raise TransferFailed("data came after the last frame of a tunnel")
        self.total_bytes += len(data)

    def last(self, total_bytes: int) -> None:
        """The last frame has come.

        Raises:
            StreamTruncated: it counts other bytes than those that came.
        """
        if total_bytes != self.total_bytes:
            raise StreamTruncated(f"the tunnel carried {self.total_bytes} bytes of {total_bytes}")
        self.ended = True

    def closed(self) -> None:
        """The stream is over.

        Raises:
            StreamTruncated: its last frame never came.
        """
        if not self.ended:
            raise StreamTruncated(f"the tunnel broke after {self.total_bytes} bytes, without its last frame")
