"""The network between simulated processes, under gRPC's own faces.

Real stubs, real services, real interceptors and real messages on both sides; only HTTP/2 and the kernel are not there. A
message is bytes, is on its way for a while, and may not arrive. What is modelled of gRPC and TCP:

* a connection belongs to two processes; when one dies the other hears of it at once, or after the keepalive if it cannot;
* what is sent into a cut waits there (TCP sends it again) until the cut is healed or the connection given up;
* a caller whose connection breaks gets UNAVAILABLE without details, and the call's task at the server is cancelled; a stream
  of its client then looks as if it had ended cleanly;
* a channel that could not connect fails at once for a while; a call is bounded by its own deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import Enum
from random import Random
from typing import Any, NamedTuple, Protocol

import grpc
from grpc import aio

from simulation.loop import Life, Process, VirtualLoop

SLOWEST_S = 0.05
KEEPALIVE_S = (5.0, 10.0)
"""A silent connection is given up after this long: the interval, and interval and timeout together."""
FRAMES = 4
"""So many messages of a stream are on their way at most."""

Deliver = Callable[[], None]


class Mishap(Enum):
    """What happens to one call."""

    LOSE_REQUEST = "lose-request"
    LOSE_REPLY = "lose-reply"
    DUPLICATE = "duplicate"
    DELAY_REQUEST = "delay-request"
    DELAY_REPLY = "delay-reply"


class Answer(NamedTuple):
    """A unary call that was answered: for the rule that a repeated phase gets the same answer."""

    host: str
    method: str
    request: bytes
    reply: bytes


class Server(Protocol):
    """Who answers calls at an address."""

    process: Process
    stopping: bool
    tasks: dict[asyncio.Task[None], None]

    def handle(self, call: Call) -> Coroutine[Any, Any, None]:
        """The call's handler has run."""
        ...


class Network:
    """All hosts, who listens, what is cut, and what became of the calls.

    `called` hears the number and the method of each call when it begins, and may answer with a mishap.
    """

    def __init__(self, loop: VirtualLoop, rng: Random) -> None:
        self.loop = loop
        self.rng = rng
        self.called: Callable[[int, str], tuple[Mishap, float] | None] = lambda _, __: None
        self.calls = 0
        self.answers: list[Answer] = []
        self.listening: dict[str, Server] = {}
        self.connections: dict[Connection, None] = {}
        self.under_way = 0
        """How many messages are on their way and will arrive, at whoever is there then."""
        self._cut: set[tuple[str, str]] = set()
        self._stalled: dict[tuple[str, str], list[Deliver]] = {}
        self._changed: list[asyncio.Future[None]] = []

    # -- faults -----------------------------------------------------------------------------------------------------

    def cut(self, ways: Iterable[tuple[str, str]]) -> None:
        """Nothing goes these ways, from one host to the other."""
        self._cut |= set(ways)
        for connection in tuple(self.connections):
            connection.watch_over()

    @property
    def waiting(self) -> int:
        """How many messages wait for a way that is cut."""
        return sum(len(stalled) for stalled in self._stalled.values())

    def heal(self, ways: Iterable[tuple[str, str]]) -> None:
        """Everything goes these ways again, and what waited first."""
        for way in ways:
            self._cut.discard(way)
            after_s = 0.0
            for deliver in self._stalled.pop(way, []):
                after_s += self.delay_s()
                self.arrives(after_s, deliver)
        self.look_again()

    def died(self, process: Process) -> None:
        """The operating system closes what the process had open."""
        for address, server in tuple(self.listening.items()):
            if server.process is process:
                del self.listening[address]
        for connection in tuple(self.connections):
            connection.end_of(process)
        self.look_again()

    def froze(self, _: Process) -> None:
        """The other ends will notice."""
        for connection in tuple(self.connections):
            connection.watch_over()

    def look_again(self) -> None:
        """Whoever waits for the network to be better looks."""
        changed, self._changed = self._changed, []
        for waiter in changed:
            if not waiter.done():
                waiter.set_result(None)

    # -- the way of a message ---------------------------------------------------------------------------------------

    def passes(self, source: str, destination: str) -> bool:
        """Something that is sent now arrives."""
        return (source, destination) not in self._cut

    def carry(self, source: str, destination: str, deliver: Deliver, after_s: float) -> None:
        """`deliver` happens `after_s` from now, or when the way is free."""
        if self.passes(source, destination):
            self.arrives(after_s, deliver)
        else:
            self._stalled.setdefault((source, destination), []).append(deliver)

    def delay_s(self) -> float:
        """How long a message is on its way: mostly short."""
        return self.rng.random() ** 3 * SLOWEST_S

    def arrives(self, after_s: float, deliver: Deliver) -> None:
        """`deliver` happens `after_s` from now, and until then a message is on its way."""
        self.under_way += 1

        def arrived() -> None:
            self.under_way -= 1
            deliver()

        self._later(after_s, arrived)

    def later(self, after_s: float, happens: Deliver) -> None:
        """`happens` happens, whichever process is alive then."""
        self._later(after_s, happens)

    def _later(self, after_s: float, happens: Deliver) -> None:
        self.loop.call_later(after_s, happens, context=self.loop.world.context)

    async def better(self) -> None:
        """Something has changed."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self._changed.append(waiter)
        await waiter


class Connection:
    """Between a channel and a server. Each end knows for itself whether it is open."""

    def __init__(self, network: Network, client: Process, server: Server) -> None:
        self.network = network
        self.client = client
        self.server = server
        self.client_open = self.server_open = True
        self.calls: dict[Call, None] = {}
        network.connections[self] = None

    def silent(self) -> bool:
        """A ping would not be answered now."""
        here, there = self.client.host, self.server.process.host
        lives = (self.client.life, self.server.process.life) == (Life.RUNNING, Life.RUNNING)
        return not (lives and self.network.passes(here, there) and self.network.passes(there, here))

    def watch_over(self) -> None:
        """If it stays silent, both ends give it up, each in its own time."""
        if self.silent():
            for give_up in (self.break_client, self.break_server):
                self.network.later(self.network.rng.uniform(*KEEPALIVE_S), lambda give_up=give_up: self._still(give_up))

    def _still(self, give_up: Deliver) -> None:
        if self.silent():
            give_up()

    def end_of(self, process: Process) -> None:
        """One of its processes has died: the other end hears of it, if it can."""
        if process is self.client and self.client_open:
            self.client_open = False
            self.network.carry(process.host, self.server.process.host, self.break_server, self.network.delay_s())
            self.watch_over()
        elif process is self.server.process and self.server_open:
            self.server_open = False
            self.network.carry(process.host, self.client.host, self.break_client, self.network.delay_s())
            self.watch_over()

    def break_client(self) -> None:
        """The client's end is closed: every call ends as nobody knows how."""
        if self.client_open:
            self.client_open = False
            for call in tuple(self.calls):
                call.ended(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            here, there = self.client.host, self.server.process.host
            self.network.carry(here, there, self.break_server, self.network.delay_s())
        self._forget()

    def break_server(self) -> None:
        """The server's end is closed: every call of it is cancelled."""
        if self.server_open:
            self.server_open = False
            for call in tuple(self.calls):
                call.cancel_server()
            here, there = self.server.process.host, self.client.host
            self.network.carry(here, there, self.break_client, self.network.delay_s())
        self._forget()

    def _forget(self) -> None:
        if not (self.client_open or self.server_open):
            self.network.connections.pop(self, None)


class Call:
    """One call, with both its ends. Messages of one direction arrive in their order. `lasts`: it is a stream."""

    def __init__(
        self, connection: Connection, method: str, mishap: tuple[Mishap, float] | None = None, *, lasts: bool = False
    ) -> None:
        self.connection = connection
        self.method = method
        self.network = connection.network
        self.mishap = mishap
        self.request = b""
        self.lasts = lasts
        # At the client.
        self.replies: deque[bytes] = deque()
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.trailing: Sequence[tuple[str, Any]] = ()
        self._client_waits: list[asyncio.Future[None]] = []
        # At the server.
        self.requests: deque[bytes] = deque()
        self.no_more_requests = False
        self.task: asyncio.Task[None] | None = None
        self._server_waits: list[asyncio.Future[None]] = []
        self._sent = {True: 0, False: 0}
        self._last_s = {True: 0.0, False: 0.0}
        connection.calls[self] = None

    # -- on the way -------------------------------------------------------------------------------------------------

    def _send(self, deliver: Deliver, *, to_server: bool, extra_s: float = 0.0) -> None:
        ends = self.connection.client.host, self.connection.server.process.host
        due_s = max(self.network.loop.time() + self.network.delay_s() + extra_s, self._last_s[to_server])
        self._last_s[to_server] = due_s
        self._sent[to_server] += 1

        def arrived() -> None:
            self._sent[to_server] -= 1
            if self.connection.server_open if to_server else self.connection.client_open:
                deliver()
            self._wake(at_server=not to_server)

        source, destination = ends if to_server else ends[::-1]
        self.network.carry(source, destination, arrived, due_s - self.network.loop.time())

    async def _room(self, *, to_server: bool) -> None:
        while self._sent[to_server] >= FRAMES and (self.code is None if to_server else True):
            await self._changed(at_server=not to_server)

    async def _changed(self, *, at_server: bool) -> None:
        waiter: asyncio.Future[None] = self.network.loop.create_future()
        (self._server_waits if at_server else self._client_waits).append(waiter)
        await waiter

    def _wake(self, *, at_server: bool) -> None:
        waits = self._server_waits if at_server else self._client_waits
        woken = waits[:]
        waits.clear()
        for waiter in woken:
            if not waiter.done():
                waiter.set_result(None)

    # -- the client's end -------------------------------------------------------------------------------------------

    def open(self, request: bytes | None) -> None:
        """The call is on its way to the server, with its request if it has one."""
        kind, extra_s = self.mishap or (None, 0.0)
        if request is not None:
            self.request = request
            self.requests.append(request)
            self.no_more_requests = True
        if kind is Mishap.LOSE_REQUEST:
            self.network.later(self.network.delay_s() + extra_s, self._broken)
            return
        self._send(self._begin, to_server=True, extra_s=extra_s if kind is Mishap.DELAY_REQUEST else 0.0)
        if kind is Mishap.DUPLICATE and request is not None and not self.lasts:
            twin = Call(self.connection, self.method)
            self.network.arrives(extra_s, lambda: twin.open(request))

    def _broken(self) -> None:
        self.ended(grpc.StatusCode.UNAVAILABLE, "the call was lost")
        if self.lasts:
            self._send(self.cancel_server, to_server=True)

    async def write(self, message: bytes) -> None:
        """The message is on its way."""
        await self._room(to_server=True)
        if self.code is not None:
            raise self.error() if self.code is not grpc.StatusCode.OK else asyncio.InvalidStateError("the call has ended")
        self._send(lambda: self._request_came(message), to_server=True)

    async def read(self) -> bytes | None:
        """The next message; None when the server has ended the call well."""
        while not self.replies:
            if self.code is grpc.StatusCode.OK:
                return None
            if self.code is not None:
                raise self.error()
            await self._changed(at_server=False)
        return self.replies.popleft()

    def cancel(self) -> None:
        """The client does not want it any more."""
        if self.code is None:
            self.ended(grpc.StatusCode.CANCELLED, "cancelled by the client")
            self._send(self.cancel_server, to_server=True)

    def ended(self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, Any]] = ()) -> None:
        """The client knows the end of the call."""
        if self.code is None:
            self.code, self.details, self.trailing = code, details, trailing
            self._wake(at_server=False)
            self._forget()

    def error(self) -> aio.AioRpcError:
        """What the client is told."""
        assert self.code is not None
        return aio.AioRpcError(self.code, aio.Metadata(), aio.Metadata(*self.trailing), details=self.details)

    # -- the server's end -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        server = self.connection.server
        if server.stopping:
            self._send(lambda: self.ended(grpc.StatusCode.UNAVAILABLE, "the server shuts down"), to_server=False)
            return
        self.task = server.process.spawn(server.handle(self), self.method)
        server.tasks[self.task] = None
        self.connection.calls[self] = None  # also when its client has left before it came here
        self.task.add_done_callback(self._served)
        if self.lasts and self.mishap is not None and self.mishap[0] is Mishap.LOSE_REPLY:
            self.network.later(self.mishap[1], self._broken)

    def _served(self, task: asyncio.Task[None]) -> None:
        self.connection.server.tasks.pop(task, None)
        if task.cancelled():
            self.finish(grpc.StatusCode.CANCELLED, "the server cancelled the call")
        self._forget()

    def _forget(self) -> None:
        if self.code is not None and (self.task is None or self.task.done()):
            self.connection.calls.pop(self, None)

    def _request_came(self, message: bytes) -> None:
        self.requests.append(message)
        self._wake(at_server=True)

    def cancel_server(self) -> None:
        """The server hears that the client is gone; a stream of it looks as if it had ended well."""
        self.no_more_requests = True
        self._wake(at_server=True)
        task = self.task
        if task is not None:
            self.network.later(self.network.rng.random() * 0.002, lambda: _cancel(task))

    async def next_request(self) -> bytes | None:
        """The next message; None when there is none."""
        while not self.requests:
            if self.no_more_requests:
                return None
            await self._changed(at_server=True)
        return self.requests.popleft()

    async def reply(self, message: bytes) -> None:
        """The message is on its way to the client."""
        await self._room(to_server=False)
        kind, extra_s = self.mishap or (None, 0.0)
        if kind is Mishap.LOSE_REPLY and not self.lasts:
            self.network.later(self.network.delay_s(), self._broken)
            return
        self._send(lambda: self._reply_came(message), to_server=False, extra_s=extra_s if kind is Mishap.DELAY_REPLY else 0.0)

    def _reply_came(self, message: bytes) -> None:
        self.replies.append(message)
        self._wake(at_server=False)

    def finish(self, code: grpc.StatusCode, details: str = "", trailing: Sequence[tuple[str, Any]] = ()) -> None:
        """The end is on its way to the client."""
        if self.mishap is not None and self.mishap[0] is Mishap.LOSE_REPLY and not self.lasts:
            self.network.later(self.network.delay_s(), self._broken)
            return
        self._send(lambda: self.ended(code, details, trailing), to_server=False)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
