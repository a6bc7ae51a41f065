"""What a hypervisor can do wrong, at every verb of a migration: the guest is in one place, and the next attempt succeeds."""

from __future__ import annotations

import pytest

from support.daemons import NAME, UUID, TwoHosts
from support.waiting import eventually
from vmferry.errors import VmferryError
from vmferry.flags import NONE, Flag
from vmferry.model import DomainState, GuestLocation
from vmferryd.drivers.memory import FaultKind, Verb

HERE = [
    (Verb.SEND, FaultKind.REFUSE),
    (Verb.SEND, FaultKind.LOSE_BEFORE),
    (Verb.SEND, FaultKind.LOSE_AFTER),
    (Verb.HELD, FaultKind.REFUSE),
    (Verb.HELD, FaultKind.LOSE_BEFORE),
    (Verb.HELD, FaultKind.LOSE_AFTER),
    (Verb.HELD, FaultKind.FAIL_TRANSFER),
    (Verb.ROUND, FaultKind.FAIL_TRANSFER),
    (Verb.LET_GO, FaultKind.REFUSE),
    (Verb.LET_GO, FaultKind.LOSE_BEFORE),
    (Verb.LET_GO, FaultKind.FAIL_TRANSFER),
    (Verb.LAST_PART, FaultKind.FAIL_TRANSFER),
]
"""Faults of the source's hypervisor after which the destination cannot have everything."""

THERE = [
    (Verb.CHECK, FaultKind.REFUSE),
    (Verb.ACCEPT, FaultKind.REFUSE),
    (Verb.ACCEPT, FaultKind.LOSE_BEFORE),
    (Verb.ACCEPT, FaultKind.LOSE_AFTER),
    (Verb.RECEIVE, FaultKind.REFUSE),
    (Verb.RECEIVE, FaultKind.LOSE_BEFORE),
    (Verb.RECEIVE, FaultKind.LOSE_AFTER),
    (Verb.RECEIVE, FaultKind.KILL_BEFORE),
    (Verb.RECEIVED, FaultKind.REFUSE),
    (Verb.RECEIVED, FaultKind.LOSE_BEFORE),
    (Verb.RECEIVED, FaultKind.LOSE_AFTER),
    (Verb.RECEIVED, FaultKind.FAIL_TRANSFER),
    (Verb.RECEIVED, FaultKind.KILL_BEFORE),
    (Verb.RECEIVED, FaultKind.KILL_AFTER),
    (Verb.LOAD, FaultKind.FAIL_TRANSFER),
    (Verb.LOAD, FaultKind.KILL_BEFORE),
]
"""Faults of the destination's hypervisor before the commit."""


@pytest.fixture(params=[NONE, Flag.TUNNELLED], ids=["native", "tunnel"])
def channel(request: pytest.FixtureRequest) -> Flag:
    """What asks for each way that the data can take."""
    return Flag(request.param)


@pytest.mark.parametrize(("verb", "kind"), HERE)
async def test_source_fails(two_hosts: TwoHosts, verb: Verb, kind: FaultKind, channel: Flag) -> None:
    """The guest runs on at the source, the error says so, and the next attempt succeeds."""
    two_hosts.source.machine.faults.once(verb, kind)
    with pytest.raises(VmferryError) as caught:
        await two_hosts.migrate(Flag.LIVE | channel)
    assert [kind] == [fired for _, _, fired in two_hosts.source.machine.faults.fired]
    assert GuestLocation.SOURCE is caught.value.guest
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize(("verb", "kind"), THERE)
async def test_destination_fails(two_hosts: TwoHosts, verb: Verb, kind: FaultKind, channel: Flag) -> None:
    """The guest runs on at the source, the error says so, and the next attempt succeeds."""
    two_hosts.destination.machine.faults.once(verb, kind)
    with pytest.raises(VmferryError) as caught:
        await two_hosts.migrate(Flag.LIVE | channel)
    assert [kind] == [fired for _, _, fired in two_hosts.destination.machine.faults.fired]
    assert GuestLocation.SOURCE is caught.value.guest
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_a_definition_that_was_to_be_stored_is_not_left(two_hosts: TwoHosts) -> None:
    """PERSIST_DEST stores nothing of a guest that did not arrive, and the destination's next daemon knows nothing of it."""
    two_hosts.destination.machine.faults.once(Verb.RECEIVED, FaultKind.LOSE_AFTER)
    with pytest.raises(VmferryError):
        await two_hosts.migrate(Flag.LIVE | Flag.PERSIST_DEST)
    await two_hosts.lives(two_hosts.source)
    assert [] == await two_hosts.destination.connection.domains()
    await two_hosts.destination.restart()
    assert [] == await two_hosts.destination.connection.domains()


@pytest.mark.parametrize(
    ("verb", "kind"),
    [(Verb.LET_GO, FaultKind.LOSE_AFTER), (Verb.LET_GO, FaultKind.KILL_AFTER)],
)
async def test_source_fails_when_all_is_sent(two_hosts: TwoHosts, verb: Verb, kind: FaultKind) -> None:
    """The guest is where the destination's record says, whatever became of the source's hypervisor."""
    two_hosts.source.machine.faults.once(verb, kind)
    try:
        await two_hosts.migrate()
    except VmferryError as error:
        assert kind is FaultKind.LOSE_AFTER, "only the destination has the guest"
        assert GuestLocation.SOURCE is error.guest  # noqa: PT017
        await two_hosts.lives(two_hosts.source)
    else:
        await two_hosts.lives(two_hosts.destination)


@pytest.mark.checklist(5)
async def test_acknowledgement_is_lost(two_hosts: TwoHosts) -> None:
    """The guest is where the destination's record says when its hypervisor loaded everything but could not say so."""
    two_hosts.destination.machine.faults.once(Verb.ACKNOWLEDGE, FaultKind.FAIL_TRANSFER)
    try:
        await two_hosts.migrate()
    except VmferryError as error:
        assert GuestLocation.SOURCE is error.guest  # noqa: PT017
        await two_hosts.lives(two_hosts.source)
    else:
        await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize("kind", [FaultKind.REFUSE, FaultKind.LOSE_BEFORE, FaultKind.LOSE_AFTER])
@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.RESUME, Verb.PROBE])
async def test_taking_back_fails_at_first(two_hosts: TwoHosts, verb: Verb, kind: FaultKind) -> None:
    """A source that cannot take its guest back at once goes on trying until the guest runs."""
    if verb is Verb.PROBE:
        two_hosts.source.machine.faults.nth(verb, 2, kind)  # the first one is Begin's
    else:
        two_hosts.source.machine.faults.once(verb, kind)
    two_hosts.destination.machine.faults.once(Verb.RECEIVED, FaultKind.LOSE_BEFORE)
    with pytest.raises(VmferryError):
        await two_hosts.migrate()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("kind", [FaultKind.REFUSE, FaultKind.LOSE_BEFORE, FaultKind.LOSE_AFTER])
async def test_resume_fails_after_the_commit(two_hosts: TwoHosts, kind: FaultKind) -> None:
    """A commit is final: the destination goes on trying until the guest runs, and the migration has succeeded."""
    two_hosts.destination.machine.faults.once(Verb.RESUME, kind)
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize("kind", [FaultKind.REFUSE, FaultKind.LOSE_BEFORE, FaultKind.LOSE_AFTER])
@pytest.mark.parametrize("verb", [Verb.DESTROY, Verb.DISCARD])
async def test_giving_up_fails_at_first(two_hosts: TwoHosts, verb: Verb, kind: FaultKind) -> None:
    """A source that cannot destroy its copy at once goes on trying; the migration has succeeded."""
    two_hosts.source.machine.faults.once(verb, kind)
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize("kind", [FaultKind.REFUSE, FaultKind.LOSE_BEFORE, FaultKind.LOSE_AFTER])
@pytest.mark.parametrize("verb", [Verb.DESTROY, Verb.DISCARD])
async def test_discarding_fails_at_first(two_hosts: TwoHosts, verb: Verb, kind: FaultKind) -> None:
    """A destination that cannot remove what waited there goes on trying; the guest runs at the source meanwhile."""
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.FAIL_TRANSFER)
    two_hosts.destination.machine.faults.once(verb, kind)
    with pytest.raises(VmferryError):
        await two_hosts.migrate()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        (Verb.SEND, FaultKind.KILL_BEFORE),
        (Verb.SEND, FaultKind.KILL_AFTER),
        (Verb.ROUND, FaultKind.KILL_BEFORE),
        (Verb.HELD, FaultKind.KILL_AFTER),
        (Verb.LET_GO, FaultKind.KILL_BEFORE),
        (Verb.LAST_PART, FaultKind.KILL_BEFORE),
    ],
)
async def test_source_guest_dies(two_hosts: TwoHosts, verb: Verb, kind: FaultKind) -> None:
    """A guest that dies on its way is nowhere, and both hosts say so: crashed, held by nobody, nothing left."""
    two_hosts.source.machine.faults.once(verb, kind)
    with pytest.raises(VmferryError) as caught:
        await two_hosts.migrate()
    assert GuestLocation.NOWHERE is caught.value.guest
    await _crashed(two_hosts)
    await two_hosts.source.connection.start(NAME)
    await two_hosts.again()


async def test_source_guest_dies_between_begin_and_perform(two_hosts: TwoHosts) -> None:
    """A guest that dies while its migration is only begun is shown as crashed when the migration ends."""

    def kill(progress: object) -> None:
        if getattr(progress, "phase", "") == "prepare":
            two_hosts.source.machine.kill(UUID)

    with pytest.raises(VmferryError):
        await two_hosts.migrate(listener=kill)
    await _crashed(two_hosts)


async def test_destination_guest_dies_after_the_commit(two_hosts: TwoHosts) -> None:
    """A guest that dies right after the commit has crashed at the destination; the source does not bring it back."""
    two_hosts.destination.machine.faults.once(Verb.RESUME, FaultKind.KILL_BEFORE)
    try:
        await two_hosts.migrate()
    except VmferryError as error:
        assert error.guest in (GuestLocation.DESTINATION, GuestLocation.NOWHERE)  # noqa: PT017

    async def gone() -> bool:
        found = await two_hosts.source.connection.domain(NAME)
        others = [domain for domain in await two_hosts.destination.connection.domains() if domain.state.active]
        return (found.state, found.migration_id, others) == (DomainState.SHUTOFF, None, [])

    await eventually(gone)
    assert [] == two_hosts.source.machine.leftovers() + two_hosts.destination.machine.leftovers()


async def test_statistics_never_answer(two_hosts: TwoHosts) -> None:
    """Figures that cannot be had do not keep a guest from being moved."""
    two_hosts.source.machine.faults.always(Verb.STATISTICS, FaultKind.LOSE_BEFORE)
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)


async def _crashed(two_hosts: TwoHosts) -> None:
    async def crashed() -> bool:
        found = await two_hosts.source.connection.domain(NAME)
        return (found.state, found.migration_id) == (DomainState.CRASHED, None)

    await eventually(crashed)
    await eventually(lambda: two_hosts.source.machine.leftovers() + two_hosts.destination.machine.leftovers() == [])
