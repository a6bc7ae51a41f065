"""One end of tunnels, as a process: a daemon with all its services, and memory in place of the hypervisors.

Started by `bench.tunnel` with one argument, JSON: `uri`, `state`, `certificates`, and at the source `peer`, `tunnels` and
`bytes`. It says READY; the source begins when it reads a line, and then says what it has measured, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop
from grpc import aio

from vmferry.api.v1 import transfer_pb2
from vmferry.channel import ChannelOptions, open_channel, parse_uri
from vmferry.model import new_migration_id
from vmferryd import allocator, app
from vmferryd.config import Config, load
from vmferryd.rpc.server import grpc_server
from vmferryd.rpc.transfer import SERVICE, ServerStream
from vmferryd.transfer import frames, tunnel
from vmferryd.transfer.outgoing import Opening, open_tunnel

OPEN_S = 30.0

DRAIN = """
import socket, sys
channel, room = socket.socket(fileno=int(sys.argv[1])), bytearray(1 << 20)
while channel.recv_into(room): pass
"""
FEED = """
import os, socket, sys
channel, left = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
memory = memoryview(os.urandom(32 << 20))
at = 0
print(flush=True)
sys.stdin.readline()
while left > 0:
    sent = channel.send(memory[at:at + min(1 << 20, left)])
    left, at = left - sent, (at + sent) % len(memory)
channel.shutdown(socket.SHUT_WR)
while channel.recv(1 << 16): pass
"""


def _hypervisor(program: str, descriptor: int, *words: str) -> subprocess.Popen[bytes]:
    """A process that has the other end of a channel."""
    command = [sys.executable, "-c", program, str(descriptor), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, pass_fds=[descriptor], stdin=pipe, stdout=pipe)


def _sink() -> grpc.GenericRpcHandler:
    """`Carry` into memory that nobody looks at. It is asked before the daemon's own."""

    async def carry(_: Any, context: aio.ServicerContext[Any, Any]) -> None:
        stream = ServerStream(context)
        await stream.read()
        await stream.write(transfer_pb2.CarryResponse(opened=transfer_pb2.ChannelOpened()))
        ours, theirs = tunnel.channel_pair()
        process = _hypervisor(DRAIN, theirs.fileno())
        theirs.close()
        await tunnel.pump(ours, stream, tunnel.last_response)
        await asyncio.to_thread(process.communicate)

    method = grpc.stream_stream_rpc_method_handler(
        carry, request_deserializer=frames.decode_request, response_serializer=frames.encode
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Carry": method})


def _server(interceptors: Sequence[aio.ServerInterceptor], options: Sequence[tuple[str, Any]]) -> aio.Server:
    server = grpc_server(interceptors, options)
    server.add_generic_rpc_handlers((_sink(),))
    return server


@asynccontextmanager
async def _ready(told: dict[str, Any]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A tunnel that is open, with memory at its end; what is yielded has carried its bytes when it returns."""
    channel = open_channel(parse_uri(told["peer"]), ChannelOptions())
    opened = await open_tunnel(channel, Opening(new_migration_id(), b"", b""), OPEN_S)
    process = _hypervisor(FEED, opened.hypervisor.fileno(), str(told["bytes"]))
    opened.hypervisor.close()
    assert process.stdin is not None
    assert process.stdout is not None
    await asyncio.to_thread(process.stdout.readline)
    start = process.stdin

    async def carry() -> None:
        start.write(b"go\n")
        start.flush()
        await opened.run()

    try:
        yield carry
    finally:
        process.communicate()
        await opened.close()


async def main(told: dict[str, Any]) -> None:
    """The daemon has served until its input ended."""
    async with app.running_over(app.Surroundings(server=_server), _config(told)):
        print("READY", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            async with AsyncExitStack() as stack:
                ready = [await stack.enter_async_context(_ready(told)) for _ in range(told.get("tunnels", 0))]
                begun_s, before = time.monotonic(), _cpu_s()
                await asyncio.gather(*(carry() for carry in ready))
                took_s, cpu_s = time.monotonic() - begun_s, _cpu_s() - before
            print(json.dumps({"took_s": took_s, "cpu_s": cpu_s}), flush=True)


def _config(told: dict[str, Any]) -> Config:
    settings = {
        "listen": told["uri"],
        "state_directory": Path(told["state"]),
        "run_directory": Path(told["state"]) / "run",
        "qemu": {"enabled": False},
    }
    return load(None, settings | ({"certificates": told["certificates"]} if told["certificates"] else {}))


def _cpu_s() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    allocator.keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(json.loads(sys.argv[1])))
