"""What is refused before anything is touched, and what a failing disk does to a migration that is under way."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from scenario.by_hand import ByHand
from support.daemons import NAME, UUID, Host, TwoHosts, domain_xml
from vmferry.errors import CookieRefused, HostIncompatible, InvalidState, MigrationUnsafe, NotSupported, TransferFailed
from vmferry.flags import NONE, Flag
from vmferry.model import DomainState, Phase, StateReason
from vmferry.params import MigrationParams
from vmferryd.drivers.memory import FaultKind, Verb
from vmferryd.drivers.memory.handles import MemoryGuest
from vmferryd.phases import cookie as cookies
from vmferryd.phases.cookie import Cookie


def with_disk(path: Path, cache: str = "none") -> str:
    """The guest with a disk that is a file."""
    disk = f"""<devices><disk type='file' device='disk'><driver name='qemu' type='raw' cache='{cache}'/>
<source file='{path}'/><target dev='vda' bus='virtio'/></disk></devices>"""
    return domain_xml().replace("</domain>", f"{disk}</domain>")


async def started_with(hosts: TwoHosts, xml: str) -> None:
    """The guest runs on the source as `xml` says."""
    await hosts.source.connection.destroy(NAME)
    await hosts.source.connection.define(xml)
    await hosts.source.connection.start(NAME)


async def nothing_happened(hosts: TwoHosts) -> None:
    """No host has recorded a migration, and the guest runs on the source."""
    for host in hosts.hosts:
        assert [] == await host.connection.jobs()
    await hosts.lives(hosts.source)


@pytest.mark.option("--unsafe")
@pytest.mark.checklist(14)
async def test_a_disk_that_only_this_host_has(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """A guest with a file on a local filesystem is refused in Begin, by the disk; UNSAFE moves it all the same."""
    await started_with(two_hosts, with_disk(tmp_path / "a.img"))
    with pytest.raises(MigrationUnsafe, match="does not have") as caught:
        await two_hosts.migrate()
    assert ["disk vda"] == [violation.subject for violation in caught.value.violations]
    assert "UNSAFE" in caught.value.remedy
    await nothing_happened(two_hosts)
    await two_hosts.migrate(Flag.LIVE | Flag.UNSAFE)
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.checklist(14)
async def test_the_hypervisors_blockers(two_hosts: TwoHosts) -> None:
    """What the hypervisor says against a migration is told, all of it, and nothing is touched."""
    two_hosts.source.guest().blockers = ("a device of the host is attached", "a snapshot is being taken")
    with pytest.raises(InvalidState) as caught:
        await two_hosts.migrate()
    assert 2 == len(caught.value.violations)
    assert "a device of the host is attached" in str(caught.value)
    await nothing_happened(two_hosts)


async def test_everything_at_once(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """A flag that cannot be honoured, for two reasons, an unsafe disk, a blocker and another machine are one answer."""
    await started_with(two_hosts, with_disk(tmp_path / "a.img"))
    two_hosts.source.guest().blockers = ("it is blocked",)
    other = with_disk(tmp_path / "a.img").replace("<vcpu>1</vcpu>", "<vcpu>2</vcpu>")
    with pytest.raises(NotSupported) as caught:
        await two_hosts.migrate(Flag.LIVE | Flag.TLS, MigrationParams(destination_xml=other))
    subjects = [violation.subject for violation in caught.value.violations]
    assert ["TLS", "TLS", NAME, "/domain/vcpu", "disk vda"] == subjects


async def test_describe_refuses_the_same(two_hosts: TwoHosts) -> None:
    """Protocol 2, which has no Begin, is told as early."""
    two_hosts.source.guest().blockers = ("it is blocked",)
    for host in two_hosts.hosts:
        host.settings["announce"] = {"protocols": [2], "params": False}
        await host.restart()
    with pytest.raises(InvalidState, match="it is blocked"):
        await two_hosts.migrate()


# -- failing disks -----------------------------------------------------------------------------------------------------


async def stopped_by_its_disk(host: Host) -> None:
    """The guest is there, paused by its I/O error, and held by nobody."""
    domain = await host.connection.domain(NAME)
    assert (DomainState.PAUSED, StateReason.IO_ERROR, None) == (domain.state, domain.reason, domain.migration_id)


@pytest.mark.option("--abort-on-error")
@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND, Verb.HELD])
async def test_abort_on_error(two_hosts: TwoHosts, verb: Verb) -> None:
    """An I/O error ends the migration; the guest stays at the source as its disk has left it, and can be moved later."""
    two_hosts.source.machine.faults.once(verb, FaultKind.FAIL_IO)
    with pytest.raises(TransferFailed, match="I/O error"):
        await two_hosts.migrate(Flag.LIVE | Flag.ABORT_ON_ERROR)
    await stopped_by_its_disk(two_hosts.source)
    assert [] == two_hosts.destination.machine.leftovers()
    await two_hosts.source.connection.resume(NAME)
    await two_hosts.again()


async def test_error_without_abort(two_hosts: TwoHosts) -> None:
    """Without ABORT_ON_ERROR a guest whose disk fails on the way is moved, and tries again at the destination."""
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.FAIL_IO)
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)


async def test_error_before_the_migration(two_hosts: TwoHosts) -> None:
    """A guest that an I/O error has stopped already is refused with ABORT_ON_ERROR, and without it moved as it is."""
    two_hosts.source.guest().fail_io()
    with pytest.raises(InvalidState, match="stopped the guest already"):
        await two_hosts.migrate(Flag.LIVE | Flag.ABORT_ON_ERROR)
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)


@pytest.fixture
def met_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that is told to run meets its failed disk before the answer is there, and the daemon has heard of it."""
    resume = MemoryGuest.resume

    async def resumed(guest: MemoryGuest) -> None:
        await resume(guest)
        guest.simulated.fail_io()
        await asyncio.sleep(0)  # whoever follows the events has had a turn

    monkeypatch.setattr(MemoryGuest, "resume", resumed)


@pytest.mark.usefixtures("met_at_once")
async def test_error_that_is_met_at_once(two_hosts: TwoHosts) -> None:
    """A guest that a failed disk stops in the moment of its start is not called running, neither there nor when resumed."""
    await two_hosts.migrate()
    await stopped_by_its_disk(two_hosts.destination)
    await two_hosts.destination.connection.resume(NAME)
    await stopped_by_its_disk(two_hosts.destination)


@pytest.mark.usefixtures("met_at_once")
async def test_error_that_a_granted_wish_meets_at_once(two_hosts: TwoHosts) -> None:
    """The same for a guest that a user resumes while a migration holds it, and that runs when that has ended."""
    await two_hosts.source.connection.suspend(NAME)
    walk = ByHand(two_hosts)
    await walk.begin()
    await two_hosts.source.connection.resume(NAME)
    await two_hosts.source.connection.abort(walk.migration_id, "a test")
    await stopped_by_its_disk(two_hosts.source)


# -- definitions -------------------------------------------------------------------------------------------------------


def titled(title: str, xml: str = "") -> str:
    """The guest's definition with a title, which is the same machine."""
    return (xml or domain_xml()).replace("</name>", f"</name><title>{title}</title>", 1)


@pytest.mark.parametrize("parameter", ["destination_xml", "persistent_xml"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda xml: xml.replace("<vcpu>1</vcpu>", "<vcpu>2</vcpu>"), "vcpus would change"),
        (lambda xml: xml.replace(f"<name>{NAME}</name>", "<name>other</name>"), "destination_name"),
        (lambda xml: xml.replace(UUID, UUID[:-1] + "8"), "uuid would change"),
    ],
)
async def test_another_machine(two_hosts: TwoHosts, parameter: str, change: Callable[[str], str], match: str) -> None:
    """A replacement that is another machine, or another domain, is refused in Begin."""
    params = MigrationParams(**{parameter: change(domain_xml())})  # type: ignore[arg-type]
    with pytest.raises(HostIncompatible, match=match):
        await two_hosts.migrate(Flag.LIVE | Flag.PERSIST_DEST, params)
    await nothing_happened(two_hosts)


@pytest.mark.parametrize("had_one", [False, True])
@pytest.mark.parametrize("flags", [NONE, Flag.PERSIST_DEST])
async def test_persistence(two_hosts: TwoHosts, had_one: bool, flags: Flag) -> None:
    """The four rows of the table of specification 1.14."""
    there = two_hosts.destination.connection
    if had_one:
        await there.define(titled("old"))
    await two_hosts.source.connection.define(titled("new"))
    done = await two_hosts.migrate(Flag.LIVE | flags)
    persist = Flag.PERSIST_DEST in flags
    assert (had_one or persist) == done.domain.persistent
    if done.domain.persistent:
        assert f"<title>{'new' if persist else 'old'}</title>" in await there.stored_xml(NAME)
    await two_hosts.lives(two_hosts.destination)
    await two_hosts.destination.restart()
    await there.destroy(NAME)
    assert ([NAME] if had_one or persist else []) == [domain.name for domain in await there.domains()]


@pytest.mark.parametrize(
    ("params", "live", "kept"),
    [
        (MigrationParams(), "", "stored"),
        (MigrationParams(persistent_xml=titled("kept")), "", "kept"),
        (MigrationParams(destination_xml=titled("live")), "live", "live"),
        (MigrationParams(destination_xml=titled("live"), persistent_xml=titled("kept")), "live", "kept"),
        (MigrationParams(persistent_xml=titled("kept"), destination_name="moved"), "", "kept"),
    ],
)
async def test_which_definition_is_kept(two_hosts: TwoHosts, params: MigrationParams, live: str, kept: str) -> None:
    """The guest gets destination_xml; what is kept is persistent_xml, else that, else the source's; under the new name."""
    await two_hosts.source.connection.define(titled("stored"))
    done = await two_hosts.migrate(Flag.LIVE | Flag.PERSIST_DEST, params)
    name = params.destination_name or NAME
    assert name == done.domain.name
    there = two_hosts.destination.connection
    assert (f"<title>{live}</title>" in await there.xml(name)) == bool(live)
    stored = await there.stored_xml(name)
    assert f"<title>{kept}</title>" in stored
    assert f"<name>{name}</name>" in stored
    await two_hosts.lives(two_hosts.destination)


# -- the cookie --------------------------------------------------------------------------------------------------------


async def forged(walk: ByHand, phase: Phase, **changes: object) -> None:
    """The cookie that `phase` returned says something else now."""
    reply = walk.replies[phase]
    consumer = {Phase.BEGIN: Phase.PREPARE, Phase.PREPARE: Phase.PERFORM}[phase]
    expected = cookies.Expected(walk.migration_id, "nobody")
    cookie: Cookie = dataclasses.replace(cookies.decode(reply.cookie, consumer, expected), **changes)  # type: ignore[arg-type]
    walk.replies[phase] = dataclasses.replace(reply, cookie=cookies.encode(cookie))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "db"}, "belongs to domain db"),
        ({"uuid": "other"}, "UUID other"),
        ({"features": frozenset({"warp"})}, "does not know: warp"),
        ({"features": frozenset({"definition"})}, "no place in prepare: definition"),
    ],
)
@pytest.mark.checklist(9)
async def test_prepare_refuses_a_wrong_cookie(two_hosts: TwoHosts, changes: dict[str, object], match: str) -> None:
    """Prepare refuses a cookie that is not for it, and has made nothing."""
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    await forged(walk, Phase.BEGIN, **changes)
    with pytest.raises(CookieRefused, match=match):
        await walk.prepare()
    assert [] == two_hosts.destination.machine.leftovers()
    assert [] == await two_hosts.destination.connection.jobs()


async def test_a_peer_that_cannot_compress(two_hosts: TwoHosts) -> None:
    """Compression that the source's hypervisor lacks is refused in Begin; the other host hears nothing of it."""
    with pytest.raises(NotSupported, match="xbzrle"):
        await two_hosts.migrate(Flag.LIVE | Flag.COMPRESSED)
    await nothing_happened(two_hosts)


@pytest.mark.option("--zerocopy")
async def test_memory_is_not_said_to_be_sent_without_a_copy(two_hosts: TwoHosts) -> None:
    """Only a TCP socket of the hypervisor's own could do that, and they lead to the daemon: the refusal says so."""
    with pytest.raises(NotSupported) as caught:
        await two_hosts.migrate(Flag.LIVE | Flag.PARALLEL | Flag.ZEROCOPY)
    reasons = {violation.subject: violation.description for violation in caught.value.violations}
    assert "through a UNIX socket beside it, where whatever is sent is copied" in reasons["ZEROCOPY"]
    await nothing_happened(two_hosts)


async def test_both_sides_say_what_they_can(two_hosts: TwoHosts) -> None:
    """Begin's and Prepare's cookies name the features of their hosts' hypervisors."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    for phase, reader in ((Phase.BEGIN, Phase.PREPARE), (Phase.PREPARE, Phase.PERFORM)):
        expected = cookies.Expected(walk.migration_id, "nobody")
        said = cookies.decode(walk.replies[phase].cookie, reader, expected).capabilities
        assert said is not None
        assert "auto-converge" in said


@pytest.mark.parametrize("peer_to_peer", [False, True])
async def test_renamed_domain_keeps_its_cookies(two_hosts: TwoHosts, peer_to_peer: bool) -> None:
    """A domain that gets another name is checked under the old one all the way, in every mode."""
    params = MigrationParams(destination_name="moved")
    if peer_to_peer:
        uri = str(two_hosts.destination.settings["listen"])
        await two_hosts.source.connection.migrate_to_uri(NAME, uri, flags=Flag.LIVE | Flag.PEER2PEER, params=params)
    else:
        await two_hosts.migrate(params=params)
    await two_hosts.lives(two_hosts.destination)
