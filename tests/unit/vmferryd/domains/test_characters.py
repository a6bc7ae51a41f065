"""Serial ports, consoles and channels in the document."""

import pytest

from vmferryd.domains.devices import CharacterBackend, CharacterType, SocketMode

from .documents import devices_of, refused_parts

PTY = CharacterBackend(type=CharacterType.PTY)
SERIAL = "<serial type='pty'><source path='/dev/pts/1'/><alias name='serial0'/></serial>"
CHANNEL = "<channel type='unix'>{0}<target type='virtio' name='a'/></channel>"


def test_a_console_alone_makes_the_serial_port():
    """As in libvirt the first console is serial port 0."""
    devices = devices_of("<console type='pty'/>")
    assert [(PTY, 0)] == [(serial.backend, serial.port) for serial in devices.serials]
    assert () == devices.consoles


@pytest.mark.parametrize(
    "console",
    [
        "<console type='pty'/>",
        "<console type='pty'><target type='serial' port='0'/></console>",
        "<console type='pty' tty='/dev/pts/1'><source path='/dev/pts/1'/><alias name='serial0'/></console>",
    ],
)
def test_a_console_may_repeat_the_serial_port(console):
    """It stands for the port and adds nothing."""
    assert devices_of(SERIAL) == devices_of(SERIAL + console)


@pytest.mark.parametrize(
    "console",
    [
        "<console type='file'><source path='/x'/></console>",
        "<console type='pty'><source path='/dev/pts/2'/></console>",
        "<console type='pty'><target port='1'/></console>",
        "<console type='pty'><alias name='other'/></console>",
    ],
)
def test_a_console_that_contradicts_is_refused(console):
    """Where libvirt would ignore it, here nothing is ignored."""
    assert ["console"] == refused_parts(SERIAL + console)


def test_virtio_consoles_are_devices_of_their_own():
    """They are kept beside the serial port."""
    virtio = "<console type='pty'><target type='virtio' port='1'/></console>"
    devices = devices_of("<console type='pty'/>" + virtio)
    assert ([0], [1]) == ([s.port for s in devices.serials], [c.port for c in devices.consoles])


def test_a_socket_is_bound_unless_it_is_connected_to():
    """The mode is part of the backend."""
    [bound] = devices_of(CHANNEL.format("")).channels
    [connected] = devices_of(CHANNEL.format("<source mode='connect' path='/s'/>")).channels
    assert (SocketMode.BIND, None) == (bound.backend.mode, bound.backend.path)
    assert (SocketMode.CONNECT, "/s") == (connected.backend.mode, connected.backend.path)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("<serial type='tcp'/>", ["serial/@type"]),
        ("<serial type='file'/>", ["serial"]),
        ("<serial type='pty'><target type='pci-serial'/></serial>", ["serial/target/@type"]),
        ("<serial type='pty'><target port='9'/></serial>", ["serial/target/@port"]),
        ("<serial type='pty'><target port='1'/></serial><serial type='pty'/>", ["serial[2]"]),
        ("<serial type='pty'><log file='/x'/></serial>", ["serial/log"]),
        ("<serial type='pty' tty='/a'><source path='/b'/></serial>", ["serial/@tty"]),
        ("<console type='pty'/><console type='pty'/>", ["console[2]"]),
        ("<channel type='spicevmc'><target type='virtio' name='x'/></channel>", ["channel/@type"]),
        ("<channel type='unix'><target type='guestfwd'/></channel>", ["channel/target/@name", "channel/target/@type"]),
        (CHANNEL.format("<source mode='connect'/>"), ["channel"]),
        (CHANNEL.format("") * 2, ["channel[2]/target/@name"]),
    ],
)
def test_what_is_not_supported_is_refused(devices, expected):
    """Each construct is reported where it stands."""
    assert expected == refused_parts(devices)
