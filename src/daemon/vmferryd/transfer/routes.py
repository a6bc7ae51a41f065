"""Which way a guest's data takes from here: through the tunnel, or over a connection that the hypervisors share. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from vmferry.errors import NotSupported
from vmferry.flags import Flag
from vmferryd.transfer import addresses
from vmferryd.transfer.addresses import Address

_DAEMON = "vmferry+"


class Carrier(StrEnum):
    """What carries the bytes."""

    TUNNEL = "tunnel"
    NATIVE = "native"
    BARE = "bare"


class Otherwise(StrEnum):
    """What is done when the native connection cannot be made and nothing was sent."""

    FAIL = "fail"
    TUNNEL = "tunnel"


class Encryption(StrEnum):
    """What the hypervisors do about what travels between them."""

    NONE = "none"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class DataOffer:
    """What a daemon can do besides the tunnel, as its cookie says. `uri` is where a destination waits; a source has none.

    `disks` is where it waits for disks alone, when that was asked for. `encryption` is the best that a source's hypervisor
    can do, and what a destination's will do.
    """

    uri: str = ""
    otherwise: Otherwise = Otherwise.FAIL
    disks: str = ""
    encryption: Encryption = Encryption.NONE


@dataclass(frozen=True, slots=True)
class Route:
    """The way that is taken.

    `daemon_uri` is the destination's daemon, of which a bare hypervisor has none; `address` is where a connection leads that
    the hypervisors share, and `disks` where those of disks do, if that is elsewhere.
    """

    carrier: Carrier
    daemon_uri: str
    address: Address | None = None
    otherwise: Otherwise = Otherwise.FAIL
    disks: Address | None = None
    encryption: Encryption = Encryption.NONE

    @property
    def tunnel(self) -> Route:
        """The way to the same daemon through the tunnel; what hypervisors encrypt they encrypt there, too."""
        return Route(Carrier.TUNNEL, self.daemon_uri, disks=self.disks, encryption=self.encryption)

    def __str__(self) -> str:
        """For people."""
        way = f"tunnel to {self.daemon_uri}" if self.address is None else f"connection to {self.address}"
        return f"{way} (TLS)" if self.encryption is Encryption.TLS else way


def bare(address: Address) -> Route:
    """The way to a hypervisor that listens there without a daemon."""
    return Route(Carrier.BARE, "", address)


def choose(flags: Flag, uri: str, offer: DataOffer | None, daemon_uri: str) -> Route:
    """The way of a Perform that is given `uri`, towards a destination that has made `offer` in Prepare's cookie.

    Raises:
        NotSupported: the URI is none that the destination waits at, or none of a tunnel with TUNNELLED.
        InvalidParameter: it cannot be read.
    """
    route = _chosen(flags, uri, offer, daemon_uri)
    return replace(route, disks=addresses.parse(offer.disks)) if offer is not None and offer.disks else route


def _chosen(flags: Flag, uri: str, offer: DataOffer | None, daemon_uri: str) -> Route:
    if uri.startswith(_DAEMON) or (not uri and (offer is None or not offer.uri)):
        return Route(Carrier.TUNNEL, uri or daemon_uri, encryption=Encryption.NONE if offer is None else offer.encryption)
    if Flag.TUNNELLED in flags:
        if uri:
            raise NotSupported(f"a tunnel does not lead to {uri}", remedy="leave out the migration URI, or TUNNELLED")
        return Route(Carrier.TUNNEL, daemon_uri)
    if offer is None or not offer.uri:
        raise NotSupported(
            f"the destination's daemon does not wait for data at {uri}",
            remedy="hand Perform the URI that Prepare answered",
        )
    usual = uri in ("", offer.uri)
    otherwise = offer.otherwise if usual else Otherwise.FAIL
    return Route(Carrier.NATIVE, daemon_uri, addresses.parse(uri or offer.uri), otherwise, encryption=offer.encryption)
