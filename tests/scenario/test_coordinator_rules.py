"""The coordinator's rules, step by step as the specification numbers them, where no other scenario names the step."""

from __future__ import annotations

import asyncio

import pytest

from scenario.scripted import ID, LOST, REFUSED, Scripted, walked
from scenario.test_peer_to_peer import hung, sent, uri_of
from scenario.test_protocols import ONE, TWO, announce
from support.daemons import NAME, UUID, TwoHosts
from support.waiting import eventually
from vmferry.endpoint import Request
from vmferry.errors import (
    DriverRefused,
    InternalError,
    MigrationCancelled,
    PeerUnreachable,
    TransferFailed,
    TransferStopped,
    VmferryError,
)
from vmferry.flags import NONE, Flag
from vmferry.migrate import Migrated
from vmferry.model import DomainState, GuestLocation, JobType, Outcome, Phase, new_migration_id
from vmferry.params import MigrationParams
from vmferry.protocol import PROFILES, Profile, ProtocolVersion, Spelling, peer_to_peer
from vmferryd.drivers.memory import FaultKind, Verb

V1, V2, V3 = (PROFILES[version] for version in ProtocolVersion)
P2P = Flag.LIVE | Flag.PEER2PEER
FAILED = lambda: TransferFailed("the transfer failed", detail="channel error")  # noqa: E731


def called(script: Scripted) -> list[str]:
    """The phases, in the order in which they were called."""
    return [
        line.split()[0].partition(".")[2] for line in script.transcript if line.split()[0].partition(".")[2] in set(Phase)
    ]


# -- 1.3 and 1.4: protocols 1 and 2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [V1, V2], ids=["1.3", "1.4"])
async def test_paused_is_added_before_prepare(profile: Profile) -> None:
    """1.3 step 1, 1.4 step 2: a paused guest's flag is in Prepare already, and the guest is looked at once."""
    script = Scripted(state=DomainState.PAUSED)
    await walked(profile, script, Request(ID, "web"))
    assert [True] == ["PAUSED" in line for line in script.transcript if line.startswith("destination.prepare")]
    assert 1 == script.transcript.count("source.domain")


async def test_no_uri_by_protocol_1() -> None:
    """1.3 step 2: without any URI it is an internal error, and nothing is cleaned up."""
    script = Scripted(uri="")
    assert isinstance(await walked(V1, script, Request(ID, "web")), InternalError)
    assert ["prepare"] == called(script)


async def test_no_uri_by_protocol_2() -> None:
    """1.4 step 3: without any URI it is an internal error, and the destination is told."""
    script = Scripted(uri="")
    assert isinstance(await walked(V2, script, Request(ID, "web")), InternalError)
    assert ["begin", "prepare", "finish"] == called(script)
    assert script.transcript[-1].endswith("roll-back")


async def test_a_failed_perform_by_protocol_1() -> None:
    """1.3 step 3: Finish is not called."""
    script = Scripted({Phase.PERFORM: [REFUSED()]})
    assert isinstance(await walked(V1, script, Request(ID, "web")), DriverRefused)
    assert ["prepare", "perform"] == called(script)


async def test_finish_does_not_overwrite_performs_error() -> None:
    """1.4 steps 4, 5: Finish is told of a failed Perform, and its own failure is not the error."""
    script = Scripted({Phase.PERFORM: [REFUSED()], Phase.FINISH: [PeerUnreachable("gone")]})
    result = await walked(V2, script, Request(ID, "web"))
    assert ("refused on request", Phase.PERFORM) == (result.message, result.phase)
    assert ["begin", "prepare", "perform", "finish"] == called(script)


# -- 1.6: the client's walk ----------------------------------------------------------------------------------------------


async def test_a_failed_begin() -> None:
    """1.6 step 3: nothing is to be undone, and nobody is asked for anything more."""
    script = Scripted({Phase.BEGIN: [REFUSED()]})
    await walked(V3, script, Request(ID, "web"), protection=Flag.CHANGE_PROTECTION)
    assert ["source.begin flags=CHANGE_PROTECTION", "  ! DriverRefused"] == script.transcript


@pytest.mark.parametrize("protection", [Flag.CHANGE_PROTECTION, NONE])
async def test_a_failed_prepare(protection: Flag) -> None:
    """1.6 step 6: the source is told, so that it drops what Begin has opened; it always has, also without the feature."""
    script = Scripted({Phase.PREPARE: [REFUSED()]})
    await walked(V3, script, Request(ID, "web"), protection=protection)
    assert ["begin", "prepare", "confirm"] == called(script)
    assert script.transcript[-1].endswith("roll-back")


async def test_the_changed_uri_reaches_perform_and_finish() -> None:
    """1.6 step 7, 2.7 point 4: what Prepare answers takes the place of the caller's URI in both."""
    script = Scripted(uri="tcp:there:1")
    await walked(V3, script, Request(ID, "web", uri="tcp:here:2"))
    used = {line.split()[0]: word for line in script.transcript for word in line.split() if word.startswith("uri=")}
    assert "uri=tcp:here:2" == used["destination.prepare"]
    assert {"uri=tcp:there:1"} == {used["source.perform"], used["destination.finish"]}


async def test_a_domain_that_came_back_although_cancelled() -> None:
    """1.6 step 10, first case: Finish was told to cancel and has the guest all the same; it is noted, and the guest is there.

    Step 11 then commits: Confirm, which libvirt leaves out here, tells the source, which would keep a copy otherwise.
    """
    script = Scripted({Phase.PERFORM: [FAILED()]}, finish=Outcome.COMMITTED)
    result = await walked(V3, script, Request(ID, "web"))
    assert isinstance(result, Migrated)
    assert "perform reported an error" in result.warnings[0]
    assert script.transcript[-1].endswith("commit")


async def test_the_destinations_reason_replaces_the_sources() -> None:
    """1.6 step 10, second case: a transfer that failed at the source failed for the reason that the destination knows."""
    script = Scripted({Phase.PERFORM: [FAILED()]}, failure_reason=TransferFailed.reason)
    result = await walked(V3, script, Request(ID, "web"))
    assert (TransferFailed, "what the destination knows", Phase.FINISH) == (type(result), result.message, result.phase)
    assert "channel error" in result.detail
    assert GuestLocation.SOURCE is result.guest


@pytest.mark.parametrize("reason", [MigrationCancelled.reason, ""])
async def test_a_destination_without_trouble_replaces_nothing(reason: str) -> None:
    """1.6 step 10, MIGRATE_FINISH_OK: a destination that only rolled back knows no reason; nor does one that gives none."""
    script = Scripted({Phase.PERFORM: [FAILED()]}, failure_reason=reason, failure="" if not reason else "rolled back")
    result = await walked(V3, script, Request(ID, "web"))
    assert ("the transfer failed", "channel error", Phase.PERFORM) == (result.message, result.detail, result.phase)


@pytest.mark.parametrize("error", [DriverRefused("no"), MigrationCancelled("a user said so"), TransferStopped("disk")])
async def test_an_error_that_is_no_failed_transfer_stands(error: VmferryError) -> None:
    """1.6 step 10: only the hypervisor's own "it failed" is replaced; whatever else was remembered stays."""
    script = Scripted({Phase.PERFORM: [error]}, failure_reason=TransferFailed.reason)
    result = await walked(V3, script, Request(ID, "web"))
    assert (error, Phase.PERFORM) == (result, result.phase)


async def test_a_finish_that_itself_fails_replaces_too() -> None:
    """1.6 step 10: the reason may also come as the error of the call."""
    known = TransferFailed("load of migration failed: bad section")
    result = await walked(V3, Scripted({Phase.PERFORM: [FAILED()], Phase.FINISH: [known]}), Request(ID, "web"))
    assert known is result
    other = PeerUnreachable("gone")
    result = await walked(V3, Scripted({Phase.PERFORM: [FAILED()], Phase.FINISH: [other]}), Request(ID, "web"))
    assert "the transfer failed" == result.message


async def test_the_first_error_stands() -> None:
    """1.6 steps 11, 13: Finish's error is kept if it is the first, and no later one replaces it."""
    script = Scripted({Phase.FINISH: [REFUSED()], Phase.CONFIRM: [PeerUnreachable("gone")]})
    result = await walked(V3, script, Request(ID, "web"))
    assert (DriverRefused, Phase.FINISH) == (type(result), result.phase)
    assert script.transcript[-2].endswith("roll-back")


async def test_the_real_reason_of_a_real_destination(two_hosts: TwoHosts) -> None:
    """1.6 step 10 between daemons: what kept the destination's hypervisor from loading the guest is what the user reads."""
    moving = await hung(two_hosts, Verb.ROUND, two_hosts.migrate())
    sender = two_hosts.source.guest().sender
    await eventually(lambda: two_hosts.destination.guest().receiver is not None)
    two_hosts.destination.guest().fail_transfer("load of migration failed")
    await eventually(lambda: not sender.going_on)
    two_hosts.source.machine.faults.release()
    with pytest.raises(TransferFailed, match="load of migration failed") as caught:
        await moving
    assert (Phase.FINISH, GuestLocation.SOURCE) == (caught.value.phase, caught.value.guest)
    assert "the source says" in caught.value.detail
    await two_hosts.lives(two_hosts.source)


@pytest.mark.parametrize("spelling", Spelling)
async def test_a_domain_that_is_named_by_uuid(
    two_hosts: TwoHosts, spelling: Spelling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.6 step 10: destination_name is filled with the source's name, also where the caller gave the UUID."""
    names: list[str] = []
    phases = two_hosts.destination.daemon.destination
    finish = phases.finish

    async def listening(request: Request) -> object:
        names.append(request.params.destination_name or "")
        return await finish(request)

    monkeypatch.setattr(phases, "finish", listening)
    async with two_hosts.source.dial(spelling) as source:
        done = await source.migrate(UUID, two_hosts.destination.connection, flags=Flag.LIVE)
    assert NAME == done.domain.name
    assert [NAME if spelling is Spelling.PARAMS else ""] == names


# -- 1.7: the source's walk ----------------------------------------------------------------------------------------------


async def test_peer_to_peer_ends_with_a_failed_prepare() -> None:
    """1.7, "Prepare fails": neither Finish nor Confirm."""
    script = Scripted({Phase.PREPARE: [REFUSED()]})
    await walked(peer_to_peer(V3), script, Request(ID, "web"))
    assert ["begin", "prepare"] == called(script)


async def test_peer_to_peer_after_a_failed_perform() -> None:
    """1.7, "Perform fails": Finish and Confirm, both cancelled."""
    script = Scripted({Phase.PERFORM: [REFUSED()]})
    await walked(peer_to_peer(V3), script, Request(ID, "web"))
    assert ["begin", "prepare", "perform", "finish", "confirm"] == called(script)
    assert all(line.endswith("roll-back") for line in script.transcript[-2:])


async def test_peer_to_peer_when_prepares_fate_is_unknown() -> None:
    """1.7: a Prepare that may have happened is closed at both hosts, as one that did."""
    script = Scripted({Phase.PREPARE: [LOST()] * 99})
    await walked(peer_to_peer(V3), script, Request(ID, "web"))
    assert ["finish", "confirm"] == called(script)[-2:]


async def test_the_job_ends_with_prepares_error(two_hosts: TwoHosts) -> None:
    """1.7, "job simply ends": at once, without a Confirm, and with the peer's own reason in the history."""
    two_hosts.destination.machine.faults.once(Verb.ACCEPT, FaultKind.REFUSE)
    with pytest.raises(VmferryError) as caught:
        await sent(two_hosts)
    (job,) = await two_hosts.source.connection.jobs()
    assert (JobType.FAILED, True) == (job.type, str(caught.value) in job.error)
    assert Phase.CONFIRM is not job.phase
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("what", [{}, TWO], ids=["protocol 3", "protocol 2"])
async def test_a_guest_that_dies_during_a_remote_call(two_hosts: TwoHosts, what: dict[str, object]) -> None:
    """1.7: the source's guest died while Prepare was running; it is noticed right after, and the peer need not wait."""
    await announce(two_hosts.destination, what)
    migration_id = new_migration_id()
    moving = await hung(two_hosts, Verb.ACCEPT, sent(two_hosts, migration_id=migration_id), two_hosts.destination)
    two_hosts.source.machine.kill(UUID)
    two_hosts.destination.machine.faults.release()
    with pytest.raises(VmferryError) as caught:
        await moving
    assert GuestLocation.NOWHERE is caught.value.guest
    await eventually(lambda: [] == two_hosts.destination.machine.leftovers())
    assert "aborted" == await two_hosts.destination.state(migration_id)
    assert "cancelled" == await two_hosts.source.state(migration_id)


async def test_what_a_coordinating_source_sends_on(two_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.7, "parameters sent on": the peer gets those that concern it, never `persistent_xml`, and never CHANGE_PROTECTION."""
    heard: list[Request] = []
    phases = two_hosts.destination.daemon.destination
    prepare = phases.prepare

    async def listening(request: Request) -> object:
        heard.append(request)
        return await prepare(request)

    monkeypatch.setattr(phases, "prepare", listening)
    params = MigrationParams(
        destination_name="moved",
        bandwidth_mib_per_s=100,
        persistent_xml=await two_hosts.source.connection.xml(NAME),
        auto_converge_initial_percent=30,
    )
    flags = P2P | Flag.CHANGE_PROTECTION | Flag.AUTO_CONVERGE | Flag.PERSIST_DEST | Flag.ABORT_ON_ERROR
    await sent(two_hosts, flags, params)
    (request,) = heard
    given = request.params
    assert ("moved", 100) == (given.destination_name, given.bandwidth_mib_per_s)
    assert given.destination_xml
    assert (None, None) == (given.persistent_xml, given.auto_converge_initial_percent)
    assert P2P | Flag.PERSIST_DEST == request.flags
    await two_hosts.lives(two_hosts.destination)


async def test_protocol_1_is_never_climbed_down_to(two_hosts: TwoHosts) -> None:
    """1.7, "version choice": a peer that announces neither 3 nor 2 is refused before the guest is touched."""
    await announce(two_hosts.destination, ONE)
    with pytest.raises(VmferryError, match="neither protocol 3 nor 2"):
        await sent(two_hosts)
    assert [] == await two_hosts.source.connection.jobs()


async def test_both_hosts_are_one_call_away(two_hosts: TwoHosts) -> None:
    """1.7, "client vanishes": whoever asks by the same id joins, in whatever protocol the call is written."""
    migration_id = new_migration_id()
    moving = await hung(two_hosts, Verb.ROUND, sent(two_hosts, migration_id=migration_id))
    async with two_hosts.source.dial(Spelling.FIXED) as source:
        request = Request(migration_id, NAME, P2P, destination_daemon_uri=uri_of(two_hosts.destination))
        joined = asyncio.ensure_future(source.perform(request, lambda _: None))
        two_hosts.source.machine.faults.release()
        assert (await moving).domain == (await joined).domain
    await two_hosts.lives(two_hosts.destination)
