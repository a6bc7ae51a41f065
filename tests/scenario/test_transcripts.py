"""Whole migrations between two daemons, written down: who was called with what, and what held in the end.

For each protocol and mode, and for each phase that fails. `transcripts_of_hosts.txt` has them, and `UPDATE_TRANSCRIPTS=1`
writes it anew, to be read before it is committed. Calls that only the daemons make to settle a migration are not in it, for
they come when they come.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import grpc
import pytest

from scenario.test_direct import Direct
from scenario.test_peer_to_peer import uri_of
from scenario.test_protocols import ALL, FIXED, ONE, TWO, speaking
from support.daemons import IMPATIENT, NAME, UUID, Host, TwoHosts
from support.waiting import eventually
from vmferry.attempt import Attempt
from vmferry.errors import VmferryError
from vmferry.flags import Flag, names
from vmferry.model import StateReason, Verdict, new_migration_id
from vmferry.params import MigrationParams
from vmferry.wire import enum_from_wire
from vmferryd.drivers.memory import FaultKind, Verb

TRANSCRIPTS = Path(__file__).with_name("transcripts_of_hosts.txt")
ASKED = Flag.LIVE | Flag.PERSIST_DEST | Flag.UNDEFINE_SOURCE | Flag.ABORT_ON_ERROR
LEFT = Flag.OFFLINE | Flag.PERSIST_DEST | Flag.UNDEFINE_SOURCE


# -- what is walked ----------------------------------------------------------------------------------------------------


class Way(Enum):
    """Which call of the client library it is, and who receives."""

    REGULAR = "regular"
    PEER_TO_PEER = "peer-to-peer"
    DIRECT = "direct"


@dataclass(frozen=True)
class Mode:
    """One way to move the guest: what the daemons announce, and what the client asks."""

    name: str
    announced: dict[str, Any]
    flags: Flag = ASKED
    way: Way = Way.REGULAR


MODES: Sequence[Mode] = (
    Mode("protocol 1, regular", ONE),
    Mode("protocol 2, regular", TWO),
    Mode("protocol 3, regular", FIXED),
    Mode("protocol 3 with parameters, regular", ALL),
    Mode("protocol 2, regular, tunnelled", TWO, ASKED | Flag.TUNNELLED),
    Mode("protocol 3, regular, tunnelled", FIXED, ASKED | Flag.TUNNELLED),
    Mode("protocol 3 with parameters, regular, tunnelled", ALL, ASKED | Flag.TUNNELLED),
    Mode("protocol 3, peer-to-peer", FIXED | {"features": [4, 7, 11]}, ASKED | Flag.PEER2PEER, Way.PEER_TO_PEER),
    Mode("protocol 3 with parameters, peer-to-peer", ALL, ASKED | Flag.PEER2PEER, Way.PEER_TO_PEER),
    Mode(
        "protocol 3 with parameters, peer-to-peer, tunnelled",
        ALL,
        ASKED | Flag.PEER2PEER | Flag.TUNNELLED,
        Way.PEER_TO_PEER,
    ),
    Mode("protocol 3, regular, offline", FIXED | {"features": [4, 7, 11, 12]}, LEFT),
    Mode("protocol 3 with parameters, regular, offline", ALL, LEFT),
    Mode("protocol 3 with parameters, peer-to-peer, offline", ALL, LEFT | Flag.PEER2PEER, Way.PEER_TO_PEER),
    Mode("protocol 3 with parameters, direct", ALL, Flag.LIVE | Flag.UNDEFINE_SOURCE, Way.DIRECT),
)


@dataclass(frozen=True)
class Failure:
    """What goes wrong on one host, once."""

    name: str
    host: str = ""
    verb: Verb | None = None
    kind: FaultKind | None = None
    write: int | None = None

    def arrange(self, hosts: TwoHosts) -> None:
        """It will go wrong."""
        if self.host:
            host: Host = getattr(hosts, self.host)
            if self.verb is not None and self.kind is not None:
                host.machine.faults.once(self.verb, self.kind)
            if self.write is not None:
                host.writes.fail(self.write)

    def concerns(self, mode: Mode) -> bool:
        """Whether it can happen in that mode: offline has no hypervisor, and direct mode no destination's daemon."""
        if Flag.OFFLINE in mode.flags:
            return self.verb is None
        return self.write is None and (mode.way is not Way.DIRECT or self.host != "destination")


FAILURES: Sequence[Failure] = (
    Failure("nothing fails"),
    Failure("the source's hypervisor does not answer before anything has begun", "source", Verb.PROBE, FaultKind.LOSE_BEFORE),
    Failure("the destination's hypervisor refuses the guest", "destination", Verb.ACCEPT, FaultKind.REFUSE),
    Failure("the source's hypervisor refuses to send", "source", Verb.SEND, FaultKind.REFUSE),
    Failure("the transfer breaks in a round", "source", Verb.ROUND, FaultKind.FAIL_TRANSFER),
    Failure("the last part is lost on its way", "source", Verb.LAST_PART, FaultKind.FAIL_TRANSFER),
    Failure("the loaded guest dies before it says so", "destination", Verb.ACKNOWLEDGE, FaultKind.KILL_BEFORE),
    Failure("the destination's CPUs start, and the answer is lost", "destination", Verb.RESUME, FaultKind.LOSE_AFTER),
    Failure("the source's copy is not destroyed at once", "source", Verb.DESTROY, FaultKind.REFUSE),
    Failure("begin cannot be recorded", "source", write=1),
    Failure("prepare cannot be recorded", "destination", write=1),
)


# -- writing it down ---------------------------------------------------------------------------------------------------


@dataclass
class Recorder(grpc.aio.ServerInterceptor):
    """The migration calls that come to one host, in the order in which they came to all."""

    host: str
    lines: list[str]

    async def intercept_service(self, continuation, details):
        """Writes down each call's request, and its error."""
        handler = await continuation(details)
        _, service, call = details.method.split("/")
        if ".Migration" not in service or handler is None:
            return handler
        name = f"{self.host}.{_version(service)}{call}"
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(name, handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_stream_rpc_method_handler(
            self._stream(name, handler.unary_stream),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, name: str, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            self.lines.append(f"{name} {_facts(request)}".rstrip())
            return await behaviour(request, context)

        return call

    def _stream(self, name: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> Any:
            self.lines.append(f"{name} {_facts(request)}".rstrip())
            async for message in behaviour(request, context):
                yield message

        return call


def _version(service: str) -> str:
    return {"MigrationV1Service": "1.", "MigrationV2Service": "2."}.get(service.rpartition(".")[2], "")


def _facts(request: Any) -> str:
    facts = []
    if getattr(request, "cookie", b""):
        facts.append("cookie")
    if flags := getattr(request, "flags", 0):
        facts.append(f"flags={'+'.join(names(Flag(flags)))}")
    if params := getattr(request, "params", ()):
        facts.append(f"params={'+'.join(sorted({param.name for param in params}))}")
    if getattr(request, "destination_daemon_uri", ""):
        facts.append("to-the-peer")
    if verdict := getattr(request, "verdict", 0):
        facts.append(enum_from_wire(Verdict, verdict).value)
    return " ".join(facts)


@dataclass
class Stage:
    """Two hosts, and what is heard on them."""

    hosts: TwoHosts
    directory: Path
    lines: list[str] = field(default_factory=list)

    async def walk(self, mode: Mode, failure: Failure) -> list[str]:
        """The transcript of one migration."""
        await speaking(self.hosts, mode.announced)
        if Flag.OFFLINE in mode.flags:
            await self.hosts.source.connection.destroy(NAME)
        self.lines.clear()
        failure.arrange(self.hosts)
        migration_id = new_migration_id()
        try:
            done = await self._migrate(mode, Attempt(migration_id, patience=IMPATIENT))
            end = "= migrated" + "".join(f"; warning: {warning.partition(':')[0]}" for warning in done.warnings)
        except VmferryError as error:
            where = f" guest={error.guest}" if error.guest else ""
            end = f"= {type(error).__name__} in {error.phase or 'no phase'}{where}: {error.message}"
        for host in self.hosts.hosts:
            await eventually(
                lambda host=host: self._settled(host, migration_id), what=f"{host.name} settles {mode} {failure}"
            )
        end = re.sub(r"write \d+ failed", "a write failed", end.replace(str(self.directory), "…"))
        lines = [*self.lines, end]
        for name, host in (("source", self.hosts.source), ("destination", self.hosts.destination)):
            lines.append(f"{name}: {await self._end_state(host, migration_id)}")
        return lines

    async def _migrate(self, mode: Mode, attempt: Attempt) -> Any:
        source, destination = self.hosts.source, self.hosts.destination
        if mode.way is Way.DIRECT:
            direct = Direct(self.hosts, destination.machine, self.directory / "bare")
            async with direct.listening():
                params = MigrationParams(migrate_uri=direct.uri)
                return await source.connection.migrate_to_uri(NAME, "", flags=mode.flags, params=params, attempt=attempt)
        if mode.way is Way.PEER_TO_PEER:
            return await source.connection.migrate_to_uri(NAME, uri_of(destination), flags=mode.flags, attempt=attempt)
        return await source.connection.migrate(NAME, destination.connection, flags=mode.flags, attempt=attempt)

    async def _settled(self, host: Host, migration_id: Any) -> bool:
        records = await host.daemon.context.journal.of(migration_id)
        domains = await host.connection.domains()
        if any(domain.reason is StateReason.IN_DOUBT for domain in domains):
            return True  # without a daemon at the other end only an operator can settle it
        held = any(domain.migration_id for domain in domains)
        return not held and all(record.state.final and record.settled for record in records)

    async def _end_state(self, host: Host, migration_id: Any) -> str:
        found = [domain for domain in await host.connection.domains() if domain.uuid == UUID]
        domain = found[0] if found else None
        persistence = "persistent" if domain and domain.persistent else "transient"
        shown = f"{domain.state} ({domain.reason}), {persistence}" if domain else "no domain"
        return f"{shown}; the journal says {await host.state(migration_id) or 'nothing'}"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What daemons that start from now on are called."""
    heard: list[str] = []
    hosts: Iterator[str] = iter(["source", "destination"] * 1000)
    make = grpc.aio.server

    def server(*, interceptors: Sequence[Any], options: Any) -> Any:
        return make(interceptors=[*interceptors, Recorder(next(hosts), heard)], options=options)

    monkeypatch.setattr("grpc.aio.server", server)
    return heard


async def transcript_of(mode: Mode, stage_of: Callable[[], Awaitable[Stage]]) -> str:
    """All that can fail in one mode, as text."""
    parts = []
    for failure in filter(lambda failure: failure.concerns(mode), FAILURES):
        stage = await stage_of()
        try:
            walked = await stage.walk(mode, failure)
        finally:
            await stage.hosts.close()
        parts.append(f"{mode.name}: {failure.name}\n" + "".join(f"    {line}\n" for line in walked))
    return "\n".join(parts)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
async def test_transcripts(mode: Mode, lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The calls, their flags and verdicts, and the end on both hosts are those that were reviewed."""

    async def stage_of() -> Stage:
        directory = tmp_path_factory.mktemp("t")
        hosts = TwoHosts(directory)
        await hosts.start()
        return Stage(hosts, directory, lines)

    actual = await transcript_of(mode, stage_of)
    known = _known()
    if os.environ.get("UPDATE_TRANSCRIPTS"):
        known[mode.name] = actual
        ordered = [known[one.name] for one in MODES if one.name in known]
        TRANSCRIPTS.write_text("\n".join(ordered))
    assert actual == known.get(mode.name)


def _known() -> dict[str, str]:
    """The committed transcripts, by mode."""
    if not TRANSCRIPTS.exists():
        return {}
    known: dict[str, list[str]] = {}
    for part in TRANSCRIPTS.read_text().split("\n\n"):
        known.setdefault(part.partition(":")[0], []).append(part.rstrip("\n") + "\n")
    return {mode: "\n".join(parts) for mode, parts in known.items()}
