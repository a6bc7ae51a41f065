"""QEMU's own TLS for one transfer: an object with the certificates, and the parameters that name it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from vmferry.errors import DriverRefused
from vmferryd.drivers.base import Tls

if TYPE_CHECKING:
    from vmferryd.drivers.qemu.guest import QemuGuest

TYPE = "tls-creds-x509"
_CREDENTIALS = "vmferry-tls"
_NONE = {"tls-creds": "", "tls-hostname": ""}


class Endpoint(StrEnum):
    """Which end of a connection QEMU is."""

    SERVER = "server"
    CLIENT = "client"


async def put_up(guest: QemuGuest, tls: Tls | None, endpoint: Endpoint) -> Mapping[str, str]:
    """QEMU has read the certificates, if there is to be TLS; answers the parameters that it needs, or that keep it away.

    Raises:
        DriverRefused: the certificates cannot be used.
    """
    if tls is None:
        return _NONE
    await _forget(guest)
    wanted = {"qom-type": TYPE, "id": _CREDENTIALS, "dir": str(tls.directory), "endpoint": endpoint, "verify-peer": True}
    try:
        await guest.execute("object-add", wanted)
    except DriverRefused as error:
        raise DriverRefused(
            f"QEMU cannot use the certificates in {tls.directory}: {error.message}",
            remedy="look at them with `vmferry pki show`",
            detail=error.detail,
        ) from None
    return {"tls-creds": _CREDENTIALS, "tls-hostname": tls.hostname}


async def take_down(guest: QemuGuest) -> None:
    """What QEMU sends or receives next is not encrypted unless that is put up again."""
    await guest.execute("migrate-set-parameters", dict(_NONE))
    await _forget(guest)


def handshake_begins(guest: QemuGuest, channel: socket.socket) -> None:
    """`break_off` can end the handshake on `channel`, which QEMU cannot: neither `migrate_cancel` nor `yank` reaches it."""
    handshake_is_over(guest)
    guest.handshake = channel.dup()


def handshake_is_over(guest: QemuGuest) -> None:
    """The channel is QEMU's alone, so that its end is seen at the other side."""
    if guest.handshake is not None:
        guest.handshake.close()
        guest.handshake = None


def break_off(guest: QemuGuest) -> None:
    """A handshake that was going on has failed."""
    if guest.handshake is not None:
        with contextlib.suppress(OSError):  # the other side may have left
            guest.handshake.shutdown(socket.SHUT_RDWR)
        handshake_is_over(guest)


async def _forget(guest: QemuGuest) -> None:
    with contextlib.suppress(DriverRefused):  # there is none
        await guest.execute("object-del", {"id": _CREDENTIALS})
