"""What may change while a guest goes on running."""

import pytest
from hypothesis import HealthCheck, given, settings

from vmferryd.domains import definition
from vmferryd.domains.compatibility import abi_differences

from .documents import CLOUD_GUEST, RUNNING_GUEST
from .strategies import definitions


def difference(xml, old, new):
    """The differences after one replacement, as (xpath, problem)."""
    assert old in xml
    before, after = definition.parse(xml), definition.parse(xml.replace(old, new))
    assert before != after
    return [(finding.xpath, finding.problem) for finding in abi_differences(before, after)]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(definitions())
def test_a_guest_is_compatible_with_itself(original):
    """No differences, whatever the definition."""
    assert () == abi_differences(original, original)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<name>db-1</name>", "<name>db-2</name>"),
        ("<name>db-1</name>", "<name>db-1</name><title>t</title>"),
        ("id='7'", "id='8'"),
        ("<source dev='/dev/mapper/db-1' index='2'/>", "<source dev='/dev/mapper/other'/>"),
        ("cache='none' io='native'", "cache='writeback'"),
        ("<shareable/>", ""),
        ("dev='tap7' managed='no'", "dev='tap9'"),
        ("<link state='up'/>", "<link state='down'/>"),
        ("/dev/pts/4", "/dev/pts/9"),
        ("127.0.0.1", "::1"),
        ("port='5901'", "port='5902'"),
        ("adjustment='-3'", "adjustment='5'"),
        ("check='full'", "check='none'"),
        ("<on_crash>preserve</on_crash>", ""),
        ("<alias name='net0'/>", "<alias name='ua-net'/>"),
        ("/usr/bin/qemu-system-x86_64", "/opt/qemu"),
        ("<audio id='1' type='none'/>", ""),
    ],
)
def test_what_only_the_host_knows_may_change(old, new):
    """Paths, taps, listeners, cache modes, names and actions."""
    assert [] == difference(RUNNING_GUEST, old, new)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("type='kvm'", "type='qemu'", ("/domain/@type", "type would change from 'kvm' to 'qemu'")),
        ("f002</uuid>", "f009</uuid>", ("/domain/uuid", None)),
        ("4194304</memory>", "8388608</memory>", ("/domain/memory", None)),
        ("i440fx-8.2", "i440fx-9.0", ("/domain/os", None)),
        ("<vmport state='off'/>", "", ("/domain/features", "vmport would change from 'False' to nothing")),
        ("Skylake-Server-IBRS", "Nehalem", ("/domain/cpu", None)),
        ("name='hle'", "name='rtm'", ("/domain/cpu", None)),
        ("present='yes'", "present='no'", ("/domain/clock", None)),
        ("<serial>DB1-0001<", "<serial>DB1-0002<", ("/domain/devices/disk[target/@dev='sda']", None)),
        ("<shareable/>", "<readonly/>", ("/domain/devices/disk[target/@dev='sda']", None)),
        ("slot='0x03'", "slot='0x04'", (
            "/domain/devices/interface[mac/@address='52:54:00:aa:bb:02']", "slot would change from '3' to '4'")),
        ("type='e1000'", "type='virtio'", ("/domain/devices/interface[mac/@address='52:54:00:aa:bb:02']", None)),
        ("<mtu size='9000'/>", "", ("/domain/devices/interface[mac/@address='52:54:00:aa:bb:02']", None)),
        ("type='vga'", "type='bochs'", ("/domain/devices/video[1]", None)),
        ("<memballoon model='none'/>", "", ("/domain/devices/memballoon", None)),
    ],
)  # fmt: skip
def test_what_the_guest_sees_must_stay(old, new, expected):
    """Each change is reported where it is, and nothing else is."""
    [(xpath, problem)] = difference(RUNNING_GUEST, old, new)
    assert expected[0] == xpath
    assert expected[1] in {None, problem}


def test_devices_neither_come_nor_go():
    """Another MAC address is another device: one is lost and one is new."""
    lost, new = difference(CLOUD_GUEST, "52:54:00:6B:3C:58", "52:54:00:6B:3C:59")
    assert ("/domain/devices/interface[mac/@address='52:54:00:6b:3c:58']", "the guest would lose this device") == lost
    assert ("/domain/devices/interface[mac/@address='52:54:00:6b:3c:59']", "the guest would get this device") == new


def test_the_order_of_the_document_does_not_matter():
    """Devices are told apart by what they are, not by where they stand."""
    nic = "<interface type='user'><mac address='52:54:00:00:00:0{0}'/><model type='virtio'/></interface>"
    first, second = nic.format(1), nic.format(2)
    marker = "<memballoon model='none'/>"
    forth = definition.parse(RUNNING_GUEST.replace(marker, first + second + marker))
    back = definition.parse(RUNNING_GUEST.replace(marker, second + first + marker))
    assert forth != back
    assert () == abi_differences(forth, back)
