"""Where a guest's data goes: migration URIs, and what Prepare makes of the one that was asked for. Pure.

Specification 1.12 as a function: `arrange` says where the destination is to wait and what it answers as `uri_out`. Whoever
opens a socket comes later.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from vmferry.errors import InvalidParameter, NotSupported, VmferryError

FIRST_PORT, LAST_PORT = 49152, 49215
"""libvirt's range for migrations that want a port of their own."""


class Scheme(StrEnum):
    """How the bytes travel."""

    TCP = "tcp"
    RDMA = "rdma"
    UNIX = "unix"


class Style(StrEnum):
    """How a URI is written: `tcp:host:port` or `tcp://host:port`. What is answered is written as what was asked."""

    PLAIN = ":"
    SLASHES = "://"


@dataclass(frozen=True, slots=True)
class Address:
    """A migration URI, taken apart. `port` 0 means that none is named; `path` is for UNIX sockets alone."""

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""
    style: Style = Style.PLAIN

    def at(self, port: int) -> Address:
        """The same place with that port."""
        return replace(self, port=port)

    def __str__(self) -> str:
        """The URI as `parse` reads it."""
        if self.scheme is Scheme.UNIX:
            return f"unix{self.style}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}{self.style}{host}" + (f":{self.port}" if self.port else "")


_SPELLINGS = "use tcp:host, tcp:host:port, tcp://host:port or unix:///path; an IPv6 address stands in brackets"


def parse(text: str) -> Address:
    """The place that `text` names.

    Raises:
        NotSupported: the scheme is none of a migration.
        InvalidParameter: there is no scheme, no host or no path, or the port is none.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or not scheme:
        raise _unreadable(text, "has no scheme")
    if scheme.lower() not in set(Scheme):
        raise NotSupported(
            f"a guest cannot be sent to {text!r}: its scheme is unknown",
            remedy=_SPELLINGS,
            detail="libvirt: ARGUMENT_UNSUPPORTED",
        )
    style = Style.SLASHES if rest.startswith("//") else Style.PLAIN
    return (_path if scheme.lower() == Scheme.UNIX else _place)(text, Scheme(scheme.lower()), style)


def _path(text: str, scheme: Scheme, style: Style) -> Address:
    path = unquote(text.partition(":")[2])
    if style is Style.SLASHES:
        host, slash, rest = path[2:].partition("/")
        if host:
            raise _unreadable(text, "names a host before the path")
        path = slash + rest
    if not path.startswith("/"):
        raise _unreadable(text, "has no absolute path")
    return Address(scheme, path=path, style=style)


def _place(text: str, scheme: Scheme, style: Style) -> Address:
    rest = text.partition(":")[2].removeprefix("//")
    try:
        parts = urlsplit(f"//{rest}")
        host = parts.hostname or ""
    except ValueError as error:
        raise _unreadable(text, f"cannot be read ({error})") from None
    if not host:
        raise _unreadable(text, "names no host")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise _unreadable(text, "has more than a host and a port")
    return Address(scheme, host, _port(text, parts, Address(scheme, host, style=style)), style=style)


def _port(text: str, parts: SplitResult, without: Address) -> int:
    """The port that is named; 0 when none is."""
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        remedy = f"name a port from 1 to 65535; or none ({without}), and the destination's daemon takes one that is free"
        raise _unreadable(text, "names a port at which nobody can wait", remedy)
    return port or 0


def _unreadable(text: str, what: str, remedy: str = _SPELLINGS) -> InvalidParameter:
    return InvalidParameter(f"the migration URI {text!r} {what}", remedy=remedy, detail="libvirt: INVALID_ARG")


@dataclass(frozen=True, slots=True)
class Here:
    """What a host's configuration says of its data channel.

    `listen` is the address where it waits unless a migration asks for another, `host` is how a source reaches this host, and
    `port` is the port that all migrations share; 0 when there is none, and what asks for nothing goes through the tunnel.
    """

    listen: str
    host: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Shared:
    """The migration comes through the port that all share."""

    uri_out: str


@dataclass(frozen=True, slots=True)
class OwnPort:
    """The migration has a TCP port of its own at `listen`; `port` 0 means any of the range.

    `told` is where the source is to send, but for a port that is not known yet.
    """

    listen: str
    port: int
    told: Address

    def uri(self, port: int) -> str:
        """Where the source is to send."""
        return str(self.told.at(port))

    def uri_out(self, port: int) -> str:
        """What Prepare answers: nothing when a port was asked for."""
        return "" if self.port else self.uri(port)


@dataclass(frozen=True, slots=True)
class OwnSocket:
    """The migration has a UNIX socket of its own; Prepare answers no URI."""

    path: str
    uri: str


Arrangement: TypeAlias = Shared | OwnPort | OwnSocket


def arrange(uri: str, listen_address: str, here: Here) -> Arrangement | None:
    """Where the destination is to wait for a migration that asks for `uri` and `listen_address`, either of them maybe empty.

    None: it asks for nothing, and nothing but the tunnel is here.

    Raises:
        InvalidParameter: the URI has no scheme, no host or no path.
        NotSupported: the scheme is unknown, is RDMA, or this host has no name that another one could use.
    """
    if not uri:
        return _unasked(listen_address, here)
    asked = parse(uri)
    if asked.scheme is Scheme.RDMA:
        raise NotSupported(
            "the daemons hand a connected socket to their hypervisors, and RDMA has none",
            remedy="use a migration URI with tcp",
            detail="libvirt: OPERATION_UNSUPPORTED",
        )
    if asked.scheme is Scheme.UNIX:
        return OwnSocket(asked.path, uri)
    return OwnPort(listen_address or here.listen, asked.port, asked)


def disks_uri(port: int, uri: str, listen_address: str, here: Here) -> str:
    """The URI of a port for disks: at the host that `uri` names, if it names one, else where the migration waits."""
    asked = parse(uri) if uri else None
    if asked is not None and asked.host:
        return str(Address(Scheme.TCP, asked.host, port))
    host = listen_address if listen_address and not is_wildcard(listen_address) else here.host
    return str(Address(Scheme.TCP, host, port))


def _unasked(listen_address: str, here: Here) -> Arrangement | None:
    if not (listen_address or here.port):
        return None
    # Who waits at one address alone is reached there, whatever the host's name leads to.
    host = listen_address if listen_address and not is_wildcard(listen_address) else here.host
    told = Address(Scheme.TCP, host)
    if host.lower().startswith("localhost") and not is_loopback(listen_address or here.listen):
        raise NotSupported(
            f"this host is called {host}, where another host would find itself",
            remedy="give this host a name, set data.host, or give a migration URI",
            detail="libvirt: INTERNAL_ERROR",
        )
    return OwnPort(listen_address, 0, told) if listen_address else Shared(str(told.at(here.port)))


def is_wildcard(host: str) -> bool:
    """It means every address of the host."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Nobody but this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Plain(StrEnum):
    """Whether a guest's data may travel unencrypted outside the tunnel.

    AS_ASKED: to an address that a migration asks for, between daemons that speak TLS.
    """

    NOWHERE = "the daemons speak TLS"
    AS_ASKED = "the daemons speak TLS, and the operator lets whoever names an address do without"
    THIS_MACHINE = "nothing says that the network may see it"
    ANYWHERE = "the operator has said so"


def refusal(arrangement: Arrangement, plain: Plain) -> VmferryError | None:
    """Why a guest's data may not travel so; None when it may."""
    far = isinstance(arrangement, OwnPort) and not is_loopback(arrangement.listen)
    if plain in (Plain.ANYWHERE, Plain.AS_ASKED) or (plain is Plain.THIS_MACHINE and not far):
        return None
    return NotSupported(
        f"the guest would travel unencrypted, and this host does not allow that: {plain}",
        remedy="leave out the migration URI and the listen address, so that the guest goes through the daemons' own "
        "connection; or set data.plain = true at the destination",
    )


def refusal_of_bare(address: Address, plain: Plain | None) -> VmferryError | None:
    """Why a guest's data may not travel to a hypervisor without a daemon; None when it may.

    There is no tunnel that it could take instead; but a socket of this machine may be the end of somebody's own.
    """
    far = address.scheme is Scheme.TCP and not is_loopback(address.host)
    if plain in (Plain.ANYWHERE, Plain.AS_ASKED) or not far:
        return None
    return NotSupported(
        f"the guest would travel to {address} unencrypted, and this host does not allow that: "
        f"{plain or 'all data goes through the tunnel'}",
        remedy="set data.plain = true at the source, or lead a UNIX socket or a port of the loopback to the receiver by "
        "an encrypted way of your own",
    )
