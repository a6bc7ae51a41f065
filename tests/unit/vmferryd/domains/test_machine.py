"""Memory, vCPUs, what is booted, features and lifecycle in the document."""

import pytest

from vmferryd.domains import definition
from vmferryd.domains.model import BootDevice, Lifecycle, LifecycleAction

from .documents import DISK, bare, parsed, refusals, refused_parts


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("<memory>1024</memory>", 2**20),
        ("<memory unit='GiB'> 2 </memory>", 2**31),
        ("<memory unit='KB'>1</memory>", 1024),
        ("<memory unit='bytes'>4097</memory>", 5 * 1024),
    ],
)
def test_memory_is_in_bytes(memory, expected):
    """KiB is the default unit, and sizes are rounded up to KiB."""
    assert expected == _parse_with_memory(memory).memory_bytes


def test_current_memory_can_be_less():
    """The balloon may start inflated."""
    guest = parsed(general="<currentMemory unit='MiB'>256</currentMemory>")
    assert (512 * 2**20, 256 * 2**20) == (guest.memory_bytes, guest.current_memory_bytes)


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("", ["/domain/memory"]),
        ("<memory/>", ["/domain/memory"]),
        ("<memory>0</memory>", ["/domain/memory"]),
        ("<memory>lots</memory>", ["/domain/memory"]),
        ("<memory unit='pages'>1</memory>", ["/domain/memory/@unit"]),
        ("<memory dumpCore='off'>1</memory>", ["/domain/memory/@dumpCore"]),
    ],
)
def test_wrong_memory_is_refused(memory, expected):
    """Missing, zero, not a number, another unit, tuning."""
    xml = bare().replace("<memory unit='MiB'>512</memory>", memory)
    assert expected == [xpath for xpath, _ in refusals(xml)]


def test_vcpus_are_counted():
    """The placement libvirt writes and a current number that says the same are accepted."""
    assert 4 == parsed(general="<vcpu placement='static' current='4'>4</vcpu>").vcpus


def test_a_kernel_can_be_booted():
    """The command line is kept as it is, spaces included."""
    system = parsed(os="<kernel>/k</kernel><initrd>/i</initrd><cmdline> a  b </cmdline>").os
    assert ("/k", "/i", " a  b ") == (system.kernel, system.initrd, system.cmdline)


def test_the_boot_order_is_kept():
    """Classes of devices in the order of the document."""
    assert (BootDevice.NETWORK, BootDevice.HD) == parsed(os="<boot dev='network'/><boot dev='hd'/>").os.boot_devices


def test_actions_are_kept():
    """Each event has its own action."""
    lifecycle = parsed(general="<on_reboot>destroy</on_reboot><on_crash>preserve</on_crash>").lifecycle
    assert Lifecycle(on_reboot=LifecycleAction.DESTROY, on_crash=LifecycleAction.PRESERVE) == lifecycle


@pytest.mark.parametrize(
    ("general", "expected"),
    [
        ("<currentMemory unit='GiB'>9</currentMemory>", ["/domain/currentMemory"]),
        ("<vcpu current='1'>2</vcpu>", ["/domain/vcpu/@current"]),
        ("<vcpu placement='auto'>2</vcpu>", ["/domain/vcpu/@placement"]),
        ("<vcpu>0</vcpu>", ["/domain/vcpu"]),
        ("<features><hyperv/></features>", ["/domain/features/hyperv"]),
        ("<features><acpi x='1'/></features>", ["/domain/features/acpi/@x"]),
        ("<on_crash>coredump-destroy</on_crash>", ["/domain/on_crash"]),
        ("<resource><partition>/mine</partition></resource>", ["/domain/resource/partition"]),
        ("<memoryBacking><hugepages/></memoryBacking>", ["/domain/memoryBacking/hugepages"]),
        ("<pm><suspend-to-mem enabled='maybe'/></pm>", ["/domain/pm/suspend-to-mem/@enabled"]),
        ("<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'/>", ["/domain/q:commandline"]),
    ],
)
def test_what_is_not_supported_is_refused(general, expected):
    """Each construct is reported where it stands."""
    assert expected == refused_parts(general=general)


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("<cmdline>x</cmdline>", ["/domain/os"]),
        ("<boot dev='fd'/>", ["/domain/os/boot/@dev"]),
        ("<boot dev='hd'/><boot dev='hd'/>", ["/domain/os/boot[2]/@dev"]),
        ("<loader>/ovmf</loader><nvram/>", ["/domain/os/loader", "/domain/os/nvram"]),
    ],
)
def test_a_boot_that_is_not_supported_is_refused(system, expected):
    """Only the default firmware, hard disk, CD-ROM, network and a kernel with all that belongs to it."""
    assert expected == refused_parts(os=system)


def test_there_is_one_boot_order():
    """Devices with an order of their own and a list of classes contradict each other."""
    devices = DISK.format("vda", "virtio", "<boot order='1'/>")
    assert ["/domain/os/boot"] == refused_parts(devices, os="<boot dev='hd'/>")


@pytest.mark.parametrize("machine", ["microvm", "pc-q35-", "virt", "isapc"])
def test_other_machines_are_refused(machine):
    """Only the two families whose PCI buses are known."""
    assert ["/domain/os/type/@machine"] == refused_parts(machine=machine)


def test_nothing_about_the_machine_is_guessed():
    """Architecture and machine type have to be said, and the rest of the type has to be supported."""
    xml = bare().replace("<type arch='x86_64' machine='q35'>hvm", "<type>xen")
    assert [("/domain/os/type", 6), ("/domain/os/type/@arch", 6), ("/domain/os/type/@machine", 6)] == refusals(xml)


def _parse_with_memory(memory):
    return definition.parse(bare().replace("<memory unit='MiB'>512</memory>", memory))
