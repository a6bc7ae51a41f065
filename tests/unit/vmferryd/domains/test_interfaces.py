"""Network interfaces in the document."""

import pytest

from .documents import NIC, devices_of, refused_parts

BRIDGED = "<interface type='bridge'><source bridge='{0}'/><mac address='{1}'/><model type='{2}'/>{3}</interface>"
MAC = "52:54:00:00:00:01"


def test_a_bridged_interface_is_read():
    """Bridge, tap device, link and MTU are kept; the MAC address is lower case."""
    rest = "<target dev='tap0'/><link state='down'/><mtu size='1400'/>"
    [interface] = devices_of(BRIDGED.format("br0", "52:54:00:AB:00:01", "e1000", rest)).interfaces
    assert ("br0", "tap0", "52:54:00:ab:00:01") == (interface.bridge, interface.target_device, interface.mac)
    assert ("e1000", "down", 1400) == (interface.model, interface.link, interface.mtu_bytes)


@pytest.mark.parametrize(
    ("interface", "expected"),
    [
        ("<interface type='network'><source network='default'/></interface>", ["interface/@type"]),
        ("<interface/>", ["interface/@type"]),
        ("<interface type='user'/>", ["interface/model/@type"]),
        (BRIDGED.format("br0", MAC, "rtl8139", ""), ["interface/model/@type"]),
        (BRIDGED.format("br0", "51:54:00:00:00:01", "virtio", ""), ["interface/mac/@address"]),
        (BRIDGED.format("br0", "52:54:00", "virtio", ""), ["interface/mac/@address"]),
        (BRIDGED.format("a bridge", MAC, "virtio", ""), ["interface/source/@bridge"]),
        (BRIDGED.format("br0", MAC, "virtio", "<target dev='much-too-long-name'/>"), ["interface/target/@dev"]),
        (BRIDGED.format("br0", MAC, "virtio", "<target managed='no'/>"), ["interface/target/@managed"]),
        (BRIDGED.format("br0", MAC, "virtio", "<driver queues='4'/>"), ["interface/driver"]),
        (BRIDGED.format("br0", MAC, "virtio", "<mtu size='1'/>"), ["interface/mtu/@size"]),
        (NIC.format(1, "<source bridge='br0'/>"), ["interface/source"]),
        (NIC.format(1, "") * 2, ["interface[2]/mac/@address"]),
        (NIC.format(1, "<target dev='t'/>") + NIC.format(2, "<target dev='t'/>"), ["interface[2]/target/@dev"]),
    ],
)
def test_what_is_not_supported_is_refused(interface, expected):
    """Each construct is reported where it stands."""
    assert expected == refused_parts(interface)
