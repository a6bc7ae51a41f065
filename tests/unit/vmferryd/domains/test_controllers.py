"""Controllers, balloon and random number generators in the document."""

import pytest

from .documents import devices_of, refused_parts


def test_a_free_index_is_given_to_controllers_without_one():
    """Indices that are given stay; the others get the lowest free one of their type."""
    xml = (
        "<controller type='scsi' index='0' model='virtio-scsi'/>"
        "<controller type='scsi' model='virtio-scsi'/>"
        "<controller type='virtio-serial'/>"
    )
    assert [0, 1, 0] == [controller.index for controller in devices_of(xml).controllers]


def test_a_root_port_keeps_its_details():
    """Chassis and port are part of what the guest sees."""
    xml = (
        "<controller type='pci' index='1' model='pcie-root-port'>"
        "<model name='pcie-root-port'/><target chassis='3' port='0x10'/></controller>"
    )
    [port] = devices_of(xml).controllers
    assert (3, 16, "pcie-root-port") == (port.chassis, port.port, port.hardware)


def test_a_rate_has_a_period():
    """A second, if the document does not say."""
    [rng] = devices_of("<rng model='virtio'><rate bytes='64'/><backend model='random'/></rng>").rngs
    assert (64, 1000, None) == (rng.rate_bytes, rng.rate_period_ms, rng.path)


def test_there_is_a_balloon_unless_the_document_says_none():
    """As in libvirt."""
    assert "virtio" == devices_of("").memory_balloon.model
    assert "none" == devices_of("<memballoon model='none'/>").memory_balloon.model
    balloon = devices_of("<memballoon model='virtio' autodeflate='on' freePageReporting='off'/>").memory_balloon
    assert (True, False) == (balloon.autodeflate, balloon.free_page_reporting)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("<controller type='fdc'/>", ["controller/@type"]),
        ("<controller type='scsi'/>", ["controller/@model"]),
        ("<controller type='scsi' model='lsilogic'/>", ["controller/@model"]),
        ("<controller type='scsi' model='qemu-xhci'/>", ["controller/@model"]),
        ("<controller type='sata' model='none'/>", ["controller/@model"]),
        ("<controller type='sata' ports='4'/>", ["controller/@ports"]),
        ("<controller type='pci' index='1' model='pcie-root'/>", ["controller/@index"]),
        ("<controller type='pci' index='0' model='pcie-root-port'/>", ["controller/@index"]),
        (
            "<controller type='pci' model='pcie-root-port'><target chassis='1'/></controller>" * 2,
            ["controller[2]/target/@chassis"],
        ),
        ("<controller type='sata'/>" * 257, ["controller[257]"]),
        ("<controller type='sata' index='0'/>" * 2, ["controller[2]"]),
        ("<controller type='virtio-serial' vectors='4'/>", ["controller/@vectors"]),
        ("<controller type='virtio-serial'><driver iommu='on'/></controller>", ["controller/driver"]),
        ("<rng model='virtio'><backend model='egd' type='udp'/></rng>", ["rng/backend/@model", "rng/backend/@type"]),
        ("<rng model='virtio'><backend model='random'/><rate period='5'/></rng>", ["rng/rate/@bytes"]),
        ("<memballoon model='xen'/>", ["memballoon/@model"]),
        ("<memballoon model='virtio'><stats period='10'/></memballoon>", ["memballoon/stats"]),
        ("<watchdog model='itco' action='reset'/>", ["watchdog"]),
    ],
)
def test_what_is_not_supported_is_refused(devices, expected):
    """Each construct is reported where it stands."""
    assert expected == refused_parts(devices)
