"""Definitions → command lines, whole."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from qemu_programs import program

from vmferryd.domains.definition import parse
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import StartMode
from vmferryd.drivers.qemu import standing
from vmferryd.drivers.qemu.arguments import spell, spell_json
from vmferryd.drivers.qemu.command import DEFERRED, Surroundings, command_line, monitor_mark, receiver_line, settle

GOLDEN = Path(__file__).parent / "golden"
DIRECTORY = Path("/run/vmferry/5f2c8a6e-00c0ffee")
NOW = datetime(2026, 11, 23, 18, 0, 0, tzinfo=UTC)
UUID = "5f2c8a6e-0b57-4d0e-9a36-0d9f5c2ab001"

PLAIN = f"""
<domain type='qemu'><name>plain</name><uuid>{UUID}</uuid><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>/boot/vmlinuz</kernel><initrd>/boot/initrd,1</initrd>
<cmdline>console=ttyS0 a,b</cmdline></os>
<devices><serial type='file'><source path='/tmp/out.log'/></serial><memballoon model='none'/></devices></domain>"""

SERVER = f"""
<domain type='kvm'><name>server, the first</name><uuid>{UUID}</uuid><memory unit='GiB'>2</memory><vcpu>4</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/><boot dev='network'/></os>
<features><acpi/><apic/><vmport state='off'/></features>
<cpu mode='host-passthrough' migratable='on'><topology sockets='1' cores='2' threads='2'/></cpu>
<clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='pit' tickpolicy='delay'/>
<timer name='hpet' present='no'/></clock>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>preserve</on_crash>
<pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'
 detect_zeroes='unmap'/><source file='/srv/a.qcow2'/><target dev='vda' bus='virtio'/><serial>A1</serial></disk>
<disk type='block' device='disk'><driver name='qemu' type='raw' cache='directsync'/><source dev='/dev/vg/b'/>
<target dev='sda' bus='scsi'/><shareable/></disk>
<disk type='file' device='cdrom'><source file='/srv/seed.iso'/><target dev='sdb' bus='sata'/><readonly/></disk>
<controller type='pci' model='pcie-root'/><controller type='pci' model='pcie-root-port'/>
<interface type='bridge'><source bridge='br0'/><mac address='52:54:00:00:00:01'/><model type='virtio'/>
<mtu size='9000'/></interface>
<interface type='ethernet'><mac address='52:54:00:00:00:02'/><target dev='tap7'/><model type='e1000'/></interface>
<serial type='pty'/><console type='pty'/>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<input type='tablet' bus='usb'/><graphics type='vnc' port='5907' listen='0.0.0.0'/>
<video><model type='virtio' heads='1'/></video>
<rng model='virtio'><rate bytes='1024' period='500'/><backend model='random'>/dev/urandom</backend></rng>
<memballoon model='virtio' freePageReporting='on'/>
</devices></domain>"""

OLD = f"""
<domain type='qemu'><name>old</name><uuid>{UUID}</uuid><memory unit='MiB'>64</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='pc-i440fx-6.2'>hvm</type></os>
<cpu mode='custom' match='exact'><model>Skylake-Server</model><feature policy='disable' name='hle'/>
<feature policy='require' name='pcid'/></cpu>
<clock offset='variable' adjustment='3600' basis='utc'/>
<memoryBacking><locked/></memoryBacking>
<on_poweroff>preserve</on_poweroff><on_reboot>destroy</on_reboot>
<devices><disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
<interface type='user'><mac address='52:54:00:00:00:03'/><model type='virtio'/><boot order='1'/></interface>
<input type='keyboard' bus='virtio'/><graphics type='vnc'/><video><model type='vga' vram='16384'/></video>
</devices></domain>"""


def settled(xml: str) -> DomainDefinition:
    """The definition as it is started."""
    return settle(parse(xml), program())


def lines(argv: tuple[str, ...]) -> str:
    """A command line for the eye: each option with its argument on a line."""
    text = argv[0]
    for word in argv[1:]:
        text += ("\n" if word.startswith("-") else " ") + word
    return text + "\n"


@pytest.mark.parametrize(
    ("name", "xml", "around"),
    [
        ("plain", PLAIN, Surroundings(directory=DIRECTORY, now=NOW)),
        ("server", SERVER, Surroundings(directory=DIRECTORY, now=NOW, incoming=DEFERRED, tap_descriptors={"net0": 100})),
        ("old", OLD, Surroundings(directory=DIRECTORY, now=NOW, sandboxed=False)),
    ],
)
def test_command_lines_are_as_recorded(name: str, xml: str, around: Surroundings) -> None:
    """A change of any word changes a guest's machine, or how it is run, and has to be seen."""
    assert lines(command_line(settled(xml), around)) == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("on_arrival", StartMode)
def test_a_receiver_without_a_daemon(on_arrival: StartMode) -> None:
    """It is the same machine; it listens, has the gate's node, and its CPUs stand still on arrival only if they are to."""
    around = Surroundings(directory=Path(), now=NOW, incoming="tcp:0:4444")
    argv = receiver_line(settled(PLAIN), around, on_arrival)
    halted = ["-S"] if on_arrival is StartMode.PAUSED else []
    assert [word for word in command_line(settled(PLAIN), around) if word != "-S"] + halted == [
        *[word for word in argv[:-2] if word != "-S"],
        *[word for word in argv if word == "-S"],
    ]
    assert ("-incoming", "tcp:0:4444") == argv[-4:-2]
    assert "vmferry-gate" == json.loads(argv[-1])["node-name"]
    assert not [word for word in argv if "/run/" in word]


def test_settling_twice_changes_nothing() -> None:
    """And what it says is a version, a place for each device, and an emulator."""
    once = settled(SERVER)
    assert settle(once, program()) == once
    assert once.os.machine == "pc-q35-7.2"
    assert once.devices.emulator == "/usr/bin/qemu-system-x86_64"


def test_source_and_destination_differ_only_in_waiting_and_folder() -> None:
    """The machine is the same on both; who waits has a second monitor."""
    here = Surroundings(directory=DIRECTORY, now=NOW)
    source = command_line(settled(PLAIN), here)
    destination = command_line(settled(PLAIN), replace(here, incoming=DEFERRED))
    more = tuple(standing.arguments(DIRECTORY))
    at = destination.index(more[1]) - 1
    assert more == destination[at : at + len(more)]
    assert (*source, "-incoming", "defer") == destination[:at] + destination[at + len(more) :]


def test_a_definition_that_is_not_settled_is_refused() -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="not settled"):
        command_line(parse(PLAIN), Surroundings(directory=DIRECTORY, now=NOW))


def test_the_mark_is_a_word_of_the_command_line() -> None:
    """It tells the process from every other one."""
    argv = command_line(settled(PLAIN), Surroundings(directory=DIRECTORY, now=NOW))
    assert monitor_mark(DIRECTORY) in argv


def test_commas_are_doubled() -> None:
    """A path may contain them."""
    assert spell("file", {"path": "/a,b", "append": True, "mode": None}) == "file,path=/a,,b,append=on"
    assert json.loads(spell_json({"filename": '/a,"b', "cache": None})) == {"filename": '/a,"b'}
