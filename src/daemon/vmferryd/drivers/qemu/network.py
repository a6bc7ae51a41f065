"""Taps: the host's end of a guest's network interface that is on a bridge.

A tap lives as long as somebody has it open. The driver makes it, puts it on the bridge and hands it to QEMU, so it goes
when QEMU goes, and nothing has to be cleaned up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from vmferry.errors import DriverRefused

NETWORK_DEVICES = Path("/sys/class/net")
_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SIOCBRADDIF, _SIOCGIFINDEX, _SIOCSIFMTU = 0x89A2, 0x8933, 0x8922
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_NAME_AND_NUMBER = "16si20x"
_NAME_AND_FLAGS = "16sH22x"


def is_bridge(name: str) -> bool:
    """Whether this host has a bridge of that name."""
    return (NETWORK_DEVICES / name / "bridge").is_dir()


def open_tap(name: str, bridge: str | None, mtu_bytes: int | None) -> int:
    """A descriptor of a fresh tap that is up, and on `bridge` if one is named; closing it removes the tap.

    Raises:
        DriverRefused: this process may not make one, the name is taken, or there is no such bridge.
    """
    descriptor = -1
    try:
        descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack(_NAME_AND_FLAGS, name.encode(), flags))
        with _control() as control:
            if mtu_bytes is not None:
                fcntl.ioctl(control, _SIOCSIFMTU, struct.pack(_NAME_AND_NUMBER, name.encode(), mtu_bytes))
            if bridge is not None:
                _put_on_bridge(control, name, bridge)
            _bring_up(control, name)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        where = f" on bridge {bridge}" if bridge else ""
        raise DriverRefused(
            f"no tap {name} can be made{where}: {error.strerror}",
            remedy="The daemon needs root or CAP_NET_ADMIN, /dev/net/tun, and the bridge has to exist.",
        ) from error
    return descriptor


@contextlib.contextmanager
def _control() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        yield control


def _put_on_bridge(control: socket.socket, name: str, bridge: str) -> None:
    answer = fcntl.ioctl(control, _SIOCGIFINDEX, struct.pack(_NAME_AND_NUMBER, name.encode(), 0))
    index = struct.unpack(_NAME_AND_NUMBER, answer)[1]
    fcntl.ioctl(control, _SIOCBRADDIF, struct.pack(_NAME_AND_NUMBER, bridge.encode(), index))


def _bring_up(control: socket.socket, name: str) -> None:
    answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack(_NAME_AND_FLAGS, name.encode(), 0))
    flags = struct.unpack(_NAME_AND_FLAGS, answer)[1]
    fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack(_NAME_AND_FLAGS, name.encode(), flags | _IFF_UP))
