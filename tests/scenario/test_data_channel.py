"""The data channel: which way a guest takes, what is told of it, and who is kept out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from scenario.by_hand import ByHand
from scenario.test_departures import ended, hung
from scenario.test_peer_to_peer import P2P, sent
from scenario.test_protocols import ONE, TWO, speaking
from support.certificates import certificates_of
from support.daemons import FAST, NAME, Host, TwoHosts, domain_xml
from support.ports import free_port
from support.waiting import eventually
from vmferry.client import Connection, connect
from vmferry.endpoint import Request
from vmferry.errors import (
    AddressUnavailable,
    InvalidParameter,
    MigrationCancelled,
    NotSupported,
    PermissionRefused,
    PhaseOutOfOrder,
    TransferFailed,
    VmferryError,
)
from vmferry.flags import Flag
from vmferry.model import DomainState, GuestLocation, JobInfo, Phase, new_migration_id
from vmferry.params import MigrationParams
from vmferry.protocol import Spelling
from vmferryd import app
from vmferryd.config import load
from vmferryd.drivers.memory import FaultKind, Verb
from vmferryd.phases import cookie as cookies
from vmferryd.phases.cookie import Cookie, Expected
from vmferryd.transfer import hello
from vmferryd.transfer.addresses import parse
from vmferryd.transfer.sockets import connect as connect_data


async def job(host: Host) -> JobInfo:
    """The guest's newest migration."""
    return await host.connection.newest_job(NAME)


async def way(hosts: TwoHosts) -> str:
    """Which way the guest's data took."""
    return (await job(hosts.source)).data_channel


def prepared(walk: ByHand) -> Cookie:
    """What Prepare's cookie says."""
    return cookies.decode(walk.replies[Phase.PREPARE].cookie, Phase.PERFORM, Expected(walk.migration_id, ""))


def held(hosts: TwoHosts) -> frozenset[int]:
    """The ports that migrations hold at the destination."""
    return hosts.destination.daemon.context.doors._ports.held


# -- which way -------------------------------------------------------------------------------------------------------


async def test_hypervisors_share_a_connection(two_hosts: TwoHosts) -> None:
    """Without a word from the user no daemon carries the guest, and nobody is warned."""
    done = await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    port = two_hosts.destination.daemon.context.doors._here.port
    assert ((), f"connection to tcp:127.0.0.1:{port}") == (done.warnings, await way(two_hosts))
    assert frozenset() == held(two_hosts)


async def test_tunnelled(two_hosts: TwoHosts) -> None:
    """The user's wish for the tunnel is obeyed, in each protocol that has one."""
    done = await two_hosts.migrate(Flag.LIVE | Flag.TUNNELLED)
    await two_hosts.lives(two_hosts.destination)
    assert ((), f"tunnel to {two_hosts.destination.config.reached_at}") == (done.warnings, await way(two_hosts))


@pytest.mark.parametrize("what", [ONE, TWO], ids=["protocol 1", "protocol 2"])
async def test_older_protocols(two_hosts: TwoHosts, what: dict[str, Any]) -> None:
    """They have no cookie from the source, and yet their guests take the same way."""
    await speaking(two_hosts, what)
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    assert (await way(two_hosts)).startswith("connection to tcp:127.0.0.1:")


@pytest.mark.parametrize("older", ["source", "destination"])
async def test_older_daemon(two_hosts: TwoHosts, older: str) -> None:
    """With a daemon that says nothing of a data channel the guest takes the tunnel, and that is no cause for a warning."""
    host = getattr(two_hosts, older)
    host.use_tunnel()
    await host.restart()
    done = await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    assert () == done.warnings
    assert (await way(two_hosts)).startswith("tunnel to")
    for params in (MigrationParams(migrate_uri="tcp:127.0.0.1"), MigrationParams(listen_address="127.0.0.1")):
        with pytest.raises(NotSupported, match="through the tunnel alone"):
            await two_hosts.destination.connection.migrate(NAME, two_hosts.source.connection, flags=Flag.LIVE, params=params)


# -- where it comes in -----------------------------------------------------------------------------------------------


ASKED: list[tuple[MigrationParams, str]] = [
    (MigrationParams(listen_address="127.0.0.1"), "tcp:127.0.0.1:PORT"),
    (MigrationParams(migrate_uri="tcp:127.0.0.1"), "tcp:127.0.0.1:PORT"),
    (MigrationParams(migrate_uri="tcp://localhost", listen_address="127.0.0.1"), "tcp://localhost:PORT"),
    (MigrationParams(migrate_uri="tcp:127.0.0.1:FREE"), "tcp:127.0.0.1:FREE"),
    (MigrationParams(migrate_uri="tcp://127.0.0.1:FREE"), "tcp://127.0.0.1:FREE"),
    (MigrationParams(migrate_uri="unix://SOCKET"), "unix://SOCKET"),
]


class Heard:
    """The URIs that phases were given, in their order."""

    def __init__(self, hosts: TwoHosts) -> None:
        self.uris: list[tuple[str, str]] = []
        source, destination = hosts.source.daemon.source, hosts.destination.daemon.destination
        self._hear(source, "perform")
        self._hear(destination, "finish")

    def _hear(self, phases: Any, name: str) -> None:
        call = getattr(phases, name)

        def heard(request: Request) -> Any:
            self.uris.append((name, request.uri))
            return call(request)

        setattr(phases, name, heard)


@pytest.mark.option("--migrateuri", "--listen-address")
@pytest.mark.parametrize("peer_to_peer", [False, True], ids=["managed", "peer-to-peer"])
@pytest.mark.parametrize(("params", "uri"), ASKED)
async def test_where_it_was_asked_for(
    two_hosts: TwoHosts, tmp_path: Path, params: MigrationParams, uri: str, *, peer_to_peer: bool
) -> None:
    """The guest comes in there; what Prepare answered reaches Perform and Finish; afterwards all is free again."""
    free = free_port()
    given = {
        name: value.replace("FREE", str(free)).replace("SOCKET", str(tmp_path / "data"))
        for name in ("migrate_uri", "listen_address")
        if (value := getattr(params, name))
    }
    heard = Heard(two_hosts)
    asked = MigrationParams(**given)
    done = await (sent(two_hosts, P2P, asked) if peer_to_peer else two_hosts.migrate(params=asked))
    await two_hosts.lives(two_hosts.destination)
    told = (await way(two_hosts)).removeprefix("connection to ")
    expected = uri.replace("FREE", str(free)).replace("SOCKET", str(tmp_path / "data"))
    if expected.endswith("PORT"):
        assert parse(told).port in range(49152, 49216)
        expected = expected.replace("PORT", str(parse(told).port))
    assert ((), expected) == (done.warnings, told)
    assert [("perform", expected), ("finish", expected)] == heard.uris
    assert frozenset() == held(two_hosts)
    assert [] == list(tmp_path.iterdir())


async def test_fixed_arguments(two_hosts: TwoHosts) -> None:
    """The URI has a place in the fixed spelling, too."""
    async with two_hosts.source.dial(Spelling.FIXED) as source, two_hosts.destination.dial(Spelling.FIXED) as destination:
        params = MigrationParams(migrate_uri="tcp://127.0.0.1")
        await source.migrate(NAME, destination, flags=Flag.LIVE, params=params)
    await two_hosts.lives(two_hosts.destination)
    assert (await way(two_hosts)).startswith("connection to tcp://127.0.0.1:49")


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        (MigrationParams(migrate_uri="rdma://host"), NotSupported, "RDMA"),
        (MigrationParams(migrate_uri="udp:host"), NotSupported, "scheme is unknown"),
        (MigrationParams(migrate_uri="host-without-scheme"), InvalidParameter, "no scheme"),
        (MigrationParams(migrate_uri="tcp:"), InvalidParameter, "no host"),
        (MigrationParams(migrate_uri="unix:///x", listen_address="127.0.0.1"), InvalidParameter, "do not fit"),
        (MigrationParams(listen_address="0.0.0.0"), NotSupported, "unencrypted"),  # noqa: S104 - refused
        (MigrationParams(listen_address="no such host.example"), VmferryError, "cannot wait|unencrypted"),
        (MigrationParams(migrate_uri="unix:///nowhere/data"), AddressUnavailable, "no such folder"),
    ],
)
async def test_where_it_cannot_come_in(
    two_hosts: TwoHosts, params: MigrationParams, error: type[VmferryError], says: str
) -> None:
    """The refusal says why and what helps, nothing is left, and the guest never noticed."""
    with pytest.raises(error, match=says) as caught:
        await two_hosts.migrate(params=params)
    assert GuestLocation.SOURCE is caught.value.guest
    assert caught.value.remedy or caught.value.violations
    await two_hosts.lives(two_hosts.source)
    assert frozenset() == held(two_hosts)
    await two_hosts.again()


async def test_busy_port(two_hosts: TwoHosts) -> None:
    """A port that somebody else has is an error of Prepare; nothing is left at the destination."""
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        uri = f"tcp:127.0.0.1:{somebody.getsockname()[1]}"
        with pytest.raises(AddressUnavailable, match="somebody else") as caught:
            await two_hosts.migrate(params=MigrationParams(migrate_uri=uri))
    assert (Phase.PREPARE, GuestLocation.SOURCE) == (caught.value.phase, caught.value.guest)
    assert caught.value.remedy
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("uri", ["tcp:127.0.0.1", "unix://SOCKET"])
@pytest.mark.parametrize("end", ["abort", "lease", "hypervisor", "restart"])
async def test_what_was_opened_is_free_after_every_end(two_hosts: TwoHosts, tmp_path: Path, uri: str, end: str) -> None:
    """A port and a socket do not outlive their migration, however it ends before any byte has come."""
    if end == "lease":
        two_hosts.destination.limit(phase_lease_s=0.5)
        await two_hosts.destination.restart()
    walk = ByHand(two_hosts)
    begun = await walk.begin()
    asked = Request(
        walk.migration_id,
        NAME,
        flags=Flag.LIVE,
        domain_xml=begun.domain_xml,
        cookie=begun.cookie,
        uri=uri.replace("SOCKET", str(tmp_path / "data")),
    )
    if end == "hypervisor":
        two_hosts.destination.machine.faults.once(Verb.ACCEPT, FaultKind.REFUSE)
        with pytest.raises(VmferryError):
            await two_hosts.destination.connection.prepare(asked)
    else:
        await two_hosts.destination.connection.prepare(asked)
        assert bool(held(two_hosts)) is uri.startswith("tcp")
    if end == "abort":
        await two_hosts.destination.connection.abort(walk.migration_id, "a test")
    if end == "restart":
        await two_hosts.destination.restart()
    await eventually(lambda: not held(two_hosts) and not list(tmp_path.iterdir()))
    await two_hosts.source.connection.abort(walk.migration_id, "a test")
    if end == "lease":
        two_hosts.destination.limit()
        await two_hosts.destination.restart()
    await two_hosts.again()


# -- who is kept out -------------------------------------------------------------------------------------------------


async def test_strangers(two_hosts: TwoHosts) -> None:
    """Whoever connects without a token, or with a wrong one, gets nothing; the guest comes in all the same."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    offer = prepared(walk).data
    assert offer is not None
    address = parse(offer.uri)
    limits = two_hosts.source.daemon.context.limits
    with pytest.raises(TransferFailed):
        await connect_data(address, hello.new_token(), limits)
    with socket.create_connection((address.host, address.port)) as stranger:
        stranger.sendall(b"QEVM" + bytes(200))
        await walk.perform()
        stranger.settimeout(5.0)
        with suppress(ConnectionResetError):
            assert b"" == await asyncio.to_thread(stranger.recv, 1)
    await two_hosts.lives_at_last(walk)


async def test_grant_needs_the_ticket(two_hosts: TwoHosts) -> None:
    """Only who has Prepare's cookie is given a token, and only while a guest waits."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    ticket = prepared(walk).ticket
    destination = two_hosts.destination.connection
    with pytest.raises(PermissionRefused):
        await destination.grant(walk.migration_id, b"guessed", proof_secret=b"secret", daemon_uri="")
    assert hello.TOKEN_BYTES == len(await destination.grant(walk.migration_id, ticket, proof_secret=b"s", daemon_uri=""))
    await walk.perform()
    with pytest.raises(PhaseOutOfOrder):
        await destination.grant(walk.migration_id, ticket, proof_secret=b"secret", daemon_uri="")
    await two_hosts.lives_at_last(walk)


async def test_grant_of_a_tunnelled_migration(two_hosts: TwoHosts) -> None:
    """Who asked for the tunnel has no other way in."""
    walk = await ByHand(two_hosts, flags=Flag.LIVE | Flag.TUNNELLED).up_to(Phase.PREPARE)
    ticket = prepared(walk).ticket
    with pytest.raises(NotSupported):
        await two_hosts.destination.connection.grant(walk.migration_id, ticket, proof_secret=b"s", daemon_uri="")
    await walk.perform()
    await two_hosts.lives_at_last(walk)


@pytest.mark.parametrize("leaves", [True, False], ids=["which closes", "which stays"])
async def test_connection_over_which_nothing_came(two_hosts: TwoHosts, *, leaves: bool) -> None:
    """A source whose connection came too late for it has not lost its guest's place: it may ask again, and be tunnelled."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    cookie = prepared(walk)
    assert cookie.data is not None
    destination = two_hosts.destination.connection
    token = await destination.grant(walk.migration_id, cookie.ticket, proof_secret=b"s", daemon_uri="")
    idle = await connect_data(parse(cookie.data.uri), token, two_hosts.source.daemon.context.limits)
    if leaves:
        idle.close()
    tunnel = str(two_hosts.destination.config.reached_at)
    request = walk.request(Phase.PREPARE)
    walk.replies[Phase.PERFORM] = await two_hosts.source.connection.perform(
        Request(walk.migration_id, NAME, flags=walk.flags, cookie=request.cookie, uri=tunnel), lambda _: None
    )
    await two_hosts.lives_at_last(walk)
    assert f"tunnel to {tunnel}" == await way(two_hosts)
    idle.close()


# -- when it cannot be made ------------------------------------------------------------------------------------------


async def nobody_home(hosts: TwoHosts) -> None:
    """A firewall, as it were: nobody listens at the destination's data ports any more."""
    doors = hosts.destination.daemon.context.doors
    doors.close()
    await eventually(lambda: doors._shared is not None and doors._shared._listener.fileno() == -1)


@pytest.mark.parametrize("peer_to_peer", [False, True], ids=["managed", "peer-to-peer"])
async def test_tunnel_instead_is_told(two_hosts: TwoHosts, *, peer_to_peer: bool) -> None:
    """Who asked for nothing gets the tunnel when the connection cannot be made, and is told so, in the job as well."""
    await nobody_home(two_hosts)
    done = await (sent(two_hosts) if peer_to_peer else two_hosts.migrate())
    await two_hosts.lives(two_hosts.destination)
    assert [True] == ["no data connection to tcp:127.0.0.1" in warning for warning in done.warnings]
    known = await job(two_hosts.source)
    assert (done.warnings, f"tunnel to {two_hosts.destination.config.reached_at}") == (known.warnings, known.data_channel)


@pytest.mark.parametrize("asked", ["by prepare", "by perform"])
async def test_what_was_asked_for_is_never_replaced(two_hosts: TwoHosts, asked: str) -> None:
    """A connection that was asked for and cannot be made fails; the guest runs on, and the error says what helps."""
    walk = ByHand(two_hosts)
    await walk.begin()
    if asked == "by prepare":
        request = walk.request(Phase.BEGIN)
        walk.replies[Phase.PREPARE] = await two_hosts.destination.connection.prepare(
            Request(
                walk.migration_id,
                NAME,
                flags=walk.flags,
                domain_xml=request.domain_xml,
                cookie=request.cookie,
                uri="tcp:127.0.0.1",
            )
        )
        await nobody_home(two_hosts)
        uri = walk.replies[Phase.PREPARE].uri
    else:
        await walk.prepare()
        uri = f"tcp:127.0.0.1:{free_port()}"
    with pytest.raises(TransferFailed, match="no data connection") as caught:
        await two_hosts.source.connection.perform(
            Request(walk.migration_id, NAME, flags=walk.flags, cookie=walk.replies[Phase.PREPARE].cookie, uri=uri),
            lambda _: None,
        )
    assert (GuestLocation.SOURCE, True) == (caught.value.guest, bool(caught.value.remedy))
    await two_hosts.destination.connection.abort(walk.migration_id, "a test")
    await two_hosts.lives(two_hosts.source)
    assert frozenset() == held(two_hosts)


# -- in mid-transfer -------------------------------------------------------------------------------------------------


async def test_cut(two_hosts: TwoHosts) -> None:
    """A connection that breaks in mid-transfer ends it: the guest runs on, and nothing waits at the destination."""
    moving = await hung(two_hosts.source, Verb.ROUND, two_hosts.migrate)
    await eventually(lambda: bool(two_hosts.destination.machine.channels))
    for channel in two_hosts.destination.machine.channels:
        channel.shutdown(socket.SHUT_RDWR)
    await asyncio.wait([moving])
    error = moving.exception()
    assert isinstance(error, TransferFailed), error
    assert GuestLocation.SOURCE is error.guest
    two_hosts.source.machine.faults.release()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_cancel(two_hosts: TwoHosts) -> None:
    """A user's word ends it as fast as through the tunnel."""
    migration_id = new_migration_id()
    moving = await hung(two_hosts.source, Verb.ROUND, lambda: two_hosts.migrate(migration_id=migration_id))
    await two_hosts.source.connection.abort_job(migration_id)
    with pytest.raises(MigrationCancelled):
        await moving
    two_hosts.source.machine.faults.release()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_destination_that_gives_up_is_heard(two_hosts: TwoHosts) -> None:
    """A destination whose operator ends the migration ends it at the source at once, with its reason."""
    migration_id = new_migration_id()
    moving = await hung(two_hosts.source, Verb.HELD, lambda: two_hosts.migrate(migration_id=migration_id))
    await two_hosts.destination.connection.abort(migration_id, "the operator needs the host")
    with pytest.raises(TransferFailed) as caught:
        await moving
    assert "the operator needs the host" in caught.value.detail
    two_hosts.source.machine.faults.release()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_silent_destination_is_given_no_guest(two_hosts: TwoHosts) -> None:
    """A source whose peer does not answer does not let go, although the hypervisors are still connected."""
    moving = await hung(two_hosts.source, Verb.ROUND, two_hosts.migrate)
    await two_hosts.destination.stop()
    sending = next(iter(two_hosts.source.daemon.source.migrations.unfinished.values()))._sending
    await eventually(lambda: sending is not None and sending._silence is not None)
    two_hosts.source.machine.faults.release()
    await asyncio.wait([moving])
    error = moving.exception()
    assert isinstance(error, VmferryError)
    assert "does not answer" in str(error)
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("bound_s", [0.1])
async def test_destination_that_stays_silent(two_hosts: TwoHosts, bound_s: float) -> None:
    """A transfer is not kept up for a daemon that does not come back."""
    two_hosts.source.limit(peer_silence_s=bound_s)
    await two_hosts.source.restart()
    moving = await hung(two_hosts.source, Verb.HELD, two_hosts.migrate)
    await two_hosts.destination.stop()
    await asyncio.wait([moving])
    assert isinstance(moving.exception(), VmferryError)
    two_hosts.source.machine.faults.release()
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)


async def test_source_restarts_while_it_lets_go(two_hosts: TwoHosts) -> None:
    """The hypervisors go on without their daemons; whatever was sent, the guest ends in one place."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    performing = await hung(two_hosts.source, Verb.LAST_PART, walk.perform)
    await two_hosts.source.stop()
    two_hosts.source.machine.faults.release()
    await ended(performing)
    await two_hosts.source.start()
    await two_hosts.lives_somewhere()


async def test_destination_stops_before_the_last_part(two_hosts: TwoHosts) -> None:
    """A destination that was gone when its hypervisor got everything does not take the guest; the source has it back."""
    two_hosts.source.limit(phase_lease_s=0.3)
    await two_hosts.source.restart()
    moving = await hung(two_hosts.source, Verb.LAST_PART, two_hosts.migrate)
    await two_hosts.destination.stop()
    two_hosts.source.machine.faults.release()
    await asyncio.wait([moving])
    assert isinstance(moving.exception(), VmferryError)
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


# -- between daemons that speak TLS ----------------------------------------------------------------------------------

Pair = Callable[..., Any]


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Pair]:
    """Makes two daemons that answer at TLS places only, with that `data` section; answers connections to both."""
    certificates = certificates_of("vmferry test", tmp_path / "certificates")
    async with AsyncExitStack() as stack:

        async def make(**data: Any) -> tuple[Connection, Connection]:
            made = []
            for name in ("a", "b"):
                settings = {
                    "listen": f"vmferry+tls://127.0.0.1:{free_port()}",
                    "certificates": certificates,
                    "state_directory": tmp_path / name,
                    "host_name": name,
                    "qemu": {"enabled": False},
                    "limits": FAST,
                    "data": data,
                }
                config = load(None, settings)
                await stack.enter_async_context(app.running(config))
                made.append(await stack.enter_async_context(connect(f"{config.listen[0]}?certificates={certificates}")))
            await made[0].define(domain_xml())
            await made[0].start(NAME)
            return made[0], made[1]

        yield make


@pytest.mark.parametrize("data", [{}, {"plain": True}], ids=["", "plain is allowed"])
async def test_tls_daemons_use_the_tunnel(secure: Pair, data: dict[str, Any]) -> None:
    """Where the daemons encrypt, the guest goes with them, unless somebody asks for another way."""
    source, destination = await secure(**data)
    done = await source.migrate(NAME, destination, flags=Flag.LIVE)
    assert () == done.warnings
    assert (await source.newest_job(NAME)).data_channel.startswith("tunnel to vmferry+tls://")


@pytest.mark.parametrize(
    "params",
    [
        MigrationParams(migrate_uri="tcp:127.0.0.1"),
        MigrationParams(migrate_uri="unix:///tmp/vmferry-data"),
        MigrationParams(listen_address="127.0.0.1"),
    ],
)
async def test_tls_daemons_refuse_plain_data(secure: Pair, params: MigrationParams) -> None:
    """Never silently: what was asked for is refused, and the refusal names the setting that would allow it."""
    source, destination = await secure()
    with pytest.raises(NotSupported, match="unencrypted") as caught:
        await source.migrate(NAME, destination, flags=Flag.LIVE, params=params)
    assert "data.plain = true" in caught.value.remedy
    assert DomainState.RUNNING is (await source.domain(NAME)).state


async def test_plain_data_that_the_operator_allows(secure: Pair) -> None:
    """With the destination's word for it, what was asked for is done."""
    source, destination = await secure(plain=True)
    await source.migrate(NAME, destination, flags=Flag.LIVE, params=MigrationParams(migrate_uri="tcp://127.0.0.1"))
    assert (await source.newest_job(NAME)).data_channel.startswith("connection to tcp://127.0.0.1:49")
    assert DomainState.RUNNING is (await destination.domain(NAME)).state
