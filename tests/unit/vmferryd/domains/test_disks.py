"""Disks in the document."""

import pytest

from vmferryd.domains.devices import DiskBus, DiskFormat

from .documents import DISK, NIC, devices_of, refused_parts


def test_the_bus_follows_from_the_name():
    """A name like vda is virtio and one like sda SCSI unless said otherwise, as in libvirt."""
    devices = devices_of(
        "<disk><source file='/a'/><target dev='vda'/></disk><disk><source file='/b'/><target dev='sda'/></disk>"
    )
    assert [DiskBus.VIRTIO, DiskBus.SCSI] == [disk.bus for disk in devices.disks]
    assert DiskFormat.RAW is devices.disks[0].format


def test_a_cdrom_is_read_only_and_may_be_empty():
    """A drive without a medium is a device like any other."""
    [disk] = devices_of("<disk device='cdrom'><target dev='sda' bus='sata'/></disk>").disks
    assert (True, None) == (disk.read_only, disk.source_path)


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        ("<disk type='network'><source protocol='rbd'/></disk>", ["disk/@type"]),
        ("<disk device='floppy'/>", ["disk/@device"]),
        ("<disk><target dev='vda'/></disk>", ["disk"]),
        ("<disk><source dev='/a'/><target dev='vda'/></disk>", ["disk/source", "disk/source/@dev"]),
        ("<disk><source file='/a'/></disk>", ["disk/target/@bus", "disk/target/@dev"]),
        ("<disk><source file='/a'/><target dev='hda'/></disk>", ["disk/target/@bus"]),
        ("<disk><source file='/a'/><target dev='hda' bus='ide'/></disk>", ["disk/target/@bus"]),
        ("<disk><source file='/a'/><target dev='../x' bus='sata'/></disk>", ["disk/target/@dev"]),
        (DISK.format("vda", "virtio", "<driver name='tap'/>"), ["disk/driver/@name"]),
        (DISK.format("vda", "virtio", "<driver type='vmdk'/>"), ["disk/driver/@type"]),
        (DISK.format("vda", "virtio", "<driver iothread='1'/>"), ["disk/driver/@iothread"]),
        (
            DISK.format("vda", "virtio", "<backingStore type='file'><format type='raw'/></backingStore>"),
            ["disk/backingStore/@type", "disk/backingStore/format"],
        ),
        (DISK.format("vda", "virtio", "<boot order='0'/>"), ["disk/boot/@order"]),
        (DISK.format("vda", "virtio", "<mirror/>"), ["disk/mirror"]),
        (DISK.format("vda", "virtio", "<readonly x='1'/>"), ["disk/readonly/@x"]),
        (DISK.format("vda", "virtio", "") * 2, ["disk[2]/target/@dev"]),
    ],
)
def test_what_is_not_supported_is_refused(disk, expected):
    """Each construct is reported where it stands."""
    assert expected == refused_parts(disk)


def test_a_boot_order_is_used_once():
    """Disks and interfaces share the numbers."""
    order = "<boot order='1'/>"
    assert ["interface/boot/@order"] == refused_parts(DISK.format("vda", "virtio", order) + "\n" + NIC.format(1, order))
