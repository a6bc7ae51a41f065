"""One end of the socket that images travel through: whole records in, whole records out."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from vmferry.errors import StreamTruncated, TransferFailed
from vmferryd.transfer.image_stream import HEAD, MOST_WORDS_BYTES, PIECE_BYTES, Kind, Record, read_head


class ImageChannel:
    """Sends and receives records. `held` says that the other end keeps everything safe but the last part.

    Owns `channel`, from which nobody else may read.
    """

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._channel = channel
        self.held = False

    async def send(self, kind: Kind, number: int = 0, data: bytes = b"") -> None:
        """The record is in the socket.

        Raises:
            TransferFailed: the channel is broken.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._channel, Record(kind, number, len(data)).head() + data)
        except OSError as error:
            raise TransferFailed(f"the stream of images broke: {error}") from None

    async def acknowledged(self) -> None:
        """The other end has said OK.

        Raises:
            TransferFailed: it has refused, or said something else; its words are in `detail`.
        """
        record = await self.record()
        if record.kind is Kind.REFUSED:
            words = (await self.body(record)).decode("utf-8", "replace")
            raise TransferFailed("the destination could not take the images", detail=words)
        if record.kind is not Kind.OK:
            raise TransferFailed(f"the destination answered with {record.kind.name} instead of OK")

    async def refuse(self, why: str) -> None:
        """The other end will hear why, if it still listens."""
        await self.send(Kind.REFUSED, 0, why.encode()[:MOST_WORDS_BYTES])

    async def record(self) -> Record:
        """The next record's head; its body must be read next.

        Raises:
            StreamTruncated: the stream ended.
            TransferFailed: it is none.
        """
        return read_head(bytes(await self._exactly(HEAD.size)))

    async def body(self, record: Record) -> bytearray:
        """What follows the head.

        Raises:
            StreamTruncated: the stream ended.
        """
        return await self._exactly(record.length)

    async def _exactly(self, length: int) -> bytearray:
        loop, data, at = asyncio.get_running_loop(), bytearray(length), 0
        view = memoryview(data)
        while at < length:
            try:
                read = await loop.sock_recv_into(self._channel, view[at:])
            except OSError as error:
                raise StreamTruncated(f"the stream of images broke: {error}") from None
            if not read:
                raise StreamTruncated("the stream of images ended in the middle")
            at += read
        return data

    async def drained(self) -> None:
        """The other end has closed; whatever it still sent is gone. It is told that nothing more comes from here."""
        loop, waste = asyncio.get_running_loop(), bytearray(PIECE_BYTES)
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
            while await loop.sock_recv_into(self._channel, waste):
                pass

    def cut(self) -> None:
        """Nothing travels any more; whoever reads or writes here finds out, and may close it."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Nothing travels any more."""
        self._channel.close()
