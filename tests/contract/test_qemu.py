"""What only real QEMU can get wrong: the hand-over when its channel breaks, its monitor, its command line."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from contract import qemu_harness
from contract.harness import ONLY_QEMU
from contract.stage import DIRTY, ENDLESS, FAST, Migration, Stage
from support.waiting import eventually
from vmferry.errors import DriverLost, DriverRefused, TransferFailed
from vmferryd.clock import SystemClock
from vmferryd.domains.definition import parse
from vmferryd.domains.devices import Devices, Disk, DiskBus, DiskFormat, DiskType
from vmferryd.domains.model import Cpu, CpuFeature, DomainDefinition
from vmferryd.drivers.base import EventKind, Guest, ReceiveSettings, RunState, SendSettings, StartMode, TransferState
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.driver import QemuDriver
from vmferryd.drivers.qemu.guest import QemuGuest
from vmferryd.drivers.qemu.record import TransferRecord

pytestmark = ONLY_QEMU

CUTS = 12
LONGEST_CUT_S = 0.06
LONGEST_CANCEL_S = 0.01
BRIDGE = "vmftestbr0"


class Relay:
    """Two pairs of sockets with a pump between them: a channel that can be cut, or can stop taking bytes."""

    def __init__(self) -> None:
        self.near, self._near_inner = socket.socketpair()
        self.far, self._far_inner = socket.socketpair()
        self._inner = (self._near_inner, self._far_inner)
        for inner in self._inner:
            inner.setblocking(False)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Bytes go both ways."""
        loop = asyncio.get_running_loop()

        async def pump(reader: socket.socket, writer: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while chunk := await loop.sock_recv(reader, 1 << 16):
                    await loop.sock_sendall(writer, chunk)
            self.cut()

        near, far = self._inner
        self._tasks = [asyncio.ensure_future(pump(near, far)), asyncio.ensure_future(pump(far, near))]

    async def stall(self) -> None:
        """The channel takes no bytes any more and says nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Both ends have heard that the channel is gone."""
        for inner in self._inner:
            with contextlib.suppress(OSError):
                inner.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Nothing is left."""
        await self.stall()
        for end in (*self._inner, self.near, self.far):
            end.close()


@contextlib.asynccontextmanager
async def relayed(migration: Migration, settings: SendSettings) -> AsyncIterator[Relay]:
    """The transfer goes on through a relay."""
    relay = Relay()
    relay.start()
    try:
        await migration.incoming.receive(relay.far)
        await migration.outgoing.send(relay.near, settings)
        yield relay
    finally:
        relay.cut()
        await relay.close()


@pytest.mark.parametrize("attempt", range(CUTS))
async def test_a_source_that_let_go_never_runs_by_itself(stage: Stage, attempt: int) -> None:
    """The channel breaks at any moment of the last stage: the source stands still until `resume`, whatever QEMU says."""
    chance = random.Random(attempt)
    migration = await stage.migration(dirty=DIRTY)
    events = stage.listen(migration.source)
    async with relayed(migration, FAST) as relay:
        await migration.held()
        async with asyncio.TaskGroup() as group:
            letting_go = group.create_task(_ended(migration))
            await asyncio.sleep(chance.choice([0, chance.random() * LONGEST_CUT_S]))
            relay.cut()
        await migration.within(letting_go)
    state = await migration.state()
    assert state in {TransferState.COMPLETED, TransferState.FAILED}
    await migration.outgoing.cancel()
    await stage.stands_still(migration.source)
    assert EventKind.RESUMED not in events.kinds
    await stage.harness.driver.discard(migration.destination.plan)
    await migration.source.resume()
    await stage.runs(migration.source)
    assert await stage.harness.damage(migration.source) == ""


async def _ended(migration: Migration) -> None:
    with contextlib.suppress(TransferFailed):
        await migration.outgoing.let_go()


async def test_cancel_after_let_go_leaves_the_source_standing(stage: Stage) -> None:
    """QEMU's own cancel would start the CPUs although the destination may have everything."""
    migration = await stage.held(dirty=DIRTY)
    source = migration.source
    assert isinstance(source, QemuGuest)
    events = stage.listen(source)
    letting_go = asyncio.ensure_future(_ended(migration))
    await eventually(lambda: _is_let_go(source), what="the source is let go")
    await migration.outgoing.cancel()
    await migration.within(letting_go)
    await stage.stands_still(source)
    assert EventKind.RESUMED not in events.kinds


def _is_let_go(source: QemuGuest) -> bool:
    record = TransferRecord.read(source.plan.directory)
    return record is not None and record.let_go


@pytest.mark.parametrize("attempt", range(CUTS))
async def test_cancel_and_let_go_at_once(stage: Stage, attempt: int) -> None:
    """Either nothing was let go and the source runs, or it was and the source stands still; never something between."""
    migration = await stage.held(dirty=DIRTY)
    async with asyncio.TaskGroup() as group:
        letting_go = group.create_task(_outcome(migration))
        await asyncio.sleep(random.Random(attempt).random() * LONGEST_CANCEL_S)
        group.create_task(migration.outgoing.cancel())
    if isinstance(letting_go.result(), DriverRefused):
        await stage.runs(migration.source)
    else:
        await stage.stands_still(migration.source)


async def _outcome(migration: Migration) -> Exception | None:
    try:
        await migration.outgoing.let_go()
    except (DriverRefused, TransferFailed) as error:
        return error
    return None


@pytest.mark.checklist(10)
async def test_a_stalled_channel_does_not_block_cancel(stage: Stage) -> None:
    """In the last stage QEMU sends with its main loop locked; its channel is shut under it."""
    migration = await stage.migration(dirty=DIRTY)
    async with relayed(migration, FAST) as relay:
        await migration.held()
        await relay.stall()
        letting_go = asyncio.ensure_future(_ended(migration))
        await asyncio.sleep(0.1)
        await migration.within(migration.outgoing.cancel())
        await migration.within(letting_go)
    assert await migration.state() in {TransferState.FAILED, TransferState.CANCELLED}
    await stage.stands_still(migration.source)
    await migration.source.resume()
    await stage.runs(migration.source)


async def test_a_stalled_channel_in_mid_transfer_does_not_block_cancel(stage: Stage) -> None:
    """A peer that is frozen is no reason to wait."""
    migration = await stage.migration(dirty=DIRTY)
    async with relayed(migration, ENDLESS) as relay:
        await relay.stall()
        await migration.within(migration.outgoing.cancel())
    await stage.runs(migration.source)


@pytest.mark.checklist(11)
async def test_parameters_are_as_before_after_a_cancel(stage: Stage) -> None:
    """QEMU keeps its parameters over a failed attempt; so the driver puts them back."""
    migration = await stage.migration(dirty=DIRTY)
    source = migration.source
    assert isinstance(source, QemuGuest)
    before = await source.execute("query-migrate-parameters")
    await migration.begin(replace(ENDLESS, auto_converge=True, auto_converge_initial_percent=40))
    await migration.outgoing.cancel()
    assert await source.execute("query-migrate-parameters") == before
    nodes = [node["node-name"] for node in await source.execute("query-named-block-nodes")]
    assert not [name for name in nodes if name.startswith("vmferry")]


async def test_a_last_part_that_qemu_refuses_to_send_was_not_sent(stage: Stage) -> None:
    """The transfer ended behind the driver's back; the record does not say that the guest was let go."""
    migration = await stage.migration()
    source, outgoing = migration.source, migration.outgoing
    assert isinstance(source, QemuGuest)
    near, far = socket.socketpair()
    await migration.incoming.receive(far)
    await outgoing.send(near, FAST)
    await migration.within(outgoing.held())
    await source.execute("migrate_cancel")
    with pytest.raises(DriverRefused):
        await outgoing.let_go()
    record = TransferRecord.read(source.plan.directory)
    assert record is not None
    assert not record.let_go


async def test_a_guest_that_arrived_and_is_sent_on_is_not_started(stage: Stage) -> None:
    """It never ran here, and would be started at once but for the transfer that goes on."""
    arrived = await stage.held()
    await arrived.let_go()
    plan = stage.plan(arrived.definition)
    incoming = await stage.harness.driver.accept(plan, arrived.definition, ReceiveSettings())
    onward = Migration(arrived.definition, arrived.destination, incoming, stage.harness.patience_s)
    await onward.begin(ENDLESS)
    with pytest.raises(DriverRefused, match="being sent"):
        await arrived.destination.resume()
    await onward.outgoing.cancel()
    await arrived.destination.resume()
    await stage.runs(arrived.destination)


async def test_the_gate_is_put_away_in_the_end(stage: Stage) -> None:
    """Nothing but the guest's own is in the destination's QEMU; while it is waited for there is no time for that."""
    migration = await stage.held()
    await migration.let_go()
    destination = migration.destination
    assert isinstance(destination, QemuGuest)
    await destination.resume()
    await migration.incoming.put_away()
    nodes = [node["node-name"] for node in await destination.execute("query-named-block-nodes")]
    assert [] == [name for name in nodes if "vmferry" in name]


@pytest.mark.option("--compressed", "--comp-methods", "--comp-xbzrle-cache", "--auto-converge")
async def test_auto_converge_and_xbzrle_are_carried_out(stage: Stage) -> None:
    """Both sides agree on a cache, and the guest arrives whole."""
    definition = stage.harness.definition("guest", dirty=DIRTY)
    source = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    await stage.runs(source)
    receive = ReceiveSettings(xbzrle=True, xbzrle_cache_bytes=64 << 20)
    incoming = await stage.harness.driver.accept(stage.plan(definition), definition, receive)
    migration = Migration(definition, source, incoming, stage.harness.patience_s)
    await migration.begin(replace(FAST, xbzrle=True, xbzrle_cache_bytes=64 << 20, auto_converge=True))
    await migration.held()
    await migration.let_go()
    await migration.destination.resume()
    assert await stage.harness.damage(migration.destination) == ""


async def test_a_second_client_does_not_take_the_monitor(stage: Stage) -> None:
    """A monitor that somebody holds is not taken away, and the wait for it is bounded."""
    guest = await stage.start()
    impatient = replace(qemu_harness.configuration(), monitor_timeout_s=0.3, settle_timeout_s=0.1)
    other = QemuDriver(impatient, guest.plan.directory.parent, SystemClock())
    with pytest.raises(DriverLost, match="did not greet"):
        await other.attach(guest.plan)
    assert (await guest.probe()).run_state is RunState.RUNNING
    await other.close()


async def test_a_start_is_waited_for_longer_than_a_monitor_that_is_held(stage: Stage) -> None:
    """A QEMU listens long before it greets: before it locks its guest's memory, or opens its images."""
    definition = stage.harness.definition("guest")
    hasty = replace(qemu_harness.configuration(), monitor_timeout_s=0.001)
    plan = stage.plan(definition)
    driver = QemuDriver(hasty, plan.directory.parent, SystemClock())
    guest = await driver.start(plan, await driver.settle(definition), StartMode.RUNNING)
    assert (await guest.probe()).run_state is RunState.RUNNING
    await guest.destroy()
    await driver.close()


async def test_a_cpu_that_this_host_cannot_give_is_found_before_the_start(stage: Stage) -> None:
    """A model and a feature that nobody has are found; what QEMU gives by TCG is not complained about, and starts."""
    definition = stage.harness.definition("guest")
    strange = Cpu(model="Granite-v9", features=(CpuFeature("telepathy"),))
    found = [one.subject for one in await stage.harness.driver.check(replace(definition, cpu=strange))]
    assert found == ["cpu/model", "cpu/feature[@name='telepathy']"]
    usual = replace(definition, cpu=Cpu(model="Nehalem", features=(CpuFeature("aes"), CpuFeature("sse4_1"))))
    assert [] == list(await stage.harness.driver.check(usual))
    guest = await stage.harness.driver.start(stage.plan(usual), usual, StartMode.RUNNING)
    await stage.becomes(guest, RunState.RUNNING)


async def test_a_definition_that_does_not_start_says_why(stage: Stage, tmp_path: Path) -> None:
    """QEMU's own words are in the detail, `check` knew before, and nothing is left."""
    definition = stage.harness.definition("guest")
    absent = replace(definition.devices.disks[0], source_path=str(tmp_path / "absent.img"))
    broken = replace(definition, devices=replace(definition.devices, disks=(absent,)))
    (violation,) = await stage.harness.driver.check(broken)
    assert "absent.img does not exist" in str(violation)
    with pytest.raises(DriverRefused) as refusal:
        await stage.harness.driver.start(stage.plan(broken), broken, StartMode.PAUSED)
    assert "absent.img" in refusal.value.detail
    assert stage.harness.leftovers() == []


async def test_a_missing_emulator_is_named(stage: Stage, tmp_path: Path) -> None:
    """Without QEMU every question has the same clear answer."""
    driver = QemuDriver(QemuConfig(emulator=tmp_path / "no-qemu"), tmp_path, SystemClock())
    (violation,) = await driver.check(stage.harness.definition("guest"))
    assert violation.subject == "emulator"
    with pytest.raises(DriverRefused, match="there is no QEMU"):
        await driver.capabilities()


@pytest.mark.checklist(12)
async def test_a_disk_is_handed_over_with_its_lock(stage: Stage, tmp_path: Path) -> None:
    """While one side has the image the other cannot take it; after the hand-over it is the other way round."""
    image = tmp_path / "data.qcow2"
    _create_image(image)
    definition = _with_disk(stage.harness.definition("guest", dirty=DIRTY), image)
    driver = stage.harness.driver
    source = await driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    await stage.runs(source)
    incoming = await driver.accept(stage.plan(definition), definition, ReceiveSettings())
    migration = Migration(definition, source, incoming, stage.harness.patience_s)
    await migration.begin(FAST)
    await migration.held()
    await migration.let_go()
    await migration.destination.resume()
    await stage.runs(migration.destination)
    with pytest.raises(DriverRefused, match="lock"):
        await migration.source.resume()
    await stage.stands_still(migration.source)


async def test_what_blocks_a_migration_is_told(stage: Stage, tmp_path: Path) -> None:
    """A guest whose QEMU would refuse to be sent says so when it is looked at, in QEMU's words, as long as it holds."""
    definition = stage.harness.definition("guest", dirty=DIRTY)
    guest = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    assert () == (await guest.probe()).blockers
    share = {"driver": "vvfat", "node-name": "share", "dir": str(tmp_path), "rw": True}
    await guest.execute("blockdev-add", share)
    blockers = (await guest.probe()).blockers
    assert blockers
    assert any("vvfat" in blocker for blocker in blockers), blockers
    await guest.execute("blockdev-del", {"node-name": "share"})
    assert () == (await guest.probe()).blockers


def _create_image(image: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)


def _with_disk(definition: DomainDefinition, image: Path) -> DomainDefinition:
    disk = Disk(type=DiskType.FILE, format=DiskFormat.QCOW2, source_path=str(image), target="vdb", bus=DiskBus.VIRTIO)
    devices: Devices = replace(definition.devices, disks=(*definition.devices.disks, disk))
    return replace(definition, devices=devices)


@pytest.mark.parametrize("machine", ["pc", "q35"])
async def test_every_device_starts_and_moves(stage: Stage, tmp_path: Path, machine: str) -> None:
    """QEMU accepts the command line of a definition with one of everything, and such a guest moves."""
    definition = await _settled(stage, parse(_everything(machine, tmp_path)))
    assert await stage.harness.driver.check(definition) == ()
    source = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    assert (await source.devices())["serial0"].startswith("/dev/pts/")
    assert int((await source.devices())["vnc"]) >= 5900
    incoming = await stage.harness.driver.accept(stage.plan(definition), definition, ReceiveSettings())
    migration = Migration(definition, source, incoming, stage.harness.patience_s)
    await migration.begin(FAST)
    await migration.held()
    await migration.let_go()
    await migration.destination.resume()
    assert (await migration.destination.probe()).run_state is RunState.RUNNING


async def _settled(stage: Stage, definition: DomainDefinition) -> DomainDefinition:
    assert isinstance(stage.harness.driver, QemuDriver)
    return await stage.harness.driver.settle(definition)


def _everything(machine: str, directory: Path) -> str:
    for name in ("a", "b", "c"):
        (directory / f"{name}.img").write_bytes(bytes(1 << 20))
    return f"""
<domain type='qemu'><name>one, of everything</name><memory unit='MiB'>128</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='{machine}'>hvm</type></os><features><acpi/><apic/></features>
<cpu mode='maximum'><topology sockets='1' cores='2' threads='1'/></cpu>
<clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='hpet' present='no'/></clock>
<pm><suspend-to-mem enabled='no'/></pm>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>
<source file='{directory}/a.img'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='writethrough'/>
<source file='{directory}/b.img'/><target dev='sda' bus='scsi'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{directory}/c.img'/><target dev='sdb' bus='sata'/><shareable/></disk>
<disk type='file' device='cdrom'><target dev='sdc' bus='sata'/><readonly/></disk>
<interface type='user'><model type='virtio'/></interface><interface type='user'><model type='e1000'/></interface>
<serial type='pty'/><serial type='file'><source path='{directory}/serial,1.log'/><target port='1'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<input type='tablet' bus='usb'/><input type='keyboard' bus='virtio'/>
<graphics type='vnc' autoport='yes'/><video><model type='vga'/></video>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='virtio'/>
</devices></domain>"""


@pytest.fixture
def bridge() -> Iterator[str]:
    """A bridge of this host, where one can be made."""
    ip = shutil.which("ip")
    made = ip and subprocess.run([ip, "link", "add", BRIDGE, "type", "bridge"], check=False, capture_output=True)
    if not ip or not made or made.returncode or not Path("/dev/net/tun").exists():
        pytest.skip("no bridge can be made here")
    yield BRIDGE
    subprocess.run([ip, "link", "del", BRIDGE], check=True)


async def test_a_tap_lives_as_long_as_its_guest(stage: Stage, bridge: str, tmp_path: Path) -> None:
    """A guest on a bridge has a tap there, and the tap goes with the guest."""
    xml = _everything("pc", tmp_path).replace(
        "<interface type='user'><model type='virtio'/>",
        f"<interface type='bridge'><source bridge='{bridge}'/><model type='virtio'/><mtu size='1400'/>",
    )
    guest = await stage.harness.driver.start(stage.plan(parse(xml)), parse(xml), StartMode.PAUSED)
    assert len(_ports(bridge)) == 1
    await stage.harness.kill(guest)
    await eventually(lambda: not _ports(bridge), what="the tap is gone")


def _ports(bridge: str) -> list[str]:
    return [port.name for port in Path(f"/sys/class/net/{bridge}/brif").iterdir()]


async def test_memory_that_is_to_be_locked_is(stage: Stage) -> None:
    """Of a guest that says so the host may swap nothing out; of any other it may."""
    driver = stage.harness.driver
    plain = await driver.settle(stage.harness.definition("plain"))
    definition = await driver.settle(replace(stage.harness.definition("locked"), memory_locked=True))
    if any(violation.subject == "memoryBacking/locked" for violation in await driver.check(definition)):
        pytest.skip("this process may not lock so much memory")
    for one, locked in ((plain, False), (definition, True)):
        guest = await driver.start(stage.plan(one), one, StartMode.PAUSED)
        assert locked == (_locked_bytes(guest) >= one.memory_bytes)


async def test_a_guest_has_the_longer_to_start_the_more_it_locks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not up in time is given up, and what bounds the wait is named."""
    driver = stage.harness.driver
    plain = await driver.settle(stage.harness.definition("plain"))
    locked = await driver.settle(replace(stage.harness.definition("locked"), memory_locked=True))
    hasty = replace(qemu_harness.configuration(), start_timeout_s=0.0, lock_bytes_per_s=1)
    monkeypatch.setattr(driver, "_config", hasty)
    with pytest.raises(DriverRefused, match="not up within 0 s") as refusal:
        await driver.start(driver.plan(plain), plain, StartMode.PAUSED)
    assert "qemu.start_timeout_s" in refusal.value.remedy
    guest = await driver.start(driver.plan(locked), locked, StartMode.PAUSED)
    await guest.destroy()
    assert stage.harness.leftovers() == []


def _locked_bytes(guest: Guest) -> int:
    assert isinstance(guest, QemuGuest)
    status = Path(f"/proc/{guest.process.identity.pid}/status").read_text()
    return int(status.partition("VmLck:")[2].split()[0]) << 10


async def test_a_bridge_that_is_not_there_is_refused(stage: Stage, tmp_path: Path) -> None:
    """`check` says so, and a start leaves nothing."""
    xml = _everything("pc", tmp_path).replace(
        "<interface type='user'><model type='virtio'/>",
        "<interface type='bridge'><source bridge='nobridge0'/><model type='virtio'/>",
    )
    definition = parse(xml)
    violations = await stage.harness.driver.check(definition)
    assert ["there is no bridge nobridge0"] == [violation.description for violation in violations]
    with pytest.raises(DriverRefused, match="no tap"):
        await stage.harness.driver.start(stage.plan(definition), definition, StartMode.PAUSED)
    assert stage.harness.leftovers() == []
