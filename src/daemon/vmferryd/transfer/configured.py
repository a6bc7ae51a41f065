"""What the configuration says of the data channel."""

from __future__ import annotations

import socket

from vmferry.channel import Transport, Uri
from vmferryd.config import Config
from vmferryd.transfer.addresses import Address, Here, OwnPort, Plain, Scheme, is_loopback, refusal
from vmferryd.transfer.doors import Doors, Spawn
from vmferryd.transfer.ports import Ports

_LOOPBACK = "127.0.0.1"
_ANY = Address(Scheme.TCP)
_PORTS = 1 << 16


def here(config: Config, reached_at: Uri) -> Here:
    """Where this host waits, and how a source reaches it; which port is shared is not said."""
    listen = config.data.listen or config.main_place.host or _LOOPBACK
    usual = listen if is_loopback(listen) else socket.gethostname()
    return Here(listen, config.data.host or reached_at.host or usual)


def plain(config: Config, reached_at: Uri) -> Plain | None:
    """Whether data may travel unencrypted outside the tunnel; None when it always goes through the tunnel."""
    if not config.data.native:
        return None
    if config.data.plain:
        return Plain.AS_ASKED if reached_at.transport is Transport.TLS else Plain.ANYWHERE
    if reached_at.transport is Transport.TLS:
        return Plain.NOWHERE
    return Plain.ANYWHERE if config.insecure else Plain.THIS_MACHINE


def shared_port(config: Config, reached_at: Uri) -> int | None:
    """The port that all migrations share, 0 for any; None where nothing comes in without being asked for.

    Between daemons that speak TLS nothing does without certificates, since it would be plain; nor where no source could be
    told a host name.
    """
    at, allowed = here(config, reached_at), plain(config, reached_at)
    if allowed is None:
        return None
    if reached_at.transport is Transport.TLS:
        if config.certificates is None:
            return None
    elif refusal(OwnPort(at.listen, 0, _ANY), allowed):
        return None
    if is_loopback(at.host) and not is_loopback(at.listen):
        return None
    if config.data.port is not None:
        return config.data.port
    port = config.main_place.port
    return (port + 1) % _PORTS if port else 0


async def opened(config: Config, reached_at: Uri, spawn: Spawn) -> Doors:
    """The doors of this daemon; the shared one is open, where there is one.

    Raises:
        AddressUnavailable: its port is taken, or its address is none of this host.
    """
    ports = Ports(config.data.first_port, config.data.last_port)
    doors = Doors(here(config, reached_at), plain(config, reached_at), ports, config.limits, spawn, config.certificates)
    port = shared_port(config, reached_at)
    if port is not None:
        await doors.open_shared(port)
    return doors
