"""gRPC's faces over the simulated network: a server and a channel, as `vmferry` and `vmferryd` are handed them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, NamedTuple, Self

import grpc
from grpc import aio

from simulation.loop import Life, Process
from simulation.network import Answer, Call, Connection, Network
from vmferry.channel import ChannelOptions, Credentials, Uri

CONNECT_S = 20.0
BACK_OFF_S = (0.2, 2.0)


class Faces:
    """What is handed in where `vmferry.channel.open_channel` and `grpc.aio.server` are the default."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def dial(self, uri: Uri, _options: ChannelOptions | None = None, _credentials: Credentials | None = None) -> aio.Channel:
        """See `vmferry.channel.open_channel`."""
        return SimulatedChannel(self._network, self._network.loop.current(), f"{uri.host}:{uri.port}")

    def server(self, interceptors: Sequence[aio.ServerInterceptor], _options: Any) -> aio.Server:
        """See `vmferryd.rpc.server.MakeServer`."""
        return SimulatedServer(self._network, self._network.loop.current(), interceptors)


class SimulatedServer(aio.Server):
    """A gRPC server of one process."""

    def __init__(self, network: Network, process: Process, interceptors: Sequence[aio.ServerInterceptor]) -> None:
        self.network = network
        self.process = process
        self.stopping = False
        self.tasks: dict[asyncio.Task[None], None] = {}
        self._interceptors = interceptors
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._addresses: list[str] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """See `aio.Server`."""
        self._handlers += generic_rpc_handlers

    def add_registered_method_handlers(self, _service: str, _handlers: Any) -> None:
        """See `aio.Server`; the same handlers come as generic ones."""

    def add_insecure_port(self, address: str) -> int:
        """See `aio.Server`."""
        self._addresses.append(address)
        return 1

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """See `aio.Server`."""
        raise NotImplementedError

    async def start(self) -> None:
        """See `aio.Server`."""
        for address in self._addresses:
            self.network.listening[address] = self
        self.network.look_again()

    async def stop(self, grace: float | None) -> None:
        """See `aio.Server`."""
        self.stopping = True
        for address in self._addresses:
            self.network.listening.pop(address, None)
        if self.tasks and grace:
            await asyncio.wait(tuple(self.tasks), timeout=grace)
        left = tuple(self.tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        for connection in tuple(self.network.connections):
            if connection.server is self:
                connection.end_of(self.process)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - gRPC's word
        """See `aio.Server`."""
        raise NotImplementedError

    async def handle(self, call: Call) -> None:
        """The call's handler has run; its end is on its way to the client."""
        context = _Context(call)
        try:
            handler = await self._intercepted(0, _Details(call.method))
            if handler is None:
                call.finish(grpc.StatusCode.UNIMPLEMENTED, "no such method")
                return
            await self._run(handler, call, context)
        except aio.AbortError:
            call.finish(context.code, context.details, context.trailing)
        except Exception as error:  # noqa: BLE001 - as gRPC does
            call.finish(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")
        else:
            call.finish(grpc.StatusCode.OK)

    async def _run(self, handler: Any, call: Call, context: _Context) -> None:
        context.encode, context.decode = handler.response_serializer, handler.request_deserializer
        if handler.stream_stream:
            await handler.stream_stream(None, context)
            return
        request = handler.request_deserializer(await call.next_request())
        if handler.unary_unary:
            reply = handler.response_serializer(await handler.unary_unary(request, context))
            self.network.answers.append(Answer(self.process.host, call.method, call.request, reply))
            await call.reply(reply)
            return
        async for message in handler.unary_stream(request, context):
            await call.reply(handler.response_serializer(message))

    async def _intercepted(self, number: int, details: Any) -> Any:
        if number == len(self._interceptors):
            found = (handler.service(details) for handler in self._handlers)
            return next((handler for handler in found if handler is not None), None)

        def onward(other: Any) -> Awaitable[Any]:
            return self._intercepted(number + 1, other)

        return await self._interceptors[number].intercept_service(onward, details)


class _Details(NamedTuple):
    method: str
    invocation_metadata: tuple[Any, ...] = ()


class _Context:
    """What a handler sees of its call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.code = grpc.StatusCode.UNKNOWN
        self.details = ""
        self.trailing: Sequence[tuple[str, Any]] = ()
        self.encode: Callable[[Any], bytes] = bytes
        self.decode: Callable[[bytes], Any] = bytes

    async def read(self) -> Any:
        message = await self._call.next_request()
        return aio.EOF if message is None else self.decode(message)

    async def write(self, message: Any) -> None:
        await self._call.reply(self.encode(message))

    async def send_initial_metadata(self, _: Any) -> None:
        await asyncio.sleep(0)

    async def abort_with_status(self, status: Any) -> None:
        self.code, self.details, self.trailing = status.code, status.details, status.trailing_metadata
        raise aio.AbortError("aborted")


class SimulatedChannel(aio.Channel):
    """A gRPC channel of one process."""

    def __init__(self, network: Network, process: Process, address: str) -> None:
        self.network = network
        self.process = process
        self._address = address
        self._connection: Connection | None = None
        self._dialling: asyncio.Future[Connection] | None = None
        self._backing_off_until_s = 0.0
        self._closed = False
        self._calls: dict[Call, None] = {}

    # -- aio.Channel ------------------------------------------------------------------------------------------------

    def unary_unary(self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any) -> Any:
        """See `aio.Channel`."""

        def call(request: Any, *, timeout: float | None = None, **_: Any) -> _Awaited:
            return _Awaited(self._unary(method, request_serializer(request), response_deserializer, timeout))

        return call

    def unary_stream(self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any) -> Any:
        """See `aio.Channel`."""

        def call(request: Any, **_: Any) -> _Stream:
            return _Stream(self, method, response_deserializer, request_serializer(request))

        return call

    def stream_stream(self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any) -> Any:
        """See `aio.Channel`."""

        def call(**_: Any) -> _Duplex:
            return _Duplex(self, method, request_serializer, response_deserializer)

        return call

    def stream_unary(self, *_: Any, **__: Any) -> Any:
        """See `aio.Channel`."""
        raise NotImplementedError

    async def close(self, grace: float | None = None) -> None:
        """See `aio.Channel`."""
        self._closed = True
        if self._dialling is not None:
            self._dialling.cancel()
        if self._connection is not None:
            self._connection.break_client()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> Any:
        """See `aio.Channel`."""
        raise NotImplementedError

    async def wait_for_state_change(self, last_observed_state: Any) -> None:
        """See `aio.Channel`."""
        raise NotImplementedError

    async def channel_ready(self) -> None:
        """See `aio.Channel`."""
        await self._connected()

    # -- connecting -------------------------------------------------------------------------------------------------

    async def begin(self, method: str, request: bytes | None, *, lasts: bool) -> Call:
        """A call that is on its way."""
        if self._closed:
            raise asyncio.InvalidStateError("the channel is closed")
        network = self.network
        network.calls += 1
        mishap = network.called(network.calls, method)
        call = Call(await self._connected(), method, mishap, lasts=lasts)
        call.open(request)
        return call

    async def _connected(self) -> Connection:
        if self._connection is not None and self._connection.client_open:
            return self._connection
        if self._dialling is None:
            self._dialling = asyncio.ensure_future(self._dialled())
            self._dialling.add_done_callback(_heard)  # also by nobody: whoever waited may be gone
        return await asyncio.shield(self._dialling)

    async def _dialled(self) -> Connection:
        try:
            connection = self._connection = await self._dial()
        finally:
            self._dialling = None
        return connection

    async def _dial(self) -> Connection:
        network = self.network
        if network.loop.time() < self._backing_off_until_s:
            raise _unavailable("backing off")
        try:
            async with asyncio.timeout(CONNECT_S):
                return await self._reach()
        except TimeoutError:
            reason = "no answer while connecting"
        except ConnectionRefusedError as refused:
            reason = str(refused)
        self._backing_off_until_s = network.loop.time() + network.rng.uniform(*BACK_OFF_S)
        raise _unavailable(reason)

    async def _reach(self) -> Connection:
        network, here = self.network, self.process.host
        there = self._address.partition(":")[0]
        while True:
            await asyncio.sleep(network.delay_s())
            if not (network.passes(here, there) and network.passes(there, here)):
                await network.better()
                continue
            server = network.listening.get(self._address)
            if server is None:
                raise ConnectionRefusedError(f"nobody listens at {self._address}")
            if server.process.life is Life.RUNNING:
                return Connection(network, self.process, server)
            await network.better()

    async def _unary(self, method: str, request: bytes, decode: Callable[[bytes], Any], timeout_s: float | None) -> Any:
        call: Call | None = None
        try:
            async with asyncio.timeout(timeout_s):
                call = await self.begin(method, request, lasts=False)
                reply = await call.read()
                if reply is None or await call.read() is not None:
                    raise AssertionError(f"{method} must have one reply")
                return decode(reply)
        except TimeoutError:
            raise aio.AioRpcError(
                grpc.StatusCode.DEADLINE_EXCEEDED, aio.Metadata(), aio.Metadata(), details="the deadline passed"
            ) from None
        finally:
            if call is not None:
                call.cancel()


def _heard(ended: asyncio.Future[Any]) -> None:
    if not ended.cancelled():
        ended.exception()


def _unavailable(details: str) -> aio.AioRpcError:
    return aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), details=details)


class _Awaited:
    """A call with one answer."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, None, Any]:
        return self._work.__await__()


class _Stream:
    """A call that is answered by a stream."""

    def __init__(self, channel: SimulatedChannel, method: str, decode: Callable[[bytes], Any], request: bytes) -> None:
        self._channel = channel
        self._method = method
        self._decode = decode
        self._request = request
        self._call: Call | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            self._call = await self._channel.begin(self._method, self._request, lasts=True)
            while (message := await self._call.read()) is not None:
                yield self._decode(message)
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Nothing more is wanted."""
        if self._call is not None:
            self._call.cancel()


class _Duplex:
    """A call with a stream in both directions."""

    def __init__(
        self, channel: SimulatedChannel, method: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]
    ) -> None:
        self._channel = channel
        self._method = method
        self._encode = encode
        self._decode = decode
        self._call: Call | None = None
        self._cancelled = False

    async def _begun(self) -> Call:
        if self._cancelled:
            raise asyncio.CancelledError
        if self._call is None:
            self._call = await self._channel.begin(self._method, None, lasts=True)
        return self._call

    async def write(self, message: Any) -> None:
        """The message is accepted."""
        await (await self._begun()).write(self._encode(message))

    async def read(self) -> Any:
        """The next message, or `aio.EOF`."""
        message = await (await self._begun()).read()
        return aio.EOF if message is None else self._decode(message)

    async def details(self) -> str:
        """What the end said."""
        return self._call.details if self._call is not None else ""

    def cancel(self) -> None:
        """Nothing more is wanted."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()
