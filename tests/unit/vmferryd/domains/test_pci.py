"""Places on the PCI buses."""

import pytest

from vmferryd.domains.addresses import assign_addresses
from vmferryd.domains.devices import PciAddress
from vmferryd.domains.findings import DefinitionRefused

from .documents import DISK, NIC, parsed

ROOT_PORT = "<controller type='pci' model='pcie-root-port'/>"
AT = "<address type='pci' {0}/>"


def placed(devices, **parts):
    """The devices of a bare guest after assignment."""
    return assign_addresses(parsed(devices, **parts)).devices


def problem(devices, **parts):
    """The one problem for which assignment is refused."""
    with pytest.raises(DefinitionRefused) as caught:
        assign_addresses(parsed(devices, **parts))
    [finding] = caught.value.findings
    return finding.problem


@pytest.mark.parametrize(("machine", "expected"), [("pc", [2, 3, 4]), ("q35", [1, 2, 3])])
def test_slots_begin_behind_the_chipset(machine, expected):
    """The video card is first, then interfaces, then disks, from the first slot the chipset leaves."""
    devices = placed(
        DISK.format("vda", "virtio", "") + NIC.format(1, "") + "<video><model type='vga'/></video>", machine=machine
    )
    addresses = [devices.videos[0].address, devices.interfaces[0].address, devices.disks[0].address]
    assert expected == [address.slot for address in addresses]


def test_given_slots_are_left_out():
    """Nothing is put into a slot of which any function is given."""
    devices = placed(NIC.format(1, "") + NIC.format(2, AT.format("slot='1' function='3'")))
    assert [2, 1] == [interface.address.slot for interface in devices.interfaces]


def test_root_ports_share_slots():
    """Eight to a slot, the first of each announcing the others; chassis and port follow."""
    ports = [c for c in placed(ROOT_PORT * 9).controllers if c.chassis is not None]
    assert PciAddress(slot=1, function=0, multifunction=True) == ports[0].address
    assert PciAddress(slot=1, function=7) == ports[7].address
    assert PciAddress(slot=2, function=0, multifunction=True) == ports[8].address
    assert ([*range(1, 10)], 8, 16) == ([port.chassis for port in ports], ports[0].port, ports[8].port)


def test_a_device_may_be_behind_a_root_port():
    """Its slot there is 0."""
    devices = placed(ROOT_PORT + NIC.format(1, AT.format("bus='1' slot='0'")))
    assert PciAddress(bus=1) == devices.interfaces[0].address


def test_the_chipsets_controllers_are_where_it_has_them():
    """SATA of q35, IDE and USB of pc."""
    q35 = placed("<controller type='sata' index='0'/>").controllers[0]
    ide, usb = placed(
        "<controller type='ide' index='0'/><controller type='usb' model='piix3-uhci'/>", machine="pc"
    ).controllers[:2]
    assert ["0000:00:1f.2", "0000:00:01.1", "0000:00:01.2"] == [str(c.address) for c in (q35, ide, usb)]


@pytest.mark.parametrize(
    ("devices", "machine", "expected"),
    [
        (NIC.format(1, AT.format("slot='1'")), "pc", "slot 1 is the chipset's"),
        (NIC.format(1, AT.format("slot='0x1f'")), "q35", "slot 31 is the chipset's"),
        (NIC.format(1, AT.format("bus='3'")), "q35", "there is no PCI bus 3"),
        (ROOT_PORT + NIC.format(1, AT.format("bus='1' slot='2'")), "q35", "a root port has only slot 0, not 2"),
        (ROOT_PORT, "pc", "the machine has no controller 'pcie-root-port' with index 1"),
        ("<controller type='ide'/>", "q35", "the machine has no controller 'ide' with index 0"),
        ("<controller type='pci' model='pci-root'/>", "q35", "the machine has no controller 'pci-root' with index 0"),
        (
            "<controller type='sata' index='0'><address type='pci' slot='5'/></controller>",
            "q35",
            "the machine has it at 0000:00:1f.2, not at 0000:00:05.0",
        ),
        ("".join(NIC.format(n, "") for n in range(31)), "q35", "there are more PCI devices than slots"),
    ],
)
def test_what_does_not_fit_is_refused(devices, machine, expected):
    """Each conflict is named."""
    if "ide" in devices and machine == "q35":
        devices = devices.replace("/>", " index='0'/>")
    assert expected == problem(devices, machine=machine)
