"""Peer-to-peer where the daemons announce less than they can: protocol 2 towards the peer, and what is refused."""

from __future__ import annotations

from typing import NoReturn

import pytest

from scenario.test_peer_to_peer import P2P, hung, sent, uri_of
from scenario.test_protocols import FIXED, ONE, TWO, WALKS, Calls, announce, calls
from support.daemons import NAME, TwoHosts
from vmferry.api.v1 import legacy_pb2, legacy_pb2_grpc
from vmferry.channel import parse_uri
from vmferry.client import Connection
from vmferry.errors import (
    DomainNotFound,
    InvalidParameter,
    InvalidState,
    MigrationCancelled,
    NoCommonProtocol,
    NotSupported,
    PeerUnreachable,
    VmferryError,
)
from vmferry.flags import Flag
from vmferry.model import DomainState, GuestLocation, Outcome, new_migration_id
from vmferry.params import MigrationParams
from vmferry.protocol import Spelling
from vmferryd.drivers.memory import FaultKind, Verb

__all__ = ["calls"]


@pytest.fixture
async def second(two_hosts: TwoHosts) -> TwoHosts:
    """Two hosts; the destination's daemon announces protocol 2 alone."""
    await announce(two_hosts.destination, TWO)
    return two_hosts


async def test_protocol_2_towards_the_peer(calls: Calls, second: TwoHosts) -> None:
    """The source's daemon calls the peer's Prepare and Finish of protocol 2, and no other; nothing is left behind."""
    await announce(second.destination, TWO)
    params = MigrationParams(destination_name="moved", bandwidth_mib_per_s=100)
    done = await sent(second, P2P | Flag.PERSIST_DEST | Flag.CHANGE_PROTECTION, params)
    await second.lives(second.destination)
    assert ("moved", True, ()) == (done.domain.name, done.domain.persistent, done.warnings)
    at_the_peer = [call for service, call in calls.heard if service == "MigrationV2Service"]
    assert ["Prepare", "Finish"] == at_the_peer
    assert set(at_the_peer) < set(WALKS["MigrationV2Service"])
    assert {} == second.source.daemon.source.migrations.unfinished


@pytest.mark.parametrize(
    ("verb", "kind", "at_source"),
    [
        (Verb.ACCEPT, FaultKind.REFUSE, False),
        (Verb.RECEIVE, FaultKind.LOSE_BEFORE, False),
        (Verb.RECEIVED, FaultKind.KILL_BEFORE, False),
        (Verb.SEND, FaultKind.REFUSE, True),
        (Verb.ROUND, FaultKind.FAIL_TRANSFER, True),
        (Verb.LET_GO, FaultKind.FAIL_TRANSFER, True),
    ],
)
async def test_failing_phases(second: TwoHosts, verb: Verb, kind: FaultKind, at_source: bool) -> None:
    """A failure in any phase leaves the guest at the source, held by nobody although no Confirm follows."""
    (second.source if at_source else second.destination).machine.faults.once(verb, kind)
    with pytest.raises(VmferryError) as caught:
        await sent(second)
    assert GuestLocation.SOURCE is caught.value.guest
    await second.lives(second.source)
    await second.again()


@pytest.mark.parametrize(("verb", "at_source"), [(Verb.ROUND, True), (Verb.ACCEPT, False)])
async def test_abort(second: TwoHosts, verb: Verb, at_source: bool) -> None:
    """A user's abort ends it in any phase: the source holds the domain from the start, also in protocol 2."""
    migration_id = new_migration_id()
    host = second.source if at_source else second.destination
    moving = await hung(second, verb, sent(second, migration_id=migration_id), host)
    assert Outcome.ABORTED is await second.source.connection.abort_job(migration_id)
    host.machine.faults.release()
    with pytest.raises(MigrationCancelled):
        await moving
    await second.lives(second.source)
    await second.again()


async def test_caller_comes_back_after_the_end(second: TwoHosts) -> None:
    """Who asks again for a migration that has ended is told the same end."""
    migration_id = new_migration_id()
    for _ in range(2):
        done = await sent(second, migration_id=migration_id)
        assert DomainState.RUNNING is done.domain.state
    await second.lives(second.destination)


async def test_what_protocol_2_cannot_carry(second: TwoHosts) -> None:
    """A parameter that the peer cannot be told is refused before anything is touched."""
    with pytest.raises(NotSupported) as caught:
        await sent(second, params=MigrationParams(destination_xml=await second.source.connection.xml(NAME)))
    assert GuestLocation.SOURCE is caught.value.guest
    assert [] == await second.source.connection.jobs()
    await second.lives(second.source)


async def test_peer_of_protocol_1(two_hosts: TwoHosts) -> None:
    """Between daemons protocol 1 is not spoken."""
    await announce(two_hosts.destination, ONE)
    with pytest.raises(NoCommonProtocol):
        await sent(two_hosts)
    await two_hosts.lives(two_hosts.source)


async def test_peer_without_peer_to_peer(two_hosts: TwoHosts) -> None:
    """A destination whose configuration leaves peer-to-peer out is refused."""
    await announce(two_hosts.destination, {"features": [7]})
    with pytest.raises(VmferryError, match="MIGRATION_P2P"):
        await sent(two_hosts)
    await two_hosts.lives(two_hosts.source)


@pytest.mark.parametrize("spelling", Spelling)
async def test_source_of_the_fixed_spelling(two_hosts: TwoHosts, spelling: Spelling) -> None:
    """A source that does not announce typed parameters is asked with fixed arguments."""
    await announce(two_hosts.source, FIXED)
    async with two_hosts.source.dial(spelling) as source:
        await source.migrate_to_uri(NAME, uri_of(two_hosts.destination), flags=P2P)
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize("what", [ONE, TWO], ids=["protocol 1", "protocol 2"])
async def test_source_without_protocol_3(two_hosts: TwoHosts, what: dict[str, object]) -> None:
    """2.5 step 3: the one Perform of an old protocol carries the daemon's URI; what the daemons speak is theirs to choose."""
    await announce(two_hosts.source, what)
    done = await sent(two_hosts, params=MigrationParams(destination_name="moved"))
    assert ("moved", ()) == (done.domain.name, done.warnings)
    (source_job,), (destination_job,) = (
        await two_hosts.source.connection.jobs(),
        await two_hosts.destination.connection.jobs(),
    )
    assert source_job.migration_id == destination_job.migration_id == done.migration_id
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize("what", [ONE, TWO], ids=["protocol 1", "protocol 2"])
async def test_the_one_uri_of_an_old_call(two_hosts: TwoHosts, what: dict[str, object]) -> None:
    """2.5 step 3: it is the daemon's, so there is no place for a migration URI beside it."""
    await announce(two_hosts.source, what)
    with pytest.raises(NotSupported, match="migrate_uri"):
        await sent(two_hosts, params=MigrationParams(migrate_uri="tcp:b:4444"))
    await two_hosts.lives(two_hosts.source)


async def test_old_call_with_the_flag_alone(two_hosts: TwoHosts) -> None:
    """PEER2PEER without a daemon's URI is refused, and Describe has nothing to do with it."""
    channel, migration_id = two_hosts.source.connection.channel, new_migration_id()
    one, two = legacy_pb2_grpc.MigrationV1ServiceStub(channel), legacy_pb2_grpc.MigrationV2ServiceStub(channel)
    asked = {"migration_id": migration_id, "domain": NAME, "flags": int(P2P)}
    for call in (
        one.Perform(legacy_pb2.MigrationV1ServicePerformRequest(**asked)).read(),
        two.Perform(legacy_pb2.MigrationV2ServicePerformRequest(**asked)).read(),
        two.Describe(legacy_pb2.MigrationV2ServiceDescribeRequest(**asked)),
    ):
        with pytest.raises(InvalidParameter, match="PEER2PEER"):
            await two_hosts.source.connection._ask(call)
    await two_hosts.lives(two_hosts.source)


async def test_old_call_with_a_cookie(two_hosts: TwoHosts) -> None:
    """1.7: a cookie says that somebody else coordinates, so peer-to-peer refuses it in every protocol."""
    channel, uri = two_hosts.source.connection.channel, uri_of(two_hosts.destination)
    one, two = legacy_pb2_grpc.MigrationV1ServiceStub(channel), legacy_pb2_grpc.MigrationV2ServiceStub(channel)
    asked = {"migration_id": new_migration_id(), "domain": NAME, "flags": int(P2P), "cookie": b"{}", "uri": uri}
    for call in (
        one.Perform(legacy_pb2.MigrationV1ServicePerformRequest(**asked)).read(),
        two.Perform(legacy_pb2.MigrationV2ServicePerformRequest(**asked)).read(),
    ):
        with pytest.raises(InvalidState, match="cookie"):
            await two_hosts.source.connection._ask(call)
    assert [] == await two_hosts.source.connection.jobs()
    await two_hosts.lives(two_hosts.source)


# -- virDomainMigrate and virDomainMigrate2 with PEER2PEER (specification 2.3 step 3) ------------------------------------


@pytest.mark.parametrize("what", [{}, FIXED, ONE, TWO], ids=["all", "protocol 3, fixed", "protocol 1", "protocol 2"])
async def test_both_connections_and_peer_to_peer(two_hosts: TwoHosts, what: dict[str, object]) -> None:
    """2.3 step 3: one call to the source, the destination's connection names the daemon, and it is asked for the guest."""
    await announce(two_hosts.source, what)
    params = MigrationParams(destination_name="moved")
    async with two_hosts.source.dial(Spelling.FIXED) as source:
        done = await source.migrate(NAME, two_hosts.destination.connection, flags=P2P, params=params)
    assert await two_hosts.destination.connection.domain("moved") == done.domain
    await two_hosts.lives(two_hosts.destination)


async def test_the_only_uri_names_the_daemon(two_hosts: TwoHosts) -> None:
    """2.3 step 3: the URI of virDomainMigrate is where the source finds the daemon, if the client finds it elsewhere."""
    reached = two_hosts.destination.connection
    elsewhere = Connection(parse_uri("vmferry+tcp://as.the.client.sees.it"), reached.channel)
    async with two_hosts.source.dial(Spelling.FIXED) as source:
        with pytest.raises(PeerUnreachable):
            await source.migrate(NAME, elsewhere, flags=P2P)
        await source.migrate(NAME, elsewhere, flags=P2P, uri=uri_of(two_hosts.destination))
    await two_hosts.lives(two_hosts.destination)


async def test_a_daemon_that_would_be_the_source_itself(two_hosts: TwoHosts) -> None:
    """2.5 step 1: a URI that means the source's own host is refused before anything is asked."""
    itself = Connection(parse_uri("vmferry+tcp://localhost:1"), two_hosts.destination.connection.channel)
    async with two_hosts.source.dial(Spelling.FIXED) as source:
        with pytest.raises(InvalidParameter, match="own host"):
            await source.migrate(NAME, itself, flags=P2P)
    assert [] == await two_hosts.source.connection.jobs()
    await two_hosts.lives(two_hosts.source)


async def test_a_guest_that_ended_at_once(two_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """2.3 step 3: a guest that the destination does not know any more lives nowhere, and the caller hears it."""

    async def gone(_: str) -> NoReturn:
        raise DomainNotFound("no such domain")

    monkeypatch.setattr(two_hosts.destination.connection, "domain", gone)
    async with two_hosts.source.dial(Spelling.FIXED) as source:
        with pytest.raises(DomainNotFound) as caught:
            await source.migrate(NAME, two_hosts.destination.connection, flags=P2P)
    assert GuestLocation.NOWHERE is caught.value.guest


async def test_a_destination_that_falls_silent_at_the_end(two_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """2.3 step 3: the guest was taken, so that it cannot be looked up is a warning."""

    async def silent(_: str) -> NoReturn:
        raise PeerUnreachable("nobody answers")

    monkeypatch.setattr(two_hosts.destination.connection, "domain", silent)
    async with two_hosts.source.dial(Spelling.FIXED) as source:
        done = await source.migrate(NAME, two_hosts.destination.connection, flags=P2P)
    assert (NAME, 1) == (done.domain.name, len(done.warnings))


async def test_typed_parameters_do_not_leave_the_walk(two_hosts: TwoHosts) -> None:
    """2.2 step 3: with typed parameters the client walks itself, and is told of the call that does not."""
    with pytest.raises(InvalidParameter, match="coordinates by itself"):
        await two_hosts.migrate(P2P)
    await two_hosts.lives(two_hosts.source)
