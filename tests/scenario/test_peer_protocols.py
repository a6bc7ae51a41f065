"""Peer-to-peer where the daemons announce less than they can: protocol 2 towards the peer, and what is refused."""

from __future__ import annotations

import pytest

from scenario.test_peer_to_peer import P2P, hung, sent, uri_of
from scenario.test_protocols import FIXED, ONE, TWO, WALKS, Calls, announce, calls
from support.daemons import NAME, TwoHosts
from vmferry.api.v1 import legacy_pb2, legacy_pb2_grpc
from vmferry.errors import InvalidParameter, MigrationCancelled, NoCommonProtocol, NotSupported, VmferryError
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
    assert {} == second.source.daemon.source._migrations


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
    """A source that announces old protocols alone cannot be asked to coordinate, and the error says what to do."""
    await announce(two_hosts.source, what)
    with pytest.raises(NotSupported, match="coordinate") as caught:
        await sent(two_hosts)
    assert "PEER2PEER" in caught.value.remedy
    await two_hosts.lives(two_hosts.source)


async def test_old_call_with_the_flag(two_hosts: TwoHosts) -> None:
    """The source's calls of an old protocol refuse PEER2PEER, which they could not honour."""
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
