"""Every device in its place."""

import pytest
from hypothesis import HealthCheck, given, settings

from vmferryd.domains import definition
from vmferryd.domains.addresses import assign_addresses
from vmferryd.domains.devices import ControllerType, DriveAddress, UsbAddress, VirtioSerialAddress
from vmferryd.domains.findings import DefinitionRefused
from vmferryd.domains.locating import locate

from .documents import CLOUD_GUEST, DISK, NIC, RUNNING_GUEST, parsed
from .strategies import definitions

CHANNEL = "<channel type='unix'><target type='virtio' name='{0}'/>{1}</channel>"
THOROUGH = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def placed(devices, **parts):
    """The devices of a bare guest after assignment."""
    return assign_addresses(parsed(devices, **parts)).devices


def conflicts(devices, **parts):
    """The paths of what assignment refuses."""
    with pytest.raises(DefinitionRefused) as caught:
        assign_addresses(parsed(devices, **parts))
    return [finding.xpath.removeprefix("/domain/devices/") for finding in caught.value.findings]


@THOROUGH
@given(definitions())
def test_assignment_is_final(original):
    """Assigning once more changes nothing, and no two devices have one alias."""
    once = assign_addresses(original)
    aliases = [device.alias for _, device in locate(once.devices) if device.alias is not None]
    assert once == assign_addresses(once)
    assert len(aliases) == len(set(aliases))


@THOROUGH
@given(definitions())
def test_assignment_adds_only(original):
    """Nothing but aliases, addresses, root port numbers and controllers is different afterwards."""
    before, after = dict(locate(original.devices)), dict(locate(assign_addresses(original).devices))
    assert list(before) == [xpath for xpath in after if xpath in before]
    assert all("controller" in xpath for xpath in after if xpath not in before)


def test_a_running_guest_keeps_its_places():
    """What libvirt assigned is not touched."""
    guest = definition.parse(RUNNING_GUEST)
    before, after = dict(locate(guest.devices)), dict(locate(assign_addresses(guest).devices))
    given_places = {xpath: device.address for xpath, device in before.items() if device.address is not None}
    assert given_places == {xpath: after[xpath].address for xpath in given_places}


def test_a_cloud_guest_gets_every_place():
    """All of libvirt's kinds of places in one guest."""
    devices = assign_addresses(definition.parse(CLOUD_GUEST)).devices
    found = {device.alias: str(device.address) for _, device in locate(devices) if device.address is not None}
    assert {
        "video0": "0000:00:01.0",
        "pci.1": "0000:00:02.0",
        "pci.2": "0000:00:02.1",
        "pci.3": "0000:00:02.2",
        "usb": "0000:00:03.0",
        "virtio-serial0": "0000:00:04.0",
        "net0": "0000:00:05.0",
        "virtio-disk0": "0000:00:06.0",
        "balloon0": "0000:00:07.0",
        "rng0": "0000:00:08.0",
        "sata0": "0000:00:1f.2",
        "sata0-0-0": "0-0-0-0",
        "channel0": "0-0-1",
        "input0": "0-1",
    } == found


def test_a_drive_goes_where_its_name_says():
    """The eighth SCSI disk is the first of the second controller; a taken unit makes room for the next."""
    devices = placed(
        DISK.format("sdh", "scsi", "")
        + DISK.format("sdb", "scsi", "")
        + DISK.format("sdc", "scsi", "<address type='drive' unit='1'/>")
    )
    assert [DriveAddress(1, 0, 0, 0), DriveAddress(0, 0, 0, 0), DriveAddress(0, 0, 0, 1)] == [
        disk.address for disk in devices.disks
    ]
    scsi = [controller.index for controller in devices.controllers if controller.type is ControllerType.SCSI]
    assert [1, 0] == scsi


def test_ports_are_given_out_from_one():
    """Given ports are left out, and a controller with few ports makes way for the next."""
    devices = placed(
        "<controller type='virtio-serial' index='0' ports='3'/>"
        + CHANNEL.format("a", "")
        + CHANNEL.format("b", "<address type='virtio-serial' port='1'/>")
        + CHANNEL.format("c", "")
        + "<input type='tablet'/><input type='tablet'/>"
    )
    assert [VirtioSerialAddress(port=2), VirtioSerialAddress(port=1), VirtioSerialAddress(1, 0, 1)] == [
        channel.address for channel in devices.channels
    ]
    assert [UsbAddress(port="1"), UsbAddress(port="2")] == [device.address for device in devices.inputs]


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (DISK.format("sda", "sata", "<address type='drive' unit='6'/>"), ["disk[target/@dev='sda']"]),
        (DISK.format("sda", "sata", "<address type='drive' target='1'/>"), ["disk[target/@dev='sda']"]),
        (DISK.format("sda", "scsi", "<address type='drive' bus='1'/>"), ["disk[target/@dev='sda']"]),
        (CHANNEL.format("a", "<address type='virtio-serial' port='0'/>"), ["channel[target/@name='a']"]),
        (CHANNEL.format("a", "<address type='virtio-serial' bus='1' port='1'/>"), ["channel[target/@name='a']"]),
        ("<controller type='usb' index='0' model='none'/><input type='tablet'/>", ["input[1]"]),
        ("<controller type='usb' index='0' model='piix3-uhci'/>" + "<input type='tablet'/>" * 3, ["input[3]"]),
        (NIC.format(1, "<address type='pci' slot='0'/>"), ["interface[mac/@address='52:54:00:00:00:01']"]),
    ],
)
def test_places_that_do_not_exist_are_refused(devices, expected):
    """A given place has to be one that the machine has."""
    assert expected == conflicts(devices)
