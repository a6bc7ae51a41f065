"""Migrations that the source's daemon coordinates: callers come and go, peers fall silent, daemons restart."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable

import pytest

from support.daemons import IMPATIENT, NAME, Host, TwoHosts
from support.waiting import eventually
from vmferry.attempt import Attempt
from vmferry.endpoint import ProgressListener, Request, ignore_progress
from vmferry.errors import (
    CookieRefused,
    FateUnknown,
    HostIncompatible,
    InDoubt,
    InvalidParameter,
    InvalidState,
    MigrationCancelled,
    MigrationNotFound,
    NotSupported,
    PeerUnreachable,
    VmferryError,
)
from vmferry.features import Answers, Feature
from vmferry.flags import Flag
from vmferry.migrate import Migrated
from vmferry.model import (
    DomainState,
    GuestLocation,
    JobType,
    MigrationId,
    Outcome,
    Phase,
    StateReason,
    new_migration_id,
)
from vmferry.params import MigrationParams
from vmferry.protocol import Spelling
from vmferryd.drivers.memory import FaultKind, Verb

P2P = Flag.LIVE | Flag.PEER2PEER


def uri_of(host: Host) -> str:
    """Where the other daemon finds it."""
    return str(host.settings["listen"])


async def sent(
    hosts: TwoHosts,
    flags: Flag = P2P,
    params: MigrationParams | None = None,
    migration_id: MigrationId | None = None,
    listener: ProgressListener = ignore_progress,
) -> Migrated:
    """The guest has been moved to the destination by the source's daemon."""
    return await hosts.source.connection.migrate_to_uri(
        NAME,
        uri_of(hosts.destination),
        flags=flags,
        params=params,
        attempt=Attempt(migration_id or new_migration_id(), listener, IMPATIENT),
    )


async def hung(hosts: TwoHosts, verb: Verb, moving: Awaitable[Migrated], host: Host | None = None) -> asyncio.Task[Migrated]:
    """The migration goes on, and a hypervisor hangs at `verb`."""
    machine = (host or hosts.source).machine
    machine.faults.once(verb, FaultKind.HANG)
    task = asyncio.ensure_future(moving)
    await eventually(lambda: machine.faults.hanging == 1)
    return task


async def left(task: asyncio.Task[Migrated]) -> None:
    """The caller is gone."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def request_for(hosts: TwoHosts, **facts: object) -> Request:
    """A Perform as the wire has it."""
    plain = Request(new_migration_id(), NAME, P2P, destination_daemon_uri=uri_of(hosts.destination))
    return Request(**{name: getattr(plain, name) for name in plain.__dataclass_fields__} | facts)  # type: ignore[arg-type]


# -- success -----------------------------------------------------------------------------------------------------------


async def test_live(two_hosts: TwoHosts) -> None:
    """One call moves a live guest; whoever listens hears of the five phases; both hosts have one job, and it is over."""
    heard: list[Phase] = []
    migration_id = new_migration_id()
    done = await sent(two_hosts, migration_id=migration_id, listener=lambda progress: heard.append(progress.phase))
    await two_hosts.lives(two_hosts.destination)
    assert (migration_id, NAME, DomainState.RUNNING, ()) == (
        done.migration_id,
        done.domain.name,
        done.domain.state,
        done.warnings,
    )
    assert done.statistics.memory_processed_bytes > 0
    assert done.statistics.guest_pause_ms > 0
    assert list(Phase) == list(dict.fromkeys(heard))
    for host in two_hosts.hosts:
        assert [(migration_id, JobType.COMPLETED)] == [(j.migration_id, j.type) for j in await host.connection.jobs()]
    assert {} == two_hosts.source.daemon.source.migrations.unfinished


async def test_there_and_back(two_hosts: TwoHosts) -> None:
    """A guest that was moved can be moved back, in either mode."""
    await sent(two_hosts)
    await two_hosts.lives(two_hosts.destination)
    back = two_hosts.destination.connection
    await back.migrate_to_uri(NAME, uri_of(two_hosts.source), flags=P2P)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_fixed_spelling(two_hosts: TwoHosts) -> None:
    """A client of the fixed spelling asks with one Perform."""
    params = MigrationParams(destination_name="moved", bandwidth_mib_per_s=100)
    async with two_hosts.source.dial(Spelling.FIXED) as source:
        done = await source.migrate_to_uri(NAME, uri_of(two_hosts.destination), flags=P2P | Flag.PERSIST_DEST, params=params)
    await two_hosts.lives(two_hosts.destination)
    assert ("moved", True) == (done.domain.name, done.domain.persistent)


async def test_paused_guest(two_hosts: TwoHosts) -> None:
    """A guest that was paused by its user is paused at the destination."""
    await two_hosts.source.connection.suspend(NAME)
    done = await sent(two_hosts)
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)
    assert (DomainState.PAUSED, StateReason.USER) == (done.domain.state, done.domain.reason)


async def test_what_the_destination_is_told(two_hosts: TwoHosts) -> None:
    """The definition to keep travels in the cookie, the flags and parameters of the source alone do not travel at all."""
    asked: list[Request] = []
    phases = two_hosts.destination.daemon.destination
    prepare = phases.prepare

    async def overheard(request: Request) -> object:
        asked.append(request)
        return await prepare(request)

    phases.prepare = overheard  # type: ignore[method-assign, assignment]
    stored = (await two_hosts.source.connection.stored_xml(NAME)).replace("</name>", "</name><title>kept</title>")
    params = MigrationParams(persistent_xml=stored, bandwidth_mib_per_s=100, auto_converge_initial_percent=30)
    flags = P2P | Flag.PERSIST_DEST | Flag.CHANGE_PROTECTION | Flag.AUTO_CONVERGE
    await sent(two_hosts, flags, params)
    await two_hosts.lives(two_hosts.destination)
    (told,) = asked
    assert P2P | Flag.PERSIST_DEST == told.flags
    assert (None, None, 100) == (
        told.params.persistent_xml,
        told.params.auto_converge_initial_percent,
        told.params.bandwidth_mib_per_s,
    )
    assert "<title>kept</title>" in await two_hosts.destination.connection.stored_xml(NAME)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"cookie": b"<cookie/>"}, InvalidState),
        ({"destination_daemon_uri": ""}, InvalidParameter),
        ({"flags": Flag.LIVE}, InvalidParameter),
        ({"domain": ""}, InvalidParameter),
        ({"domain": "nobody"}, VmferryError),
        ({"destination_daemon_uri": "qemu+ssh://host/system"}, InvalidParameter),
        ({"destination_daemon_uri": "vmferry+unix:///nowhere/at/all"}, PeerUnreachable),
        ({"flags": P2P | Flag.OFFLINE}, InvalidParameter),
        ({"flags": P2P | Flag.TLS}, NotSupported),
    ],
)
@pytest.mark.parametrize("spelling", Spelling)
async def test_refused(two_hosts: TwoHosts, facts: dict[str, object], error: type[VmferryError], spelling: Spelling) -> None:
    """What cannot be right is refused before anything is touched, and leaves no walk behind."""
    async with two_hosts.source.dial(spelling) as source:
        with pytest.raises(error):
            await source.perform(request_for(two_hosts, **facts), ignore_progress)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_same_host(two_hosts: TwoHosts) -> None:
    """A daemon is no destination for itself."""
    with pytest.raises(CookieRefused, match="same host"):
        await two_hosts.source.connection.migrate_to_uri(NAME, uri_of(two_hosts.source), flags=P2P)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("uri", ["", "vmferry+tcp://localhost:1", "no uri"])
async def test_uri_that_means_the_source(two_hosts: TwoHosts, uri: str) -> None:
    """A URI that is missing, wrong, or means the source's own host is refused by the client already."""
    with pytest.raises(InvalidParameter):
        await two_hosts.source.connection.migrate_to_uri(NAME, uri, flags=P2P)


async def test_without_the_flag(two_hosts: TwoHosts) -> None:
    """A forgotten PEER2PEER is refused, and the error says what to add; Begin never takes it."""
    with pytest.raises(VmferryError) as caught:
        await sent(two_hosts, Flag.LIVE)
    assert "PEER2PEER" in caught.value.remedy
    with pytest.raises(InvalidParameter):
        await two_hosts.migrate(P2P)


async def test_features(two_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both hosts announce the feature, and a destination that does not is refused before Begin."""
    for host in two_hosts.hosts:
        assert (await host.connection.answers()).has(Feature.MIGRATION_P2P)
    old = Answers.of(Feature.MIGRATION_V3, host="old")

    async def answers(_: object) -> Answers:
        return old

    asked = await two_hosts.source.connection.answers()
    monkeypatch.setattr("vmferry.client.Connection.answers", answers)
    with pytest.raises(VmferryError, match="MIGRATION_P2P"):
        await two_hosts.source.connection.perform(request_for(two_hosts), ignore_progress)
    assert asked.has(Feature.MIGRATION_PARAMS)
    assert [] == await two_hosts.source.connection.jobs()
    await two_hosts.lives(two_hosts.source)


# -- callers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "at_source"), [(Verb.SEND, True), (Verb.ROUND, True), (Verb.ACCEPT, False)])
async def test_caller_leaves(two_hosts: TwoHosts, verb: Verb, at_source: bool) -> None:
    """The migration goes on without its caller, for longer than any lease, and succeeds."""
    two_hosts.source.limit(phase_lease_s=0.2, coordinator_grace_s=0.05)
    await two_hosts.source.restart()
    host = two_hosts.source if at_source else two_hosts.destination
    await left(await hung(two_hosts, verb, sent(two_hosts), host))
    await asyncio.sleep(0.5)
    host.machine.faults.release()
    await two_hosts.lives(two_hosts.destination)


async def test_caller_comes_back(two_hosts: TwoHosts) -> None:
    """Who asks again for the same migration joins it, hears of all its phases, and gets its end; so does `job watch`."""
    migration_id = new_migration_id()
    await left(await hung(two_hosts, Verb.ROUND, sent(two_hosts, migration_id=migration_id)))
    heard: list[Phase] = []
    joined = [
        asyncio.create_task(sent(two_hosts, migration_id=migration_id, listener=lambda p: heard.append(p.phase)))
        for _ in range(2)
    ]

    async def watched() -> JobType:
        last = None
        async for event in two_hosts.source.connection.watch(migration_id):
            last = event.job.type
        assert last is not None
        return last

    watching = asyncio.create_task(watched())
    await eventually(lambda: heard.count(Phase.PERFORM) >= 2)
    two_hosts.source.machine.faults.release()
    first, second = await asyncio.gather(*joined)
    assert first.domain == second.domain
    assert JobType.COMPLETED is await watching
    await two_hosts.lives(two_hosts.destination)
    assert 1 == len(await two_hosts.source.connection.jobs())


async def test_caller_comes_back_when_all_is_over(two_hosts: TwoHosts) -> None:
    """The end is known for as long as the record is kept, through a restart; another domain's migration is not joined."""
    migration_id = new_migration_id()
    done = await sent(two_hosts, migration_id=migration_id)
    for _ in range(2):
        again = await sent(two_hosts, migration_id=migration_id)
        assert (done.domain, migration_id) == (again.domain, again.migration_id)
        await two_hosts.source.restart()
    with pytest.raises(InvalidParameter):
        await two_hosts.source.connection.migrate_to_uri(
            "other", uri_of(two_hosts.destination), flags=P2P, attempt=Attempt(migration_id)
        )


async def test_joining_another_migration_is_refused(two_hosts: TwoHosts) -> None:
    """The id of a migration under way names that one only."""
    migration_id = new_migration_id()
    moving = await hung(two_hosts, Verb.ROUND, sent(two_hosts, migration_id=migration_id))
    with pytest.raises(InvalidParameter):
        await two_hosts.source.connection.migrate_to_uri(
            NAME, "vmferry+unix:///elsewhere", flags=P2P, attempt=Attempt(migration_id)
        )
    two_hosts.source.machine.faults.release()
    await moving
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize(("verb", "at_source"), [(Verb.ROUND, True), (Verb.ACCEPT, False)])
async def test_abort(two_hosts: TwoHosts, verb: Verb, at_source: bool) -> None:
    """A user's abort ends it, whatever phase it is in, and the caller is told so; a later caller, too."""
    migration_id = new_migration_id()
    host = two_hosts.source if at_source else two_hosts.destination
    moving = await hung(two_hosts, verb, sent(two_hosts, migration_id=migration_id), host)
    assert Outcome.ABORTED is await two_hosts.source.connection.abort_job(migration_id)
    host.machine.faults.release()
    with pytest.raises(MigrationCancelled) as caught:
        await moving
    assert GuestLocation.SOURCE is caught.value.guest
    with pytest.raises(MigrationCancelled):
        await sent(two_hosts, migration_id=migration_id)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_abort_of_nothing(two_hosts: TwoHosts) -> None:
    """A migration that is not there cannot be ended."""
    with pytest.raises(MigrationNotFound):
        await two_hosts.source.connection.abort_job(new_migration_id())


# -- the peer ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND, Verb.HELD])
async def test_peer_stops_in_the_transfer(two_hosts: TwoHosts, verb: Verb) -> None:
    """A peer that goes away in mid-transfer ends it, and the guest runs on at the source."""
    moving = await hung(two_hosts, verb, sent(two_hosts))
    await two_hosts.destination.stop()
    two_hosts.source.machine.faults.release()
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_silent_peer_in_the_transfer(two_hosts: TwoHosts) -> None:
    """A peer that does not answer any more while the state is sent is waited for only so long."""
    two_hosts.source.limit(peer_silence_s=0.3, peer_call_s=0.1)
    await two_hosts.source.restart()
    moving = await hung(two_hosts, Verb.ROUND, sent(two_hosts))

    async def silence(_: object) -> None:
        await asyncio.Event().wait()

    outcome = two_hosts.destination.daemon.destination.outcome
    two_hosts.destination.daemon.destination.outcome = silence  # type: ignore[method-assign, assignment]
    with pytest.raises(MigrationCancelled, match="lost the connection"):
        await moving
    two_hosts.destination.daemon.destination.outcome = outcome  # type: ignore[method-assign]
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_peer_stops_before_the_last_part(two_hosts: TwoHosts) -> None:
    """Past the point of no return the source keeps its copy still until the peer's journal has answered."""
    moving = await hung(two_hosts, Verb.LAST_PART, sent(two_hosts))
    await two_hosts.destination.stop()
    two_hosts.source.machine.faults.release()
    with pytest.raises((InDoubt, FateUnknown)) as caught:
        await moving
    assert GuestLocation.IN_DOUBT is caught.value.guest
    assert not two_hosts.source.guest().cpu.running
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize(
    ("verb", "kind", "at_source"),
    [
        (Verb.ACCEPT, FaultKind.REFUSE, False),
        (Verb.RECEIVE, FaultKind.LOSE_BEFORE, False),
        (Verb.RECEIVED, FaultKind.KILL_BEFORE, False),
        (Verb.SEND, FaultKind.REFUSE, True),
        (Verb.ROUND, FaultKind.FAIL_TRANSFER, True),
        (Verb.HELD, FaultKind.LOSE_AFTER, True),
        (Verb.LET_GO, FaultKind.FAIL_TRANSFER, True),
    ],
)
async def test_failing_phases(two_hosts: TwoHosts, verb: Verb, kind: FaultKind, at_source: bool) -> None:
    """A hypervisor that fails in any phase leaves the guest running at the source, and the error says so."""
    (two_hosts.source if at_source else two_hosts.destination).machine.faults.once(verb, kind)
    with pytest.raises(VmferryError) as caught:
        await sent(two_hosts)
    assert GuestLocation.SOURCE is caught.value.guest
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_definition_of_another_machine(two_hosts: TwoHosts) -> None:
    """A definition that would be another machine is refused, and the guest is untouched."""
    xml = re.sub(r"(<vcpu[^>]*>)1<", r"\g<1>2<", await two_hosts.source.connection.xml(NAME))
    with pytest.raises(HostIncompatible) as caught:
        await sent(two_hosts, params=MigrationParams(destination_xml=xml))
    assert GuestLocation.SOURCE is caught.value.guest
    await two_hosts.lives(two_hosts.source)


# -- the source's daemon -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND, Verb.HELD])
async def test_source_restarts_in_the_transfer(two_hosts: TwoHosts, verb: Verb) -> None:
    """A coordinator that restarts takes its guest back; a caller that comes back is told that it was ended."""
    two_hosts.destination.limit(phase_lease_s=2.0)
    await two_hosts.destination.restart()
    migration_id = new_migration_id()
    moving = await hung(two_hosts, verb, sent(two_hosts, migration_id=migration_id))
    await two_hosts.source.stop()
    two_hosts.source.machine.faults.release()
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.source)
    with pytest.raises(VmferryError) as caught:
        await sent(two_hosts, migration_id=migration_id)
    assert GuestLocation.SOURCE is caught.value.guest
    assert "cancelled" == await two_hosts.source.state(migration_id)
    await two_hosts.again()


async def test_source_restarts_after_the_commit(two_hosts: TwoHosts) -> None:
    """A coordinator that restarts when the guest has gone hears of it, and whoever comes back hears of it, too."""
    migration_id = new_migration_id()
    moving = await hung(two_hosts, Verb.RESUME, sent(two_hosts, migration_id=migration_id), two_hosts.destination)
    await two_hosts.source.stop()
    two_hosts.destination.machine.faults.release()
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.destination)
    done = await sent(two_hosts, migration_id=migration_id)
    assert DomainState.RUNNING is done.domain.state
