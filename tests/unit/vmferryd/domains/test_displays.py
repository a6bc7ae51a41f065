"""Graphics, video, input and audio in the document."""

import pytest

from vmferryd.domains.devices import InputBus, ListenAddress, ListenSocket

from .documents import devices_of, refused_parts

VGA = "<video><model type='vga'/></video>"


@pytest.mark.parametrize(
    ("graphics", "expected"),
    [
        ("<graphics type='vnc'/>", (None, True, None)),
        ("<graphics type='vnc' port='-1'/>", (None, True, None)),
        ("<graphics type='vnc' port='5901'/>", (5901, False, None)),
        ("<graphics type='vnc' port='5901' autoport='yes'/>", (5901, True, None)),
        ("<graphics type='vnc' listen='::1'/>", (None, True, ListenAddress("::1"))),
        ("<graphics type='vnc'><listen type='address'/></graphics>", (None, True, ListenAddress())),
        ("<graphics type='vnc'><listen type='socket' socket='/s'/></graphics>", (None, False, ListenSocket("/s"))),
    ],
)
def test_vnc_is_read(graphics, expected):
    """The port is chosen automatically unless one is given or a socket is used."""
    [screen] = devices_of(VGA + graphics).graphics
    assert expected == (screen.port, screen.autoport, screen.listen)


def test_video_memory_is_in_bytes():
    """The document counts KiB."""
    [video] = devices_of("<video><model type='vga' vram='16384' heads='1' primary='yes'/></video>").videos
    assert (16 * 2**20, 1, True) == (video.vram_bytes, video.heads, video.primary)


def test_the_bus_of_an_input_follows_from_its_type():
    """A tablet is on USB and a mouse on PS/2, as in libvirt."""
    devices = devices_of("<input type='tablet'/><input type='mouse'/><input type='keyboard' bus='virtio'/>")
    assert [InputBus.USB, InputBus.PS2, InputBus.VIRTIO] == [device.bus for device in devices.inputs]


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("<graphics type='spice'><image compression='off'/></graphics>", {"graphics/@type"}),
        ("<graphics type='vnc' passwd='x'/>", {"graphics/@passwd"}),
        ("<graphics type='vnc' port='22'/>", {"graphics/@port"}),
        ("<graphics type='vnc' listen='a'><listen type='address' address='b'/></graphics>", {"graphics/@listen"}),
        ("<graphics type='vnc' port='5900'><listen type='socket' socket='/s'/></graphics>", {"graphics/@port"}),
        (
            "<graphics type='vnc'><listen type='network' network='n'/></graphics>",
            {"graphics/listen/@type", "graphics/listen/@network"},
        ),
        ("<video><model type='qxl' ram='65536'/></video>", {"video[2]/model/@type", "video[2]/model/@ram"}),
        ("<input type='tablet' bus='ps2'/>", {"input/@bus"}),
        ("<input type='evdev'><source dev='/dev/input/event1'/></input>", {"input/@type"}),
        ("<audio id='1' type='spice'/>", {"audio/@type"}),
        ("<sound model='ich9'/>", {"sound"}),
    ],
)
def test_what_is_not_supported_is_refused(devices, expected):
    """Each construct is reported where it stands."""
    assert expected == set(refused_parts(VGA + devices))
