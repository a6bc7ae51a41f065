"""TUNNELLED: the state travels inside the daemons' own connection, and Prepare names no address."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import aio

from scenario.by_hand import ByHand
from scenario.test_peer_to_peer import P2P, sent
from scenario.test_protocols import ALL, FIXED, ONE, TWO, WALKS, Calls, calls, speaking
from support.daemons import NAME, TwoHosts
from vmferry import wire
from vmferry.api.v1 import legacy_pb2, legacy_pb2_grpc, migration_pb2, migration_pb2_grpc
from vmferry.calls import translated
from vmferry.errors import FateUnknown, InvalidParameter, NotSupported, VmferryError
from vmferry.flags import Flag
from vmferry.params import MigrationParams

__all__ = ["calls"]

TUNNEL = Flag.LIVE | Flag.TUNNELLED


@pytest.mark.parametrize(
    ("what", "service"), [(TWO, "MigrationV2Service"), (FIXED, "MigrationService"), (ALL, "Params")], ids=["2", "3", "params"]
)
async def test_its_own_prepare(calls: Calls, two_hosts: TwoHosts, what: dict[str, Any], service: str) -> None:
    """The walk is the same in each protocol, with PrepareTunnel in Prepare's place."""
    await speaking(two_hosts, what)
    done = await two_hosts.migrate(TUNNEL)
    await two_hosts.lives(two_hosts.destination)
    assert () == done.warnings
    assert [call.replace("Tunnel", "") for _, call in calls.heard] == WALKS[service]
    assert ["Tunnel" in call for _, call in calls.heard] == ["Prepare" in call for call in WALKS[service]]


async def test_peer_to_peer(calls: Calls, two_hosts: TwoHosts) -> None:
    """A daemon that coordinates calls PrepareTunnel, too."""
    await sent(two_hosts, P2P | Flag.TUNNELLED)
    await two_hosts.lives(two_hosts.destination)
    assert ["PerformParams", "PrepareTunnelParams", "FinishParams"] == [call for _, call in calls.heard]


async def test_protocol_1_has_none(two_hosts: TwoHosts) -> None:
    """It is refused before anything happens, with what helps."""
    await speaking(two_hosts, ONE)
    with pytest.raises(NotSupported, match="protocol 1 has no tunnel"):
        await two_hosts.migrate(TUNNEL)
    await two_hosts.lives(two_hosts.source)


async def test_prepare_with_the_flag(two_hosts: TwoHosts) -> None:
    """Who calls Prepare by hand with TUNNELLED gets a tunnel as well; its address is the daemon's own."""
    walk = ByHand(two_hosts, flags=TUNNEL)
    await walk.begin()
    assert (await walk.prepare()).uri == str(two_hosts.destination.config.reached_at)
    await walk.perform()
    await two_hosts.lives_at_last(walk)


async def test_prepare_tunnel_by_hand(two_hosts: TwoHosts) -> None:
    """Any consumer can call it between Begin and Perform; it answers a cookie and no address."""
    walk = ByHand(two_hosts, flags=TUNNEL)
    begun = await walk.begin()
    stub = migration_pb2_grpc.MigrationServiceStub(two_hosts.destination.connection.channel)
    answer = await stub.PrepareTunnel(
        migration_pb2.PrepareTunnelRequest(
            migration_id=walk.migration_id, cookie=begun.cookie, domain_xml=begun.domain_xml, flags=int(TUNNEL)
        )
    )
    assert b"ticket" in answer.cookie
    await walk.prepare()  # a repetition, in whatever form, gets the recorded answer
    await walk.perform()
    await two_hosts.lives_at_last(walk)


async def _error(call: Any) -> VmferryError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return translated(caught.value, FateUnknown)


async def test_prepare_tunnel_without_the_flag(two_hosts: TwoHosts) -> None:
    """A call for a tunnel whose flags want none is refused, in every spelling."""
    walk = ByHand(two_hosts)
    begun = await walk.begin()
    channel = two_hosts.destination.connection.channel
    v3, v2 = migration_pb2_grpc.MigrationServiceStub(channel), legacy_pb2_grpc.MigrationV2ServiceStub(channel)
    for call in (
        v3.PrepareTunnel(migration_pb2.PrepareTunnelRequest(migration_id=walk.migration_id, cookie=begun.cookie)),
        v3.PrepareTunnelParams(migration_pb2.PrepareTunnelParamsRequest(migration_id=walk.migration_id)),
        v2.PrepareTunnel(legacy_pb2.MigrationV2ServicePrepareTunnelRequest(migration_id=walk.migration_id)),
    ):
        assert isinstance(await _error(call), InvalidParameter)


@pytest.mark.parametrize("params", [MigrationParams(migrate_uri="tcp:host-b"), MigrationParams(listen_address="127.0.0.1")])
async def test_addresses_are_refused(two_hosts: TwoHosts, params: MigrationParams) -> None:
    """A tunnel has no address: neither the client nor a daemon that is called by hand takes one together with it."""
    with pytest.raises(NotSupported, match="do not fit"):
        await two_hosts.migrate(TUNNEL, params)
    walk = ByHand(two_hosts, flags=TUNNEL)
    begun = await walk.begin()
    stub = migration_pb2_grpc.MigrationServiceStub(two_hosts.destination.connection.channel)
    given = wire.params_to_wire(params) + wire.params_to_wire(MigrationParams(destination_xml=begun.domain_xml))
    for message, call in (
        (migration_pb2.PrepareTunnelParamsRequest, stub.PrepareTunnelParams),
        (migration_pb2.PrepareParamsRequest, stub.PrepareParams),
    ):
        asked = message(migration_id=walk.migration_id, cookie=begun.cookie, flags=int(TUNNEL), params=given)
        assert isinstance(await _error(call(asked)), NotSupported)
    await walk.prepare()
    await walk.perform()
    await two_hosts.lives_at_last(walk)
    assert NAME == (await two_hosts.destination.connection.domain(NAME)).name
