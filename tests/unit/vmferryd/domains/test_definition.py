"""The definition as a whole: reading, writing, and what both mean together."""

from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings

from vmferryd.domains import definition
from vmferryd.domains.addresses import assign_addresses
from vmferryd.domains.devices import (
    ControllerModel,
    ControllerType,
    DiskBus,
    DiskDevice,
    DiskDiscard,
    ListenAddress,
)
from vmferryd.domains.model import BootDevice, CpuMode, DomainType, TickPolicy, TimerName
from vmferryd.domains.reading import MAXIMUM_FINDINGS

from . import strategies
from .documents import BARE, CLOUD_GUEST, RUNNING_GUEST, bare, refusals

EXHAUSTIVE = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@EXHAUSTIVE
@given(strategies.definitions())
def test_what_is_written_reads_back_the_same(original):
    """Reading is the inverse of writing, whatever the definition."""
    assert original == definition.parse(definition.format(original))


@EXHAUSTIVE
@given(strategies.definitions())
def test_what_is_written_with_addresses_reads_back_the_same(original):
    """The round trip holds with every alias and address given as well."""
    placed = assign_addresses(original)
    assert placed == definition.parse(definition.format(placed))


@EXHAUSTIVE
@given(strategies.definitions())
def test_writing_is_stable(original):
    """What was read back is written as it was."""
    xml = definition.format(original)
    assert xml == definition.format(definition.parse(xml))


@pytest.mark.parametrize("xml", [CLOUD_GUEST, RUNNING_GUEST], ids=["cloud", "running"])
def test_realistic_guests_round_trip(xml):
    """Documents as tools write them are accepted and survive the round trip, as text and as bytes."""
    read = definition.parse(xml)
    assert read == definition.parse(definition.format(read))
    assert read == definition.parse(definition.format(read).encode())


def test_a_cloud_guest_is_understood():
    """Everything an installer says about a cloud guest is in the model."""
    guest = definition.parse(CLOUD_GUEST)
    devices = guest.devices
    assert (DomainType.KVM, "web-1", 2 * 2**30, 2) == (guest.type, guest.name, guest.memory_bytes, guest.vcpus)
    assert CpuMode.HOST_PASSTHROUGH is guest.cpu.mode
    assert (TimerName.RTC, TickPolicy.CATCHUP) == (guest.clock.timers[0].name, guest.clock.timers[0].tick_policy)
    assert guest.power_management.suspend_to_mem is False
    assert DiskDiscard.UNMAP is devices.disks[0].discard
    assert (DiskDevice.CDROM, DiskBus.SATA, True) == (
        devices.disks[1].device,
        devices.disks[1].bus,
        devices.disks[1].read_only,
    )
    assert "52:54:00:6b:3c:58" == devices.interfaces[0].mac
    assert (None, True, ListenAddress("127.0.0.1")) == (
        devices.graphics[0].port,
        devices.graphics[0].autoport,
        devices.graphics[0].listen,
    )
    assert "/dev/urandom" == devices.rngs[0].path


def test_controllers_without_index_are_numbered_by_type():
    """The root is 0 and the root ports follow in the order of the document."""
    controllers = definition.parse(CLOUD_GUEST).devices.controllers
    assert [0, 0, 1, 2, 3] == [controller.index for controller in controllers]
    assert ControllerModel.PCIE_ROOT is controllers[1].model
    assert ControllerType.USB is controllers[0].type


def test_a_running_guest_is_understood():
    """What libvirt adds to a running guest is accepted and carried."""
    guest = definition.parse(RUNNING_GUEST)
    assert (7, "/machine") == (guest.live_id, guest.resource_partition)
    assert (2, True) == (guest.devices.disks[0].source_index, guest.devices.disks[0].without_backing_file)
    assert "/dev/pts/4" == guest.devices.serials[0].backend.path
    assert () == guest.os.boot_devices
    assert -3 == guest.clock.adjustment_s


def test_foreign_metadata_is_kept_as_it_is():
    """White space and comments in other people's metadata survive."""
    inner = '<a:b xmlns:a="urn:a"> x <!-- y --><a:c></a:c>\n </a:b>'
    guest = definition.parse(bare(general=f"<metadata>{inner}</metadata>"))
    assert (inner,) == guest.metadata
    assert (inner,) == definition.parse(definition.format(guest)).metadata


def test_identities_come_from_the_factories():
    """A missing uuid and a missing MAC address are asked for."""
    xml = bare("<interface type='user'><model type='virtio'/></interface>")
    xml = xml.replace("<uuid>5f2c8a6e-0b57-4d0e-9a36-0d9f5c2ab003</uuid>", "")
    defaults = definition.Defaults(new_uuid=lambda: UUID(int=5), new_mac=lambda: "52:54:00:00:00:09")
    guest = definition.parse(xml, defaults)
    assert (UUID(int=5), "52:54:00:00:00:09") == (guest.uuid, guest.devices.interfaces[0].mac)


def test_a_random_mac_is_in_qemus_range():
    """The default factory gives a unicast address with QEMU's prefix."""
    mac = definition.random_mac()
    assert ("52:54:00", 17) == (mac[:8], len(mac))


def test_defaults_are_libvirts():
    """What a bare document does not say is what libvirt would make of it."""
    guest = definition.parse(bare())
    assert (guest.memory_bytes, 1, (BootDevice.HD,)) == (
        guest.current_memory_bytes,
        guest.vcpus,
        guest.os.boot_devices,
    )
    assert "virtio" == guest.devices.memory_balloon.model


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE domain>",
        "<!DOCTYPE domain [<!ENTITY a 'b'>]>",
        "<?xml version='1.0'?>\n<!-- x -->\n<!DOCTYPE domain SYSTEM 'file:///etc/passwd'>",
    ],
)
def test_a_document_type_is_refused(doctype):
    """Neither entities nor a DTD are looked at: the document is refused as a whole."""
    assert [("/", None)] == refusals(doctype + bare())
    assert [("/", None)] == refusals((doctype + bare()).encode())


def test_a_doctype_in_metadata_text_is_only_text():
    """The words alone do no harm where they are data."""
    guest = definition.parse(bare(general="<description><![CDATA[<!DOCTYPE x>]]></description>"))
    assert "<!DOCTYPE x>" == guest.description


def test_an_undeclared_entity_is_not_xml():
    """An entity cannot stand for anything."""
    assert [("/", 5)] == refusals(bare(general="<title>&name;</title>"))


def test_too_large_is_refused_before_it_is_parsed():
    """The limit counts bytes, whatever they are."""
    assert [("/", None)] == refusals("<" + " " * definition.MAXIMUM_XML_BYTES)


@pytest.mark.parametrize("xml", ["", "<domain>", "not xml", b"<domain\x00/>"])
def test_what_is_not_xml_is_refused_with_a_line(xml):
    """A document that is not well-formed has a finding about the whole of it."""
    [(xpath, line)] = refusals(xml)
    assert ("/", True) == (xpath, line is not None)


@pytest.mark.parametrize("xml", [b"\xff\xfe<\x00", "\ud800", b"<?xml version='1.0' encoding='latin-1'?><domain/>"])
def test_what_is_not_utf8_is_refused(xml):
    """Only UTF-8 is read."""
    assert ["/"] == [xpath for xpath, _ in refusals(xml)]


def test_text_may_declare_any_encoding():
    """A text is already decoded: what it says about its bytes does not matter."""
    assert "bare" == definition.parse("<?xml version='1.0' encoding='latin-1'?>\n" + bare()).name


def test_a_wrong_root_is_refused():
    """Only the XML of a domain is read."""
    assert [("/", 2)] == refusals("\n<network/>")


def test_an_empty_domain_lacks_everything_at_once():
    """All that is missing is reported together."""
    expected = ["/domain/@type", "/domain/memory", "/domain/name", "/domain/os"]
    assert expected == [xpath for xpath, _ in refusals("<domain/>")]


def test_everything_unsupported_is_found_at_once():
    """Elements, attributes, values and stray text are all reported by XPath and line, in document order."""
    xml = bare(
        "<hostdev mode='subsystem'/>\n"
        "<disk type='file' snapshot='no'><source file='/a'/><target dev='vda'/><iotune/></disk>\n"
        "stray\n"
        "<graphics type='spice' port='1'><listen/></graphics>\n"
        "<?instruction?>",
        general="<vcpu cpuset='1-2'>1</vcpu><seclabel type='dynamic'/>",
    )
    assert [
        ("/domain/seclabel", 5),
        ("/domain/vcpu/@cpuset", 5),
        ("/domain/devices/text()", 7),
        ("/domain/devices/hostdev", 8),
        ("/domain/devices/disk/@snapshot", 9),
        ("/domain/devices/disk/iotune", 9),
        ("/domain/devices/graphics/@type", 11),
        ("/domain/devices/processing-instruction('instruction')", 12),
    ] == refusals(xml)


@pytest.mark.parametrize("name", ["a/b", ".", "..", " ", "a\nb"])
def test_a_name_that_cannot_be_a_file_is_refused(name):
    """Names are used for files."""
    assert [("/domain/name", 2)] == refusals(bare().replace(">bare<", f">{name}<"))


@pytest.mark.parametrize("uuid", ["x", "00000000-0000-0000-0000-000000000000", "{5f2c8a6e}"])
def test_a_bad_uuid_is_refused(uuid):
    """A uuid is 32 hexadecimal digits, not all zero."""
    xml = bare().replace("5f2c8a6e-0b57-4d0e-9a36-0d9f5c2ab003", uuid)
    assert [("/domain/uuid", 3)] == refusals(xml)


def test_simulation_settings_are_for_test_guests():
    """A guest of type test has them in the model; for another type they are refused."""
    settings_xml = "<metadata><v:test xmlns:v='urn:vmferry:test:1' dirty-rate-pages-per-s='250' boot-time-ms='3'/></metadata>"
    guest = definition.parse(bare(general=settings_xml, type="test"))
    assert (250, None, 3) == (
        guest.simulation.dirty_rate_pages_per_s,
        guest.simulation.working_set_pages,
        guest.simulation.boot_time_ms,
    )
    assert [("/domain/metadata", 5)] == refusals(bare(general=settings_xml))


def test_graphics_need_a_video_card():
    """A screen without a card is refused, and so is a second screen."""
    assert [("/domain/devices/graphics", 8)] == refusals(bare("<graphics type='vnc'/>"))
    two = "<graphics type='vnc'/>\n<graphics type='vnc'/><video><model type='vga'/></video>"
    assert [("/domain/devices/graphics[2]", 9)] == refusals(bare(two))


def test_the_number_of_findings_is_bounded():
    """A document full of mistakes is refused in time, with the first of them."""
    assert MAXIMUM_FINDINGS == len(refusals(bare("<what/>" * 50_000)))
    assert MAXIMUM_FINDINGS == len(refusals(bare("<disk/>" * 5_000)))


def test_a_repeated_element_is_refused():
    """Where there can be one, the second is refused instead of ignored."""
    assert [("/domain/vcpu[2]", 5)] == refusals(bare(general="<vcpu>1</vcpu><vcpu bad='1'>2</vcpu>"))


def test_comments_between_elements_mean_nothing():
    """A comment is neither read nor refused."""
    assert definition.parse(bare()) == definition.parse(bare("<!-- nothing -->"))


def test_the_bare_document_is_what_it_claims():
    """The template the other tests vary is itself accepted, and its devices begin on line 8."""
    assert 7 == BARE[: BARE.index("{devices}")].count("\n")
    assert "bare" == definition.parse(bare()).name
