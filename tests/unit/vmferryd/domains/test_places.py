"""Addresses and aliases in the document."""

import pytest

from vmferryd.domains.devices import DriveAddress, PciAddress, UsbAddress, VirtioSerialAddress

from .documents import DISK, NIC, devices_of, refused_parts

CHANNEL = "<channel type='unix'><target type='virtio' name='{0}'/>{1}</channel>"


def test_each_kind_of_address_is_read():
    """PCI, drive, virtio-serial and USB addresses have their own nouns."""
    devices = devices_of(
        NIC.format(1, "<address type='pci' slot='0x03' function='0x1' multifunction='on'/>")
        + DISK.format("sdb", "sata", "<address type='drive' controller='1' unit='4'/>")
        + CHANNEL.format("a", "<address type='virtio-serial' controller='0' bus='0' port='2'/>")
        + "<input type='tablet' bus='usb'><address type='usb' bus='0' port='1.2'/></input>"
    )
    assert PciAddress(slot=3, function=1, multifunction=True) == devices.interfaces[0].address
    assert DriveAddress(controller=1, unit=4) == devices.disks[0].address
    assert VirtioSerialAddress(port=2) == devices.channels[0].address
    assert UsbAddress(port="1.2") == devices.inputs[0].address


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (NIC.format(1, "<address type='drive'/>"), ["interface/address/@type"]),
        (NIC.format(1, "<address type='ccw'/>"), ["interface/address/@type", "interface/address/@type"]),
        (NIC.format(1, "<address type='pci' slot='0x20'/>"), ["interface/address/@slot"]),
        (NIC.format(1, "<address type='pci' domain='0x1'/>"), ["interface/address/@domain"]),
        (NIC.format(1, "<address/>"), ["interface/address/@type"]),
        (NIC.format(1, "<alias name='1 2'/>"), ["interface/alias/@name"]),
        ("<input type='mouse'><address type='usb' port='1'/></input>", ["input/address/@type"]),
        ("<input type='tablet'><address type='usb' port='x'/></input>", ["input/address/@port"]),
    ],
)
def test_wrong_addresses_are_refused(devices, expected):
    """An address has to fit the device and the bounds of its kind."""
    assert set(expected) == set(refused_parts(devices))


def test_a_place_or_a_name_is_taken_once():
    """The second device with the same address or alias is refused."""
    place = "<alias name='x'/><address type='pci' slot='3'/>"
    assert ["interface[2]/address", "interface[2]/alias/@name"] == refused_parts(NIC.format(1, place) + NIC.format(2, place))


def test_drive_addresses_of_different_buses_do_not_collide():
    """SATA and SCSI number their controllers separately."""
    place = "<address type='drive' unit='0'/>"
    assert 2 == len(devices_of(DISK.format("sda", "sata", place) + DISK.format("sdb", "scsi", place)).disks)
