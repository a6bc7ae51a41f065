"""Names of devices."""

import pytest

from vmferryd.domains.addresses import assign_addresses
from vmferryd.domains.aliases import target_index

from .documents import DISK, NIC, parsed


def aliases(devices, kind):
    """The aliases of one kind of device after assignment."""
    return [device.alias for device in getattr(assign_addresses(parsed(devices)).devices, kind)]


@pytest.mark.parametrize(("target", "expected"), [("vda", 0), ("sdz", 25), ("vdaa", 26), ("vdba", 52)])
def test_a_target_has_a_number(target, expected):
    """Letters count like the columns of a spreadsheet."""
    assert expected == target_index(target)


def test_a_disk_is_named_after_its_place():
    """The names do not depend on which other disks there are."""
    disks = DISK.format("vdc", "virtio", "") + DISK.format("sdb", "sata", "") + DISK.format("sda", "scsi", "")
    assert ["virtio-disk2", "sata0-0-1", "scsi0-0-0-0"] == aliases(disks, "disks")


def test_given_names_are_kept_and_not_given_again():
    """The lowest number that is free is taken."""
    nics = NIC.format(1, "") + NIC.format(2, "<alias name='net0'/>") + NIC.format(3, "<alias name='ua-x'/>")
    assert ["net1", "net0", "ua-x"] == aliases(nics, "interfaces")


def test_a_taken_name_is_varied():
    """A name that follows from the place gets a suffix if somebody else has it."""
    devices = DISK.format("vda", "virtio", "") + NIC.format(1, "<alias name='virtio-disk0'/>")
    assert ["virtio-disk0-1"] == aliases(devices, "disks")
