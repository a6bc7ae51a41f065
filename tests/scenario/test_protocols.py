"""Every protocol moves a guest, as the two daemons announce; what fails under protocols 1 and 2 ends as it does under 3."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from scenario.test_departures import ended, hung
from scenario.test_hypervisor_failures import HERE, THERE
from support.daemons import NAME, UUID, Host, TwoHosts, domain_xml
from support.waiting import eventually
from vmferry.api.v1 import host_pb2, host_pb2_grpc, legacy_pb2, legacy_pb2_grpc
from vmferry.errors import (
    CookieRefused,
    DomainNotFound,
    FateUnknown,
    HostIncompatible,
    InDoubt,
    InvalidParameter,
    InvalidState,
    NoCommonProtocol,
    NotSupported,
    PeerUnreachable,
    VmferryError,
)
from vmferry.features import Feature
from vmferry.flags import NONE, Flag
from vmferry.model import DomainState, GuestLocation, Outcome, StateReason, new_migration_id
from vmferry.params import MigrationParams
from vmferry.protocol import Spelling
from vmferryd.config import load
from vmferryd.drivers.memory import FaultKind, Verb

ONE: dict[str, Any] = {"protocols": [1], "params": False}
TWO: dict[str, Any] = {"protocols": [2], "params": False}
FIXED: dict[str, Any] = {"protocols": [3], "params": False}
PARAMS: dict[str, Any] = {"protocols": [], "params": True}
ALL: dict[str, Any] = {}
NOTHING: dict[str, Any] = {"protocols": [], "params": False, "features": []}

WALKS = {
    "MigrationV1Service": ["Prepare", "Perform", "Finish"],
    "MigrationV2Service": ["Describe", "Prepare", "Perform", "Finish"],
    "MigrationService": ["Begin", "Prepare", "Perform", "Finish", "Confirm"],
    "Params": ["BeginParams", "PrepareParams", "PerformParams", "FinishParams", "ConfirmParams"],
}


async def announce(host: Host, what: dict[str, Any]) -> None:
    """The host has a daemon that announces `what`."""
    host.settings["announce"] = what
    await host.restart()


async def speaking(hosts: TwoHosts, what: dict[str, Any]) -> None:
    """Both daemons announce `what`; where no definition travels, the destination has one."""
    for host in hosts.hosts:
        await announce(host, what)
    if what is ONE:
        await hosts.destination.connection.define(await hosts.source.connection.xml(NAME))


@pytest.fixture(params=[ONE, TWO], ids=["protocol 1", "protocol 2"])
async def old(two_hosts: TwoHosts, request: pytest.FixtureRequest) -> TwoHosts:
    """Two hosts whose daemons share an old protocol alone."""
    await speaking(two_hosts, request.param)
    return two_hosts


@pytest.fixture
async def first(two_hosts: TwoHosts) -> TwoHosts:
    """Two hosts whose daemons share protocol 1 alone."""
    await speaking(two_hosts, ONE)
    return two_hosts


@pytest.fixture
async def second(two_hosts: TwoHosts) -> TwoHosts:
    """Two hosts whose daemons share protocol 2 alone."""
    await speaking(two_hosts, TWO)
    return two_hosts


class Calls(grpc.aio.ServerInterceptor):
    """The migration calls that came to a host, in their order."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    async def intercept_service(self, continuation, details):
        """Writes the call down."""
        _, service, call = details.method.split("/")
        if ".Migration" in service:
            self.heard.append((service.rpartition(".")[2], call))
        return await continuation(details)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What daemons that start from now on are called."""
    heard, make = Calls(), grpc.aio.server
    monkeypatch.setattr(
        "grpc.aio.server", lambda *, interceptors, options: make(interceptors=[*interceptors, heard], options=options)
    )
    return heard


# -- every protocol moves a guest --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination", "service"),
    [
        (ONE, ONE, "MigrationV1Service"),
        (TWO, TWO, "MigrationV2Service"),
        (FIXED, FIXED, "MigrationService"),
        (PARAMS, PARAMS, "Params"),
        (ALL, ALL, "Params"),
        (ALL, FIXED, "MigrationService"),
        (FIXED, ALL, "MigrationService"),
        (ALL, TWO, "MigrationV2Service"),
        (TWO, ALL, "MigrationV2Service"),
        (ALL, ONE, "MigrationV1Service"),
        (ONE, ALL, "MigrationV1Service"),
        ({"protocols": [1, 2, 3], "params": False}, {"protocols": [1, 2], "params": True}, "MigrationV2Service"),
        ({"protocols": [1, 3], "params": False}, {"protocols": [1, 2], "params": False}, "MigrationV1Service"),
    ],
)
async def test_best_common_protocol(
    calls: Calls, two_hosts: TwoHosts, source: dict[str, Any], destination: dict[str, Any], service: str
) -> None:
    """The guest moves by the best protocol that both daemons announce, with that protocol's calls and no others."""
    await announce(two_hosts.source, source)
    await announce(two_hosts.destination, destination)
    if service == "MigrationV1Service":
        await two_hosts.destination.connection.define(domain_xml())
    done = await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    assert () == done.warnings
    assert done.statistics.guest_pause_ms > 0
    assert done.statistics.memory_processed_bytes > 0
    assert {service.replace("Params", "MigrationService")} == {name for name, _ in calls.heard}
    assert WALKS[service] == [call for _, call in calls.heard]


async def test_there_and_back(old: TwoHosts) -> None:
    """A guest that was moved by an old protocol can be moved back at once, again and again."""
    for here, there in 2 * (old.hosts, old.hosts[::-1]):
        await here.connection.migrate(NAME, there.connection, flags=Flag.LIVE)
        await old.lives(there)


async def test_not_live(old: TwoHosts) -> None:
    """Without LIVE the guest stands still for the whole transfer, and then runs at the destination."""
    await old.migrate(NONE)
    await old.lives(old.destination)


async def test_paused_guest(old: TwoHosts) -> None:
    """A guest that was paused by its user is paused at the destination, also where no Begin is called."""
    await old.source.connection.suspend(NAME)
    await old.migrate()
    await old.lives(old.destination, DomainState.PAUSED)


async def test_persist_and_undefine(old: TwoHosts) -> None:
    """PERSIST_DEST stores the definition at the destination, UNDEFINE_SOURCE removes it at the source."""
    done = await old.migrate(Flag.LIVE | Flag.PERSIST_DEST | Flag.UNDEFINE_SOURCE)
    await old.lives(old.destination)
    assert done.domain.persistent
    assert [] == await old.source.connection.domains()


async def test_rename_by_protocol_2(second: TwoHosts) -> None:
    """Protocol 2 can give the domain another name at the destination."""
    done = await second.migrate(params=MigrationParams(destination_name="moved", bandwidth_mib_per_s=100))
    await second.lives(second.destination)
    assert "moved" == done.domain.name


async def test_rename_by_protocol_1(first: TwoHosts) -> None:
    """Protocol 1 takes the definition that is stored under the new name."""
    await first.destination.connection.undefine(NAME)
    await first.destination.connection.define(domain_xml("moved"))
    done = await first.migrate(params=MigrationParams(destination_name="moved"))
    await first.lives(first.destination)
    assert "moved" == done.domain.name


async def test_protection_that_is_lost_is_a_warning(old: TwoHosts) -> None:
    """A protection that the protocol does not have is said to be missing."""
    done = await old.migrate(Flag.LIVE | Flag.CHANGE_PROTECTION)
    assert ["cannot protect" in warning for warning in done.warnings] == [True]


async def test_id_that_nobody_proposes(old: TwoHosts) -> None:
    """Who proposes no migration id gets one from the first call."""
    if old.source.settings["announce"] is ONE:
        stub = legacy_pb2_grpc.MigrationV1ServiceStub(old.destination.connection.channel)
        reply = await stub.Prepare(legacy_pb2.MigrationV1ServicePrepareRequest(domain=NAME))
        assert "prepared" == await old.destination.state(reply.migration_id)
        await old.destination.connection.abort(reply.migration_id, "enough")
    else:
        stub = legacy_pb2_grpc.MigrationV2ServiceStub(old.source.connection.channel)
        described = await stub.Describe(legacy_pb2.MigrationV2ServiceDescribeRequest(domain=NAME))
        assert described.migration_id
        assert "" == await old.source.state(described.migration_id)
    await old.again()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination"), [(ONE, TWO), (TWO, FIXED), (FIXED, PARAMS), (NOTHING, ALL), (ALL, NOTHING)]
)
async def test_nothing_in_common(two_hosts: TwoHosts, source: dict[str, Any], destination: dict[str, Any]) -> None:
    """Daemons that share no protocol are told apart before anything is touched."""
    await announce(two_hosts.source, source)
    await announce(two_hosts.destination, destination)
    with pytest.raises(NoCommonProtocol) as caught:
        await two_hosts.migrate()
    assert GuestLocation.SOURCE is caught.value.guest
    assert ["source", "destination"] == [violation.subject for violation in caught.value.violations]
    await two_hosts.lives(two_hosts.source)


@pytest.mark.parametrize(
    "params", [MigrationParams(destination_xml=domain_xml()), MigrationParams(compression=("xbzrle",))], ids=["xml", "typed"]
)
async def test_what_an_old_protocol_cannot_carry(old: TwoHosts, params: MigrationParams) -> None:
    """A replacement definition and typed parameters are refused before anything is touched."""
    with pytest.raises(NotSupported):
        await old.migrate(params=params)
    await old.lives(old.source)
    await old.again()


async def test_daemon_that_cannot_be_asked_is_no_no(two_hosts: TwoHosts) -> None:
    """A destination that does not answer for its features is unreachable; no older protocol is tried."""
    await two_hosts.destination.stop()
    with pytest.raises(PeerUnreachable) as caught:
        await two_hosts.migrate()
    assert GuestLocation.SOURCE is caught.value.guest
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)


@pytest.mark.parametrize("what", [ONE, TWO, FIXED, PARAMS, NOTHING, ALL, {"features": [7]}])
async def test_features_follow_from_the_configuration(two_hosts: TwoHosts, what: dict[str, Any]) -> None:
    """What HostService answers is what `announce` says, asked for one by one or all at once."""
    await announce(two_hosts.source, what)
    expected = {
        feature
        for number, feature in ((1, Feature.MIGRATION_V1), (2, Feature.MIGRATION_V2), (3, Feature.MIGRATION_V3))
        if number in what.get("protocols", [1, 2, 3])
    }
    expected |= {Feature.MIGRATION_PARAMS} if what.get("params", True) else set()
    expected |= {Feature(number) for number in what.get("features", [4, 5, 7, 11, 12])}
    connection = two_hosts.source.connection
    assert expected == set((await connection.capabilities()).features)
    stub = host_pb2_grpc.HostServiceStub(connection.channel)
    for feature in Feature:
        reply = await stub.HasFeature(host_pb2.HasFeatureRequest(feature=feature))
        assert reply.supported == (feature in expected)
        assert (await connection.answers()).has(feature) == (feature in expected)


def test_feature_that_does_not_exist_is_not_announced() -> None:
    """A daemon does not announce what it cannot do."""
    with pytest.raises(InvalidParameter, match="FD_PASSING"):
        load(None, {"announce": {"features": [7, 8]}})
    with pytest.raises(InvalidParameter, match=r"announce\.protocols"):
        load(None, {"announce": {"protocols": [4]}})


@pytest.mark.parametrize(
    ("what", "setting"),
    [(TWO, "1 in announce.protocols"), (ONE, "2 in announce.protocols"), (PARAMS, "3 in"), (FIXED, "announce.params = true")],
)
async def test_call_that_is_not_announced(two_hosts: TwoHosts, what: dict[str, Any], setting: str) -> None:
    """A call that a daemon does not announce is refused although it was not asked before; the setting is named."""
    await announce(two_hosts.source, what)
    connection = two_hosts.source.connection
    service = {"1": "MigrationV1Service/Perform", "2": "MigrationV2Service/Describe", "3": "MigrationService/Begin"}.get(
        setting[0], "MigrationService/PerformParams"
    )
    method = f"/vmferry.api.v1.{service}"
    if "Perform" in method:
        call = connection.channel.unary_stream(method)(b"").read()
    else:
        call = connection.channel.unary_unary(method)(b"")
    with pytest.raises(NotSupported) as caught:
        await connection._ask(call)
    assert setting in caught.value.remedy
    assert "a" == caught.value.host


# -- protocol 1 has no definition --------------------------------------------------------------------------------------


async def test_protocol_1_without_a_definition(first: TwoHosts) -> None:
    """A destination that knows no definition of that name refuses, and says what helps."""
    await first.destination.connection.undefine(NAME)
    with pytest.raises(DomainNotFound) as caught:
        await first.migrate()
    assert "define the domain here first" in caught.value.remedy
    await first.lives(first.source)


async def test_protocol_1_with_a_definition_of_another_machine(first: TwoHosts) -> None:
    """The source refuses to send into a machine that its guest would see change; the destination is told at once."""
    await first.destination.connection.define(domain_xml().replace("<vcpu>1</vcpu>", "<vcpu>2</vcpu>"))
    with pytest.raises(HostIncompatible) as caught:
        await first.migrate()
    assert caught.value.violations
    await first.lives(first.source)
    await first.destination.connection.define(domain_xml())
    await first.again()


async def test_protocol_1_with_another_domain_of_that_name(first: TwoHosts) -> None:
    """A domain of the same name and another UUID is not this guest."""
    await first.destination.connection.undefine(NAME)
    await first.destination.connection.define(domain_xml(domain_uuid="00000000-0000-0000-0000-0000000000aa"))
    with pytest.raises(CookieRefused, match=UUID):
        await first.migrate()
    await first.lives(first.source)
    await eventually(lambda: first.destination.machine.leftovers() == [])


async def test_same_host(old: TwoHosts) -> None:
    """A migration to the host where the guest is is refused, and the guest runs on."""
    with pytest.raises(InvalidState, match="already"):
        await old.source.connection.migrate(NAME, old.source.connection, flags=Flag.LIVE)
    await old.lives(old.source)
    await old.again()


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "kind"), HERE)
async def test_source_fails(old: TwoHosts, verb: Verb, kind: FaultKind) -> None:
    """The guest runs on at the source, the error says so, and the next attempt succeeds at once."""
    old.source.machine.faults.once(verb, kind)
    with pytest.raises(VmferryError) as caught:
        await old.migrate()
    assert GuestLocation.SOURCE is caught.value.guest
    await old.lives(old.source)
    await old.again()


@pytest.mark.parametrize(("verb", "kind"), THERE)
async def test_destination_fails(old: TwoHosts, verb: Verb, kind: FaultKind) -> None:
    """The guest runs on at the source, the error says so, and the next attempt succeeds at once."""
    old.destination.machine.faults.once(verb, kind)
    with pytest.raises(VmferryError) as caught:
        await old.migrate()
    assert GuestLocation.SOURCE is caught.value.guest
    await old.lives(old.source)
    await old.again()


@pytest.mark.parametrize("kind", [FaultKind.REFUSE, FaultKind.LOSE_BEFORE, FaultKind.LOSE_AFTER])
@pytest.mark.parametrize(("side", "verb"), [("destination", Verb.RESUME), ("source", Verb.DESTROY)])
async def test_failure_after_the_commit(old: TwoHosts, side: str, verb: Verb, kind: FaultKind) -> None:
    """A commit is final: each host goes on trying until its part is done, and the guest lives at the destination."""
    host = old.source if side == "source" else old.destination
    host.machine.faults.once(verb, kind)
    await old.migrate()
    await old.lives(old.destination)


async def test_source_asks_without_hurrying_the_destination(old: TwoHosts) -> None:
    """A destination that takes its time to load is waited for: it is not asked for an abort meanwhile."""
    old.destination.machine.faults.once(Verb.RECEIVED, FaultKind.HANG)
    moving = asyncio.ensure_future(old.migrate())
    await eventually(lambda: old.destination.machine.faults.hanging == 1)
    await asyncio.sleep(0.3)  # several questions of the source
    old.destination.machine.faults.release()
    await moving
    await old.lives(old.destination)


async def test_destination_that_never_has_loaded(old: TwoHosts) -> None:
    """A destination that takes too long is asked for a tombstone, and then the guest runs on at the source."""
    old.source.limit(finish_s=0.3)
    await old.source.restart()
    old.destination.machine.faults.once(Verb.RECEIVED, FaultKind.HANG)
    moving = asyncio.ensure_future(old.migrate())
    await eventually(lambda: old.destination.machine.faults.hanging == 1)
    await asyncio.wait([moving])
    old.destination.machine.faults.release()
    assert isinstance(moving.exception(), VmferryError)
    await old.lives(old.source)
    await old.again()


@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND, Verb.LAST_PART])
async def test_client_leaves_in_perform(old: TwoHosts, verb: Verb) -> None:
    """Whatever the client has begun, the daemons end, and the guest runs in one place."""
    old.destination.limit(phase_lease_s=0.5)
    await old.destination.restart()
    moving = await hung(old.source, verb, old.migrate)
    await ended(moving)
    old.source.machine.faults.release()
    here = await old.lives_somewhere()
    if here is old.source:
        await old.again()


async def test_client_leaves_after_prepare(old: TwoHosts) -> None:
    """A guest that waits for a Perform that never comes is discarded when its lease runs out."""
    old.destination.limit(phase_lease_s=0.3)
    await old.destination.restart()

    def leave(progress: object) -> None:
        if getattr(progress, "phase", "") == "perform":
            raise KeyError

    with pytest.raises(KeyError):
        await old.migrate(listener=leave)
    await old.lives(old.source)
    await old.again()


@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND, Verb.HELD, Verb.LAST_PART])
async def test_source_restarts_in_perform(through_tunnel: TwoHosts, old: TwoHosts, verb: Verb) -> None:
    """A source daemon that restarts in mid-transfer finds out where the guest is."""
    moving = await hung(old.source, verb, old.migrate)
    await old.source.stop()
    old.source.machine.faults.release()
    await asyncio.wait([moving])
    assert isinstance(moving.exception(), VmferryError)
    await old.source.start()
    await old.lives(old.source)
    await old.again()


@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND, Verb.HELD])
async def test_destination_restarts_in_perform(old: TwoHosts, verb: Verb) -> None:
    """A destination daemon that goes away in mid-transfer ends it; after its restart nothing is left there."""
    moving = await hung(old.source, verb, old.migrate)
    await old.destination.stop()
    old.source.machine.faults.release()
    await asyncio.wait([moving])
    assert isinstance(moving.exception(), VmferryError)
    await old.destination.start()
    await old.lives(old.source)
    await old.again()


async def test_destination_stops_before_the_last_part(old: TwoHosts) -> None:
    """A source that has let go keeps its copy, whatever its protocol says, until the destination answers."""
    old.source.limit(finish_s=0.3, doubt_s=0.3)
    await old.source.restart()
    moving = await hung(old.source, Verb.LAST_PART, old.migrate)
    await old.destination.stop()
    old.source.machine.faults.release()
    await asyncio.wait([moving])
    error = moving.exception()
    assert isinstance(error, (InDoubt, FateUnknown)), error
    assert GuestLocation.IN_DOUBT is error.guest
    domain = await old.source.connection.domain(NAME)
    assert (DomainState.PAUSED, StateReason.IN_DOUBT) == (domain.state, domain.reason)
    await old.destination.start()
    await old.lives(old.source)
    await old.again()


async def test_destination_asks_a_source_that_no_cookie_named(old: TwoHosts) -> None:
    """A destination that holds everything and restarts knows its source from the data channel, asks it, and commits."""

    async def release(*_: object) -> Outcome:
        raise VmferryError("the word was lost on its way")

    old.destination.daemon.destination.release = release  # type: ignore[method-assign]
    migration_id = new_migration_id()
    moving = asyncio.ensure_future(old.migrate(migration_id=migration_id))

    async def received() -> bool:
        return await old.destination.state(migration_id) == "received"

    await eventually(received)
    await old.destination.restart()
    await asyncio.wait([moving])
    await old.lives(old.destination)


async def test_typed_parameters_are_left_out_of_a_fixed_connection(two_hosts: TwoHosts) -> None:
    """A connection that writes fixed arguments climbs the ladder of fixed calls only."""
    await announce(two_hosts.destination, PARAMS)
    async with two_hosts.source.dial(Spelling.FIXED) as source:
        with pytest.raises(NoCommonProtocol):
            await source.migrate(NAME, two_hosts.destination.connection, flags=Flag.LIVE)
