"""Direct migrations: the guest leaves for a hypervisor without a daemon; only the source's own hypervisor can be asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from scenario.test_peer_to_peer import left
from scenario.test_protocols import FIXED, ONE, TWO, announce
from scenario.test_where import run
from support.daemons import IMPATIENT, NAME, UUID, Host, TwoHosts
from support.waiting import eventually
from vmferry.attempt import Attempt
from vmferry.endpoint import Request, ignore_progress
from vmferry.errors import (
    CookieRefused,
    DomainBusy,
    DriverRefused,
    InDoubt,
    InvalidParameter,
    InvalidState,
    MigrationCancelled,
    MigrationNotFound,
    NotSupported,
    TransferFailed,
    VmferryError,
)
from vmferry.features import Feature
from vmferry.flags import NONE, Flag
from vmferry.migrate import Migrated
from vmferry.model import DomainState, GuestLocation, JobType, Keep, MigrationId, StateReason, new_migration_id
from vmferry.oversight import Order, Oversight
from vmferry.params import MigrationParams
from vmferry.protocol import Spelling
from vmferry.whereabouts import Look, Verdict, judge
from vmferryd.clock import SystemClock
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import StartMode
from vmferryd.drivers.memory import BareHypervisor, FaultKind, MemoryHost, Verb, bare_hypervisor


@dataclass
class Direct:
    """A source with a running guest, and a machine without a daemon."""

    hosts: TwoHosts
    machine: MemoryHost
    path: Path

    @property
    def source(self) -> Host:
        """Where the guest runs first."""
        return self.hosts.source

    @property
    def uri(self) -> str:
        """Where the bare hypervisor listens."""
        return f"unix:{self.path}"

    @property
    def definition(self) -> DomainDefinition:
        """The guest's."""
        return self.source.daemon.context.domains.find(NAME).definition

    @asynccontextmanager
    async def listening(self, on_arrival: StartMode = StartMode.RUNNING) -> AsyncIterator[BareHypervisor]:
        """The bare hypervisor waits for the guest."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        async with bare_hypervisor(self.machine, self.definition, listener, on_arrival) as bare:
            yield bare

    async def sent(
        self, flags: Flag = Flag.LIVE, params: MigrationParams | None = None, migration_id: MigrationId | None = None
    ) -> Migrated:
        """The guest has been sent there."""
        attempt = Attempt(migration_id or new_migration_id(), patience=IMPATIENT)
        return await self.source.connection.migrate_to_uri(NAME, self.uri, flags=flags, params=params, attempt=attempt)

    async def hung(self, verb: Verb, migration_id: MigrationId, machine: MemoryHost | None = None) -> asyncio.Task[Migrated]:
        """The migration goes on, and a hypervisor hangs at `verb`."""
        faults = (machine or self.source.machine).faults
        faults.once(verb, FaultKind.HANG)
        moving = asyncio.ensure_future(self.sent(migration_id=migration_id))
        await eventually(lambda: faults.hanging == 1)
        return moving

    async def lives_there(self, bare: BareHypervisor, *, running: bool = True) -> None:
        """The guest lives at the bare hypervisor alone, and the source has closed the job."""

        async def settled() -> bool:
            domain = await self.source.connection.domain(NAME)
            return (domain.state, domain.migration_id) == (DomainState.SHUTOFF, None)

        await eventually(settled)
        assert [] == self.source.machine.leftovers()
        assert running == bare.guest.cpu.running
        assert () == bare.guest.memory_damage()
        assert [] == self.hosts.log.findings()

    async def stands_in_doubt(self, migration_id: MigrationId) -> None:
        """The copy here is kept, stands still, and shows why."""

        async def shown() -> bool:
            return (await self.source.connection.domain(NAME)).reason is StateReason.IN_DOUBT

        await eventually(shown)
        assert "released" == await self.source.state(migration_id)
        assert not self.source.guest().cpu.running


@pytest.fixture
async def direct(two_hosts: TwoHosts) -> AsyncIterator[Direct]:
    """A source with a running guest, and a machine without a daemon; afterwards nothing is left."""
    machine = MemoryHost(SystemClock(), mark="bare", log=two_hosts.log)
    path = Path(str(two_hosts.source.settings["state_directory"])).with_name("bare.sock")
    try:
        yield Direct(two_hosts, machine, path)
    finally:
        machine.faults.clear()
        await machine.power_off()


async def in_doubt(direct: Direct, bare: BareHypervisor) -> MigrationId:
    """The receiver died when it had the whole guest, right before it acknowledged."""
    migration_id = new_migration_id()
    moving = await direct.hung(Verb.ACKNOWLEDGE, migration_id, direct.machine)
    bare.guest.kill()
    direct.machine.faults.release()
    with pytest.raises(InDoubt) as caught:
        await moving
    assert GuestLocation.IN_DOUBT is caught.value.guest
    assert direct.uri in caught.value.message
    assert "resolve" in caught.value.remedy
    await direct.stands_in_doubt(migration_id)
    return migration_id


# -- success -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [{}, FIXED, ONE, TWO], ids=["typed", "protocol 3, fixed", "protocol 1", "protocol 2"])
@pytest.mark.parametrize("flags", [Flag.LIVE, NONE], ids=["live", "not live"])
async def test_one_call_in_every_protocol(direct: Direct, what: dict[str, object], flags: Flag) -> None:
    """2.4, 2.5: without PEER2PEER the one call moves the guest to where a hypervisor listens, and nobody knows its domain."""
    await announce(direct.source, what)
    async with direct.listening() as bare:
        done = await direct.sent(flags)
        await direct.lives_there(bare)
    assert (None, ()) == (done.domain, done.warnings)
    assert done.statistics.memory_processed_bytes > 0
    assert done.statistics.guest_pause_ms > 0
    (job,) = await direct.source.connection.jobs()
    assert (JobType.COMPLETED, "confirmed") == (job.type, job.state)


@pytest.mark.option("--direct")
@pytest.mark.parametrize("spelled", ["tcp:127.0.0.1:{}", "tcp://127.0.0.1:{}"])
async def test_over_tcp(direct: Direct, spelled: str) -> None:
    """Both spellings of a TCP URI lead there."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    uri = spelled.format(listener.getsockname()[1])
    async with bare_hypervisor(direct.machine, direct.definition, listener) as bare:
        await direct.source.connection.migrate_to_uri(NAME, uri, flags=Flag.LIVE)
        await direct.lives_there(bare)


async def test_the_uri_as_a_parameter(direct: Direct) -> None:
    """2.4: a daemon's URI has no meaning here; the migration's may also be said by `migrate_uri`."""
    async with direct.listening() as bare:
        params = MigrationParams(migrate_uri=direct.uri)
        source = direct.source.connection
        done = await source.migrate_to_uri(NAME, "vmferry+tcp://host-b", flags=Flag.LIVE, params=params)
        await direct.lives_there(bare)
    assert "PEER2PEER" in done.warnings[0]


@pytest.mark.parametrize("flags", [Flag.LIVE, NONE], ids=["live", "not live"])
async def test_paused_is_the_receivers_business(direct: Direct, flags: Flag) -> None:
    """A guest that runs and is to stand still afterwards does, at a receiver that was started so."""
    async with direct.listening(StartMode.PAUSED) as bare:
        await direct.sent(flags | Flag.PAUSED)
        await direct.lives_there(bare, running=False)


async def test_a_guest_that_stands_still_is_not_woken(direct: Direct) -> None:
    """Only its user can know that the receiver leaves it paused; without that word it does not leave."""
    await direct.source.connection.suspend(NAME)
    async with direct.listening(StartMode.PAUSED) as bare:
        with pytest.raises(InvalidState, match="stands still") as caught:
            await direct.sent()
        assert ("PAUSED" in caught.value.remedy, GuestLocation.SOURCE) == (True, caught.value.guest)
        await direct.hosts.lives(direct.source, DomainState.PAUSED)
        await direct.sent(Flag.LIVE | Flag.PAUSED)
        await direct.lives_there(bare, running=False)


async def test_the_definition_can_be_forgotten(direct: Direct) -> None:
    """UNDEFINE_SOURCE concerns the source alone, and is honoured."""
    async with direct.listening() as bare:
        await direct.sent(Flag.LIVE | Flag.UNDEFINE_SOURCE)
        await eventually(bare.has_arrived.is_set)
    assert [] == await direct.source.connection.domains()


async def test_an_answer_that_was_lost(direct: Direct) -> None:
    """The hypervisor's answer to the last step is lost; asked once more, it proves that the guest has arrived."""
    direct.source.machine.faults.once(Verb.LET_GO, FaultKind.LOSE_AFTER)
    async with direct.listening() as bare:
        await direct.sent()
        await direct.lives_there(bare)


# -- before the release every failure gives the guest back ---------------------------------------------------------------


async def test_nobody_listens(direct: Direct) -> None:
    """The guest is at the source, and the error says how a receiver is started."""
    with pytest.raises(TransferFailed) as caught:
        await direct.sent()
    assert (GuestLocation.SOURCE, True) == (caught.value.guest, "vmferry receiver" in caught.value.remedy)
    await direct.hosts.lives(direct.source)


async def test_the_receiver_dies_in_mid_transfer(direct: Direct) -> None:
    """The guest runs on at the source, and can be sent again."""
    async with direct.listening() as bare:
        moving = await direct.hung(Verb.ROUND, new_migration_id())
        sender = direct.source.guest().sender
        bare.guest.kill()
        await eventually(lambda: not sender.going_on)
        direct.source.machine.faults.release()
        with pytest.raises(TransferFailed) as caught:
            await moving
    assert (GuestLocation.SOURCE, True) == (caught.value.guest, "vmferry receiver" in caught.value.remedy)
    await direct.hosts.lives(direct.source)
    direct.path.unlink()
    async with direct.listening() as bare:
        await direct.sent()
        await direct.lives_there(bare)


@pytest.mark.parametrize(
    ("verb", "kind"),
    [(Verb.SEND, FaultKind.REFUSE), (Verb.SEND, FaultKind.LOSE_AFTER), (Verb.HELD, FaultKind.LOSE_AFTER)],
)
async def test_the_own_hypervisor_fails(direct: Direct, verb: Verb, kind: FaultKind) -> None:
    """Whatever it was, nothing without which the receiver cannot run was sent."""
    direct.source.machine.faults.once(verb, kind)
    async with direct.listening():
        with pytest.raises(VmferryError) as caught:
            await direct.sent()
        assert GuestLocation.SOURCE is caught.value.guest
        await direct.hosts.lives(direct.source)


async def test_a_last_step_that_was_refused(direct: Direct) -> None:
    """The record says released, and the hypervisor that it kept the last part: the guest is taken back without a question."""
    direct.source.machine.faults.once(Verb.LET_GO, FaultKind.REFUSE)
    async with direct.listening():
        with pytest.raises(DriverRefused) as caught:
            await direct.sent()
    assert GuestLocation.SOURCE is caught.value.guest
    await direct.hosts.lives(direct.source)


@pytest.mark.parametrize("write", [3, 4])
async def test_a_journal_that_cannot_be_written(direct: Direct, write: int) -> None:
    """PERFORMING or RELEASED cannot be recorded: nothing that they announce has happened."""
    direct.source.writes.fail(write)
    async with direct.listening():
        with pytest.raises(VmferryError) as caught:
            await direct.sent()
    assert GuestLocation.SOURCE is caught.value.guest
    await direct.hosts.lives(direct.source)


async def test_the_guest_dies_on_its_way(direct: Direct) -> None:
    """Its hypervisor at the source is gone before anything was released: it lives nowhere."""
    async with direct.listening():
        moving = await direct.hung(Verb.ROUND, new_migration_id())
        direct.source.machine.kill(UUID)
        direct.source.machine.faults.release()
        with pytest.raises(VmferryError) as caught:
            await moving
    assert GuestLocation.NOWHERE is caught.value.guest


@pytest.mark.parametrize("verb", ["suspend", "resume"])
async def test_nobody_could_be_told_of_a_wish(direct: Direct, verb: str) -> None:
    """What a user asks of the guest on its way could not be granted by the receiver: it is refused, and the guest goes on."""
    async with direct.listening() as bare:
        moving = await direct.hung(Verb.ROUND, new_migration_id())
        with pytest.raises(InvalidState, match="no daemon"):
            await getattr(direct.source.connection, verb)(NAME)
        direct.source.machine.faults.release()
        await moving
        await direct.lives_there(bare)


async def test_cancel(direct: Direct) -> None:
    """Before the release a user's wish ends it, and the guest runs on at the source."""
    migration_id = new_migration_id()
    async with direct.listening():
        moving = await direct.hung(Verb.ROUND, migration_id)
        await direct.source.connection.abort_job(migration_id)
        direct.source.machine.faults.release()
        with pytest.raises(MigrationCancelled):
            await moving
    await direct.hosts.lives(direct.source)
    (job,) = await direct.source.connection.jobs()
    assert JobType.CANCELLED is job.type


# -- callers come and go -------------------------------------------------------------------------------------------------


async def test_the_caller_leaves(direct: Direct) -> None:
    """The migration belongs to the source's daemon: it goes on, and who comes back joins it, also after its end."""
    migration_id = new_migration_id()
    async with direct.listening() as bare:
        moving = await direct.hung(Verb.ROUND, migration_id)
        await left(moving)
        joined = asyncio.ensure_future(direct.sent(migration_id=migration_id))
        direct.source.machine.faults.release()
        assert migration_id == (await joined).migration_id
        await direct.lives_there(bare)
        assert migration_id == (await direct.sent(migration_id=migration_id)).migration_id
    assert 1 == len(await direct.source.connection.jobs())


async def test_an_id_is_one_migration(direct: Direct) -> None:
    """The id of a migration to another place is refused."""
    migration_id = new_migration_id()
    async with direct.listening() as bare:
        moving = await direct.hung(Verb.ROUND, migration_id)
        with pytest.raises(InvalidParameter, match="another one"):
            await direct.source.connection.migrate_to_uri(NAME, "unix:/x", flags=NONE, attempt=Attempt(migration_id))
        direct.source.machine.faults.release()
        await moving
        await direct.lives_there(bare)


# -- after the release only proof counts ---------------------------------------------------------------------------------


async def test_it_breaks_without_an_acknowledgement(direct: Direct) -> None:
    """The guest never runs here again by itself: not by a user's word, not by an abort, not by a restart."""
    async with direct.listening() as bare:
        migration_id = await in_doubt(direct, bare)
    source = direct.source
    for verb in (source.connection.resume, source.connection.destroy):
        with pytest.raises(DomainBusy):
            await verb(NAME)
    with pytest.raises(InDoubt):
        await source.connection.abort_job(migration_id)
    for _ in range(2):
        await source.restart()
        await direct.stands_in_doubt(migration_id)
    with pytest.raises(InDoubt):
        await direct.sent(migration_id=migration_id)
    assert not source.guest().cpu.running


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("keep", Keep)
async def test_the_operator_decides(direct: Direct, keep: Keep, restarted: bool) -> None:
    """Whoever has looked at the receiver says which copy lives; nobody else is asked."""
    # A guest that has run there must not be kept here: so this one never runs there.
    async with direct.listening(StartMode.PAUSED if keep is Keep.HERE else StartMode.RUNNING) as bare:
        migration_id = await in_doubt(direct, bare)
    if restarted:
        await direct.source.restart()
        await direct.stands_in_doubt(migration_id)
    await Oversight(direct.source.connection).resolve(Order(NAME, keep, fenced=True, who="root", why="looked"))
    if keep is Keep.HERE:
        await direct.hosts.lives(direct.source)
    else:
        await eventually(lambda: [] == direct.source.machine.leftovers())
        assert DomainState.SHUTOFF is (await direct.source.connection.domain(NAME)).state


async def test_where_names_the_receiver(direct: Direct) -> None:
    """What an operator is shown of a direct migration in doubt says where to look, and sends nobody to a daemon."""
    async with direct.listening() as bare:
        await in_doubt(direct, bare)
    evidence = await Oversight(direct.source.connection).examine(NAME)
    assert [("", direct.uri)] == [(each.peer_uri, each.receiver_uri) for each in evidence.records]
    found = judge(NAME, [Look(str(direct.source.settings["listen"]), evidence)])
    assert Verdict.IN_DOUBT is found.verdict
    assert any(direct.uri in reason for reason in found.reasons)
    assert any(direct.uri in step for step in found.what_now)
    assert not any("daemon back" in step for step in found.what_now)
    code, said, _ = await run(direct.source, "where", NAME, output="text")
    assert 4 == code
    assert direct.uri in said.partition("journal")[2]


async def test_an_acknowledgement_that_is_late(direct: Direct) -> None:
    """The wait is over and the guest in doubt; the source goes on asking its hypervisor, until that has heard."""
    direct.source.limit(let_go_s=0.1)
    await direct.source.restart()
    migration_id = new_migration_id()
    async with direct.listening() as bare:
        moving = await direct.hung(Verb.ACKNOWLEDGE, migration_id, direct.machine)
        with pytest.raises(InDoubt):
            await moving
        await direct.stands_in_doubt(migration_id)
        direct.machine.faults.release()
        await direct.lives_there(bare)
        assert migration_id == (await direct.sent(migration_id=migration_id)).migration_id


async def test_abort_comes_too_late(direct: Direct) -> None:
    """Between the release and the acknowledgement an abort waits for what holds, and hears that the guest has left."""
    migration_id = new_migration_id()
    async with direct.listening() as bare:
        moving = await direct.hung(Verb.ACKNOWLEDGE, migration_id, direct.machine)
        aborting = asyncio.ensure_future(direct.source.connection.abort_job(migration_id))
        direct.machine.faults.release()
        assert "committed" == (await aborting)
        await moving
        await direct.lives_there(bare)


async def test_the_source_dies_after_the_release(direct: Direct) -> None:
    """Its hypervisor is gone, so nothing can be proved any more: the operator decides, and finds no copy here."""
    migration_id = new_migration_id()
    async with direct.listening():
        moving = await direct.hung(Verb.ACKNOWLEDGE, migration_id, direct.machine)
        direct.source.machine.kill(UUID)
        direct.machine.faults.release()
        with pytest.raises(InDoubt):
            await moving
    assert "released" == await direct.source.state(migration_id)
    oversight = Oversight(direct.source.connection)
    with pytest.raises(InvalidState, match="no copy"):
        await oversight.resolve(Order(NAME, Keep.HERE, fenced=True, who="root", why="looked"))
    await oversight.resolve(Order(NAME, Keep.THERE, fenced=True, who="root", why="looked"))
    await eventually(lambda: [] == direct.source.machine.leftovers())


# -- restarts in each state ----------------------------------------------------------------------------------------------


async def test_a_restart_while_memory_flows(direct: Direct) -> None:
    """PERFORMING: the guest is taken back."""
    migration_id = new_migration_id()
    async with direct.listening():
        moving = await direct.hung(Verb.ROUND, migration_id)
        await direct.source.stop()
        direct.source.machine.faults.release()
        await asyncio.wait([moving])
        await direct.source.start()
        await direct.hosts.lives(direct.source)
    assert "cancelled" == await direct.source.state(migration_id)


async def test_a_restart_between_the_record_and_the_release(direct: Direct) -> None:
    """RELEASED, and the hypervisor was never told to go on: it proves so, and the guest is taken back."""
    migration_id = new_migration_id()
    async with direct.listening():
        moving = await direct.hung(Verb.LET_GO, migration_id)
        await direct.source.stop()
        direct.source.machine.faults.release()
        await asyncio.wait([moving])
        assert not direct.source.guest().cpu.running
        await direct.source.start()
        await direct.hosts.lives(direct.source)
    assert "cancelled" == await direct.source.state(migration_id)
    with pytest.raises(VmferryError, match="had not been sent"):
        await direct.sent(migration_id=migration_id)


@pytest.mark.parametrize("arrives", ["while it is away", "afterwards"])
async def test_a_restart_between_the_release_and_the_acknowledgement(direct: Direct, arrives: str) -> None:
    """RELEASED, and the last part on its way: the hypervisor hears of the arrival, whether a daemon is there or not."""
    migration_id = new_migration_id()
    async with direct.listening() as bare:
        moving = await direct.hung(Verb.ACKNOWLEDGE, migration_id, direct.machine)
        await direct.source.stop()
        await asyncio.wait([moving])
        if arrives == "while it is away":
            direct.machine.faults.release()
            await eventually(bare.has_arrived.is_set)
        await direct.source.start()
        if arrives == "afterwards":
            await direct.stands_in_doubt(migration_id)
            direct.machine.faults.release()
        await direct.lives_there(bare)
    assert "confirmed" == await direct.source.state(migration_id)


async def test_a_restart_before_the_copy_is_gone(direct: Direct) -> None:
    """CONFIRMED: the copy is destroyed, again if need be."""
    migration_id = new_migration_id()
    async with direct.listening() as bare:
        moving = await direct.hung(Verb.DESTROY, migration_id)
        await direct.source.stop()
        direct.source.machine.faults.release()
        await asyncio.wait([moving])
        await direct.source.start()
        await direct.lives_there(bare)
    assert "confirmed" == await direct.source.state(migration_id)


# -- what is refused before anything happens -----------------------------------------------------------------------------


async def test_a_source_that_does_not_offer_it(direct: Direct) -> None:
    """2.4: without the feature it ends here, for a client that asks and for one that does not."""
    await announce(direct.source, {"features": [4, 7]})
    with pytest.raises(NotSupported, match="no daemon receives"):
        await direct.sent()
    with pytest.raises(NotSupported, match=Feature.MIGRATION_DIRECT.name):
        await direct.source.connection.perform(Request(new_migration_id(), NAME, Flag.LIVE, uri=direct.uri), ignore_progress)
    await direct.hosts.lives(direct.source)


@pytest.mark.parametrize(
    "refused",
    [
        {"flags": Flag.PERSIST_DEST},
        {"flags": Flag.TUNNELLED},
        {"flags": Flag.OFFLINE | Flag.PERSIST_DEST},
        {"flags": Flag.PARALLEL},
        {"flags": Flag.TLS},
        {"params": MigrationParams(destination_name="other")},
        {"params": MigrationParams(listen_address="::")},
        {"uri": "tcp:host"},
        {"uri": "rdma:host:1"},
        {"uri": "tcp:192.0.2.1:4444"},
    ],
)
async def test_what_a_receiver_without_a_daemon_cannot_do(direct: Direct, refused: dict[str, object]) -> None:
    """It is refused, also by a daemon whose caller did not ask the decision tree."""
    request = Request(new_migration_id(), NAME, **({"uri": direct.uri} | refused))  # type: ignore[arg-type]
    with pytest.raises((InvalidParameter, NotSupported)) as caught:
        await direct.source.connection.perform(request, ignore_progress)
    assert GuestLocation.SOURCE is caught.value.guest or caught.value.guest is None
    assert [] == await direct.source.connection.jobs()
    await direct.hosts.lives(direct.source)


@pytest.mark.parametrize("uri", ["", "vmferry+tcp://host-b"])
async def test_a_perform_that_leads_to_no_hypervisor(direct: Direct, uri: str) -> None:
    """Without a cookie and without a place to send to it is a call whose Begin is missing."""
    with pytest.raises(MigrationNotFound):
        await direct.source.connection.perform(Request(new_migration_id(), NAME, uri=uri), ignore_progress)


async def test_a_cookie_that_was_forgotten(direct: Direct) -> None:
    """A Begin has opened the migration: a Perform without a cookie is a mistake, and is never taken for a direct one."""
    begun = await direct.source.connection.begin(Request(new_migration_id(), NAME, Flag.LIVE))
    async with direct.listening():
        with pytest.raises(CookieRefused):
            await direct.source.connection.perform(
                Request(begun.migration_id, NAME, Flag.LIVE, uri=direct.uri), ignore_progress
            )
    await direct.hosts.lives(direct.source)


@pytest.mark.parametrize("spelling", Spelling)
async def test_no_uri(direct: Direct, spelling: Spelling) -> None:
    """Nobody else can name it."""
    async with direct.source.dial(spelling) as source:
        with pytest.raises(InvalidParameter, match="URI"):
            await source.migrate_to_uri(NAME, "", flags=Flag.LIVE)


async def test_a_simulated_guest_has_no_command_line(direct: Direct) -> None:
    """The receiver of a simulated guest is no program."""
    with pytest.raises(DriverRefused, match="command line"):
        await direct.source.connection.receiver_paused(NAME, direct.uri)
