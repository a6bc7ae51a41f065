"""How a call to a daemon is asked and answered: its bound, and what an error of the transport means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from grpc import aio

from vmferry.bounds import DEFAULTS, Bounds
from vmferry.channel import Uri
from vmferry.errors import NotSupported, PeerUnreachable, VmferryError

T = TypeVar("T")


class Caller:
    """Whoever asks the daemon at `uri` over `channel`; `bounds` are those of every wait for it."""

    uri: Uri
    channel: aio.Channel
    bounds: Bounds = DEFAULTS

    async def ask(self, call: Awaitable[T], silence: type[VmferryError] = PeerUnreachable) -> T:
        """What `call`, a call over a channel to that daemon, answers.

        Raises:
            VmferryError: the daemon's own error, or `silence` when it is the transport that speaks.
        """
        return await self._ask(call, silence)

    async def _ask(self, call: Awaitable[T], silence: type[VmferryError] = PeerUnreachable) -> T:
        try:
            return await call
        except aio.AioRpcError as error:
            raise translated(error, silence, str(self.uri)) from None


def translated(error: aio.AioRpcError, silence: Callable[..., VmferryError], whose: str = "the daemon") -> VmferryError:
    """The error that the daemon raised; `silence` when it is the transport that speaks. `whose` names it, or its URI.

    A daemon's own error always carries details; a transport's never does. So nothing is decided by text.
    """
    from google.rpc import status_pb2
    from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY

    from vmferry.status import from_status

    for key, value in error.trailing_metadata() or ():
        if key == GRPC_DETAILS_METADATA_KEY and isinstance(value, bytes):
            known = from_status(status_pb2.Status.FromString(value))
            if known is not None:
                return known
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return NotSupported(f"{whose} does not know this call", remedy="use daemons of the same version")
    said = error.details() or error.code().name
    return silence(f"no answer from {whose}", remedy="check that vmferryd runs there", detail=said)
