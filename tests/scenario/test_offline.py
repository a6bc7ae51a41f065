"""A definition moves without its guest: to exactly one place, whoever dies."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest

from scenario.offline_hosts import MOVED, OFFLINE, OfflineHosts
from support.daemons import NAME, TwoHosts, domain_xml
from vmferry.errors import (
    HostIncompatible,
    InvalidParameter,
    InvalidState,
    MigrationAborted,
    NotSupported,
    PermissionRefused,
    PhaseOutOfOrder,
    VmferryError,
)
from vmferry.features import Feature
from vmferry.flags import Flag
from vmferry.model import DomainState, Outcome, Phase, Verdict
from vmferry.params import MigrationParams
from vmferryd.phases import cookie as cookies


@pytest.fixture
async def offline(two_hosts: TwoHosts, tmp_path: Path) -> OfflineHosts:
    """The domain is defined on the source and does not run."""
    await two_hosts.source.connection.destroy(NAME)
    return OfflineHosts(two_hosts, tmp_path)


def titled(title: str) -> str:
    """The domain's definition with a title."""
    return domain_xml().replace("</name>", f"</name><title>{title}</title>", 1)


# -- what it does ------------------------------------------------------------------------------------------------------


async def test_a_definition_moves(offline: OfflineHosts) -> None:
    """The destination has what the source had, inactive and stored; the source has nothing, also after restarts."""
    before = await offline.source.connection.stored_xml(NAME)
    done = await offline.migrate()
    assert done.domain is not None
    assert (DomainState.SHUTOFF, True, ()) == (done.domain.state, done.domain.persistent, done.warnings)
    for host in offline.hosts.hosts:
        await host.restart()
    await offline.only_on(offline.destination)
    assert before == await offline.destination.connection.stored_xml(NAME)
    await offline.destination.connection.start(NAME)


async def test_without_undefine_both_have_it(offline: OfflineHosts) -> None:
    """Without UNDEFINE_SOURCE the definition is copied."""
    await offline.migrate(OFFLINE)
    assert [NAME] == await offline.names(offline.source) == await offline.names(offline.destination)


async def test_a_running_domain(offline: OfflineHosts) -> None:
    """The source keeps its run state, and its definition with it; the destination gets what is stored."""
    await offline.source.connection.start(NAME)
    await offline.source.connection.define(titled("next start"))
    await offline.migrate(MOVED | Flag.LIVE)
    domain = await offline.source.connection.domain(NAME)
    assert (DomainState.RUNNING, True) == (domain.state, domain.persistent)
    assert "next start" in await offline.destination.connection.stored_xml(NAME)
    assert DomainState.SHUTOFF is (await offline.destination.connection.domain(NAME)).state


async def test_a_paused_and_transient_domain(offline: OfflineHosts) -> None:
    """What runs without a stored definition is stored at the destination as it runs."""
    await offline.source.connection.start_paused(NAME)
    await offline.source.connection.undefine(NAME)
    await offline.migrate()
    assert DomainState.PAUSED is (await offline.source.connection.domain(NAME)).state
    assert (await offline.destination.connection.domain(NAME)).persistent


@pytest.mark.parametrize("parameter", ["destination_xml", "persistent_xml"])
async def test_replaced_and_renamed(offline: OfflineHosts, parameter: str) -> None:
    """The definition may be replaced by another one of the same machine, and renamed."""
    params = MigrationParams(**{parameter: titled("there")}, destination_name="moved")  # type: ignore[arg-type]
    done = await offline.migrate(MOVED, params)
    assert done.domain is not None
    assert "moved" == done.domain.name
    stored = await offline.destination.connection.stored_xml("moved")
    assert "there" in stored
    assert "<name>moved</name>" in stored


async def test_an_older_definition_is_replaced(offline: OfflineHosts) -> None:
    """A definition that the destination had is replaced."""
    await offline.destination.connection.define(titled("old"))
    await offline.migrate()
    await offline.only_on(offline.destination)
    assert "old" not in await offline.destination.connection.stored_xml(NAME)


async def test_peer_to_peer(offline: OfflineHosts) -> None:
    """The source's daemon can coordinate it."""
    uri = str(offline.destination.settings["listen"])
    done = await offline.source.connection.migrate_to_uri(NAME, uri, flags=MOVED | Flag.PEER2PEER)
    assert done.domain is not None
    assert NAME == done.domain.name
    await offline.only_on(offline.destination)


async def test_no_perform_and_no_cookie_into_finish(offline: OfflineHosts) -> None:
    """The phases are Begin, Prepare, Finish and Confirm (specification 1.10)."""
    walk = await offline.by_hand().up_to(Phase.PREPARE)
    assert [Phase.BEGIN, Phase.PREPARE, Phase.FINISH, Phase.CONFIRM] == walk.phases
    assert b"" == walk.request(None).cookie
    await walk.finish()
    await walk.confirm()
    await offline.only_on(offline.destination)


async def test_perform_instead_of_finish_ends_it(offline: OfflineHosts) -> None:
    """A coordinator that calls Perform for a definition is told that there is none, and nothing was moved."""
    walk = await offline.by_hand().up_to(Phase.PREPARE)
    with pytest.raises(PhaseOutOfOrder):
        await walk.perform()
    reply = await walk.finish()
    assert Outcome.ABORTED is reply.outcome
    await offline.only_on(offline.source)


async def test_its_job(offline: OfflineHosts) -> None:
    """Both hosts show the migration as a job that has succeeded."""
    done = await offline.migrate()
    states = [(await host.connection.job(done.migration_id)).state for host in offline.hosts.hosts]
    assert ["confirmed", "committed"] == states


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "params", "error", "match"),
    [
        (Flag.OFFLINE, MigrationParams(), InvalidParameter, "must also be kept"),
        (OFFLINE | Flag.TUNNELLED, MigrationParams(), InvalidParameter, "no state to tunnel"),
        (OFFLINE | Flag.AUTO_CONVERGE, MigrationParams(), InvalidParameter, "no memory"),
        (OFFLINE, MigrationParams(bandwidth_mib_per_s=1), InvalidParameter, "no bandwidth"),
        (
            OFFLINE,
            MigrationParams(destination_xml=titled("a"), persistent_xml=titled("b")),
            InvalidParameter,
            "one definition",
        ),
        (OFFLINE, MigrationParams(destination_xml=domain_xml(name="other")), HostIncompatible, "destination_name"),
    ],
)
async def test_what_does_not_fit(
    offline: OfflineHosts, flags: Flag, params: MigrationParams, error: type[VmferryError], match: str
) -> None:
    """What cannot be honoured without a guest is refused, and nothing has happened."""
    with pytest.raises(error, match=match):
        await offline.migrate(flags, params)
    await offline.only_on(offline.source)


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_the_feature_must_be_announced(offline: OfflineHosts, side: str) -> None:
    """A daemon that does not announce it is not asked for it, and the error names the side."""
    host = getattr(offline, side)
    host.settings["announce"] = {"features": [Feature.MIGRATION_P2P.value]}
    await host.restart()
    with pytest.raises(NotSupported, match=f"the {side} does not announce MIGRATION_OFFLINE"):
        await offline.migrate()


@pytest.mark.parametrize("protocols", [[1], [2], [1, 2]])
async def test_older_protocols(offline: OfflineHosts, protocols: list[int]) -> None:
    """Protocols 1 and 2 cannot move a definition without its guest."""
    offline.destination.settings["announce"] = {"protocols": protocols, "params": False}
    await offline.destination.restart()
    with pytest.raises(NotSupported, match="protocol"):
        await offline.migrate()
    await offline.only_on(offline.source)


async def test_active_at_the_destination(offline: OfflineHosts) -> None:
    """A domain that runs at the destination is not given another definition behind its back."""
    await offline.destination.connection.define(domain_xml())
    await offline.destination.connection.start(NAME)
    with pytest.raises(InvalidState, match="running"):
        await offline.migrate()
    assert [NAME] == await offline.names(offline.source)


async def test_held_meanwhile(offline: OfflineHosts) -> None:
    """While it is moved nobody can start it or change it, on either host."""
    walk = await offline.by_hand().up_to(Phase.PREPARE)
    for host in offline.hosts.hosts:
        with pytest.raises(VmferryError):
            await host.connection.start(NAME)
    with pytest.raises(VmferryError, match="held by migration"):
        await offline.source.connection.undefine(NAME)
    await walk.finish()
    await walk.confirm()
    await offline.only_on(offline.destination)


async def test_forged_release(offline: OfflineHosts) -> None:
    """Only who has Begin's ticket can ask for the release, and only one destination gets it."""
    walk = await offline.by_hand().up_to(Phase.PREPARE)
    there = offline.source.connection
    with pytest.raises(PermissionRefused):
        await there.request_release(walk.migration_id, b"guessed", "vmferry+unix:///forged")
    expected = cookies.Expected(walk.migration_id, "nobody")
    ticket = cookies.decode(walk.replies[Phase.BEGIN].cookie, Phase.PREPARE, expected).ticket
    await walk.finish()
    with pytest.raises(PermissionRefused, match="nobody else"):
        await there.request_release(walk.migration_id, ticket, "vmferry+unix:///forged")
    await walk.confirm()
    await offline.only_on(offline.destination)


async def test_a_lying_coordinator(offline: OfflineHosts) -> None:
    """Neither a verdict alone nor a forged outcome makes the source forget its definition."""
    walk = await offline.by_hand().up_to(Phase.PREPARE)
    with pytest.raises(PhaseOutOfOrder):
        await walk.confirm(Verdict.COMMIT)
    await offline.destination.connection.abort(walk.migration_id, "it is only pretended")
    begun = walk.replies[Phase.BEGIN]
    expected = cookies.Expected(walk.migration_id, "nobody")
    cookie = cookies.decode(begun.cookie, Phase.PREPARE, expected)
    forged = dataclasses.replace(cookie, host_uuid="forged", outcome=Outcome.COMMITTED, signature=b"x" * 32, disks=None)
    walk.replies[Phase.FINISH] = dataclasses.replace(
        begun, cookie=cookies.encode(dataclasses.replace(forged, features=frozenset()))
    )
    with pytest.raises(PhaseOutOfOrder):
        await walk.confirm(Verdict.COMMIT)
    await walk.confirm(Verdict.ROLL_BACK)
    await offline.only_on(offline.source)


# -- who dies ----------------------------------------------------------------------------------------------------------


async def impatient(offline: OfflineHosts, lease_s: float = 0.3) -> None:
    """Both daemons settle soon by themselves."""
    for host in offline.hosts.hosts:
        host.limit(phase_lease_s=lease_s)
        await host.restart()


@pytest.mark.parametrize("phase", [Phase.BEGIN, Phase.PREPARE, Phase.FINISH])
async def test_the_client_is_gone(offline: OfflineHosts, phase: Phase) -> None:
    """A client that never comes back leaves exactly one definition: the destination's once it was told to keep it."""
    await impatient(offline)
    await offline.by_hand().up_to(phase)
    await offline.only_on(offline.destination if phase is Phase.FINISH else offline.source)


async def test_a_client_that_falls_silent_after_the_commit(offline: OfflineHosts) -> None:
    """The source asks the destination itself what became of the definition, long before the lease."""
    offline.source.limit(coordinator_silence_s=0.1, phase_lease_s=600.0)
    await offline.source.restart()
    await offline.by_hand().up_to(Phase.FINISH)
    await offline.only_on(offline.destination)


@pytest.mark.parametrize("phase", [Phase.BEGIN, Phase.PREPARE, Phase.FINISH])
@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_daemon_starts_anew(offline: OfflineHosts, phase: Phase, side: str) -> None:
    """A daemon that dies between two phases leaves exactly one definition in the end."""
    await impatient(offline)
    walk = await offline.by_hand().up_to(phase)
    await getattr(offline, side).restart()
    for rest in walk.phases[walk.phases.index(phase) + 1 :]:
        try:
            await getattr(walk, rest.value)()
        except VmferryError:
            break
    await offline.alone_somewhere()


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_full_disk(offline: OfflineHosts, side: str, number: int) -> None:
    """Whichever write to a journal fails: exactly one definition, and the next attempt succeeds."""
    await impatient(offline)
    host = getattr(offline, side)
    host.writes.fail(number)
    with contextlib.suppress(VmferryError):
        await offline.migrate()
    host.writes.heal()
    if await offline.alone_somewhere() is offline.source:
        await offline.migrate()
    await offline.only_on(offline.destination)


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_disk_that_stays_full_and_a_restart(offline: OfflineHosts, side: str, number: int) -> None:
    """A daemon that cannot write any more and starts anew leaves exactly one definition: as if it had died there."""
    await impatient(offline)
    host = getattr(offline, side)
    host.writes.fail_from(number)
    with contextlib.suppress(VmferryError):
        await offline.migrate()
    await host.restart()
    host.writes.heal()
    await offline.alone_somewhere()


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_full_disk_is_waited_for_and_not_the_lease(offline: OfflineHosts, side: str) -> None:
    """What its journal kept from the end ends as soon as there is room: the client has had its answer and says no more."""
    await impatient(offline, lease_s=600.0)
    host = getattr(offline, side)
    host.writes.fail_from(2)
    with pytest.raises(VmferryError):
        await offline.migrate()
    host.writes.heal()
    await offline.only_on(offline.source)
    await offline.migrate()
    await offline.only_on(offline.destination)


async def test_the_source_cannot_be_asked(offline: OfflineHosts) -> None:
    """A destination that cannot reach the source keeps nothing, and Finish says why."""
    walk = await offline.by_hand().up_to(Phase.PREPARE)
    await offline.source.stop()
    reply = await walk.finish()
    assert (Outcome.ABORTED, None) == (reply.outcome, reply.domain)
    assert "did not release" in reply.failure
    await offline.source.start()
    await offline.only_on(offline.source)


async def test_the_source_has_cancelled(offline: OfflineHosts) -> None:
    """A migration that was ended at the source is not committed at the destination."""
    walk = await offline.by_hand().up_to(Phase.PREPARE)
    assert Outcome.ABORTED is await offline.source.connection.abort_job(walk.migration_id)
    reply = await walk.finish()
    assert Outcome.ABORTED is reply.outcome
    assert "cancelled at the source" in reply.failure
    await offline.only_on(offline.source)


async def test_a_tombstone_before_prepare(offline: OfflineHosts) -> None:
    """A destination with a tombstone takes nothing."""
    walk = await offline.by_hand().up_to(Phase.BEGIN)
    await offline.destination.connection.abort(walk.migration_id, "changed my mind")
    with pytest.raises(MigrationAborted):
        await walk.prepare()
    await walk.confirm(Verdict.ROLL_BACK)
    await offline.only_on(offline.source)


async def test_repeated_phases(offline: OfflineHosts) -> None:
    """Every phase may be called twice, and answers the same."""
    walk = offline.by_hand()
    for phase in walk.phases:
        first = await getattr(walk, phase.value)()
        again = await getattr(walk, phase.value)()
        assert (first.outcome, first.domain_xml, first.cookie) == (again.outcome, again.domain_xml, again.cookie)
    await offline.only_on(offline.destination)


async def test_undefine_that_fails_is_told_and_repeated(offline: OfflineHosts) -> None:
    """A source whose definition could not be removed says so, and removes it as soon as it can."""
    walk = await offline.by_hand().up_to(Phase.FINISH)
    offline.source.writes.fail(2)
    with pytest.raises(VmferryError):
        await walk.confirm()
    await offline.only_on(offline.destination)
