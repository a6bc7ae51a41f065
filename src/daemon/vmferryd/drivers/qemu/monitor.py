"""The monitor of one QEMU process: commands, events, and descriptors that are handed over.

This is the one place where qemu.qmp's errors become ours: an error reply is `DriverRefused`, whatever ends or outlasts a
command is `DriverLost`.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from qemu.qmp import ConnectError, EventListener, ExecuteError, QMPClient, QMPError
from qemu.qmp.message import Message
from qemu.qmp.qmp_client import NegotiationError

from vmferry.errors import DriverLost, DriverRefused
from vmferryd.clock import Clock
from vmferryd.drivers.qemu.config import QemuConfig

T = TypeVar("T")
_NEGOTIATIONS = 3
"""How often a session is begun at most. qemu.qmp takes the first words after the greeting for the answer to its own, and an
event that comes between them ends the negotiation; QEMU greets whoever connects next."""

_MOST_OWED = 7
"""How many answers QEMU may owe. With eight commands waiting for its main loop it stops reading the session, and then what is
out of band is not answered either (QEMU, monitor/qmp.c)."""

EventHandler = Callable[[str, Mapping[str, Any]], None]
"""Called from the event loop with an event's name and data; must not block and must not raise."""


class Monitor:
    """A session with QEMU's monitor. Commands run one at a time, in the order in which they were asked for; see `ask`."""

    def __init__(self, client: _Client, raw: socket.socket, config: QemuConfig) -> None:
        self._client = client
        self._raw = raw
        self._config = config
        self._turn = asyncio.Lock()
        self._owed: set[asyncio.Future[Any]] = set()
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        config: QemuConfig,
        clock: Clock,
        *,
        handler: EventHandler,
        is_alive: Callable[[], bool],
        starting_s: float | None = None,
    ) -> Self:
        """The session is established.

        A monitor serves one client at a time; a second one is connected but not greeted, so the wait is bounded and
        nothing is taken from whoever is there. A QEMU that was just started listens long before it greets: it may take
        `starting_s`.

        Raises:
            DriverLost: the process ended, or nothing answered in time.
        """
        bound_s = config.monitor_timeout_s if starting_s is None else starting_s
        listens_s = config.start_timeout_s if starting_s is None else starting_s
        for left in reversed(range(_NEGOTIATIONS)):
            raw = await _connect(path, listens_s, config.connect_poll_s, clock, is_alive)
            client = _Client(handler)
            spare = raw.dup()
            try:
                await _agree(client, raw, spare, config, bound_s)
                return cls(client, spare, config)
            except (TimeoutError, QMPError, OSError, EOFError) as error:
                if not (left and _is_disagreement(error) and is_alive()):
                    raise _no_session(path, config, starting_s, error) from error
        raise AssertionError("the last one returns or raises")

    @property
    def is_open(self) -> bool:
        """The session has neither been closed nor ended by QEMU."""
        return not (self._closed or self._client.ended)

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """What QEMU returned. Without `timeout_s` the configuration's bound holds.

        Raises:
            DriverRefused: QEMU said no; `detail` has its words.
            DriverLost: QEMU or the session ended, or did not answer in time; it may have happened.
        """
        return await self._in_turn(lambda: self._execute(command, arguments), command, timeout_s)

    async def ask(self, *commands: str, timeout_s: float | None = None) -> list[Any]:
        """What QEMU returned to each, in their order. They are sent together: the way there and back is waited for once.

        Raises:
            DriverRefused, DriverLost: as `execute`.
        """
        return await self._in_turn(lambda: self._all(commands), " and ".join(commands), timeout_s)

    async def _all(self, commands: Sequence[str]) -> list[Any]:
        asked = [asyncio.ensure_future(self._execute(command, None)) for command in commands]
        try:
            return await asyncio.gather(*asked)
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _in_turn(self, work: Callable[[], Awaitable[T]], what: str, timeout_s: float | None) -> T:
        bound_s = self._config.command_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(bound_s), self._turn:
                return await work()
        except TimeoutError as error:
            raise _unanswered(what, bound_s) from error

    async def execute_urgently(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """What QEMU returned; out of band, so that it answers even while its main loop is blocked.

        Raises:
            DriverRefused, DriverLost: as `execute`.
        """
        bound_s = self._config.command_timeout_s
        try:
            async with asyncio.timeout(bound_s):
                return await self._execute(command, arguments, urgent=True)
        except TimeoutError as error:
            raise _unanswered(command, bound_s) from error

    async def hand_over(self, channel: socket.socket, name: str) -> None:
        """QEMU has its own copy of `channel` under `name`; an earlier descriptor of that name is closed.

        Raises:
            DriverRefused, DriverLost: as `execute`.
        """
        await self._in_turn(lambda: self._hand_over(channel, name), "getfd", None)

    async def close(self) -> None:
        """The session is over; QEMU is untouched."""
        if self._closed:
            return
        self._closed = True
        self._raw.close()
        await _end(self._client, self._config)
        for answer in self._owed:
            answer.cancel()

    async def _hand_over(self, channel: socket.socket, name: str) -> None:
        with contextlib.suppress(DriverRefused):
            await self._execute("closefd", {"fdname": name})
        # No command is on its way while we hold the turn, so nothing can come between this byte and `getfd`. The
        # descriptor goes through our own copy of the socket: the transport of uvloop cannot send any.
        try:
            rights = array.array("i", [channel.fileno()])
            self._raw.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError as error:
            raise DriverLost("the monitor took no descriptor", detail=str(error)) from error
        await self._execute("getfd", {"fdname": name})

    async def _execute(self, command: str, arguments: Mapping[str, Any] | None, *, urgent: bool = False) -> Any:
        if self._closed:
            raise DriverLost(f"the monitor was closed before {command}")
        try:
            if urgent:
                return await self._client.execute(command, arguments, oob=True)
            return await self._answer(command, arguments)
        except ExecuteError as error:
            raise DriverRefused(f"QEMU refused {command}: {error}", detail=str(error)) from error
        except (QMPError, OSError, EOFError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise DriverLost(f"QEMU went away while it was asked to {command}", detail=str(error)) from error

    async def _answer(self, command: str, arguments: Mapping[str, Any] | None) -> Any:
        """What is not waited for any more is still owed, and counts until it comes."""
        if len(self._owed) >= _MOST_OWED:
            raise DriverLost(f"QEMU was not asked to {command}, for it owes the answers to the {_MOST_OWED} commands before")
        answer = asyncio.ensure_future(self._client.execute(command, arguments))
        self._owed.add(answer)
        answer.add_done_callback(self._paid)
        return await asyncio.shield(answer)

    def _paid(self, answer: asyncio.Future[Any]) -> None:
        self._owed.discard(answer)
        if not answer.cancelled():
            answer.exception()  # nobody may be left who waits for it


async def _agree(client: _Client, raw: socket.socket, spare: socket.socket, config: QemuConfig, bound_s: float) -> None:
    """The session stands; or nothing is left of it, also when whoever wanted it has not waited."""
    try:
        async with asyncio.timeout(bound_s):
            await client.connect(raw)
    except BaseException:
        await _end(client, config)
        raw.close()
        spare.close()
        raise


async def _end(client: _Client, config: QemuConfig) -> None:
    # Whatever ended the session was told to those who waited for an answer; nobody is left to hear it here.
    # A process that was stopped takes no bytes: its session is not waited for.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(config.stop_timeout_s):
            await client.disconnect()


def _is_disagreement(error: Exception) -> bool:
    return isinstance(error, ConnectError) and isinstance(error.exc, NegotiationError)


def _no_session(path: Path, config: QemuConfig, starting_s: float | None, error: Exception) -> DriverLost:
    if _is_disagreement(error):
        return DriverLost(f"the monitor {path} did not agree on a session", detail=repr(error))
    if starting_s is not None and isinstance(error, TimeoutError):
        return _not_up(starting_s)
    return DriverLost(
        f"the monitor {path} did not greet within {config.monitor_timeout_s:g} s",
        remedy="Another program may hold it, for example a second daemon on this host; end that one.",
        detail=str(error),
    )


def _not_up(bound_s: float) -> DriverLost:
    return DriverLost(
        f"QEMU was not up within {bound_s:g} s",
        remedy="Its memory may have to be locked, or its storage may not answer; qemu.start_timeout_s bounds the wait.",
    )


def _unanswered(command: str, bound_s: float) -> DriverLost:
    return DriverLost(
        f"QEMU did not answer {command} within {bound_s:g} s",
        remedy="Its main loop may be blocked by its storage, or by a transfer's channel that takes no bytes.",
    )


class _Listener(EventListener):
    """Hands each event on at once and keeps none."""

    def __init__(self, handler: EventHandler) -> None:
        super().__init__()
        self._handler = handler

    def accept(self, event: Message) -> bool:
        self._handler(str(event["event"]), event.get("data") or {})  # type: ignore[arg-type]
        return False


class _Client(QMPClient):
    """A client that knows when QEMU ended the session."""

    def __init__(self, handler: EventHandler) -> None:
        super().__init__()
        self.ended = False
        self.register_listener(_Listener(handler))

    async def _bh_disconnect(self) -> None:
        self.ended = True
        await super()._bh_disconnect()


async def _connect(path: Path, bound_s: float, poll_s: float, clock: Clock, is_alive: Callable[[], bool]) -> socket.socket:
    """A connected socket, as soon as QEMU listens."""
    deadline_s = clock.monotonic() + bound_s
    while True:
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            raw.setblocking(False)  # noqa: FBT003 - the standard library's own spelling
            raw.connect(str(path))
            return raw
        except OSError as error:
            raw.close()
            if not is_alive():
                raise DriverLost("QEMU ended before its monitor answered") from error
            if clock.monotonic() >= deadline_s:
                raise _not_up(bound_s) from error
        await clock.sleep(poll_s)
