"""Whether hypervisors encrypt what they send each other, and what is refused because it would travel in the clear. Pure."""

from __future__ import annotations

from vmferry.channel import Transport, parse_uri
from vmferry.errors import NotSupported, VmferryError
from vmferry.flags import STORAGE, Flag
from vmferryd.transfer.addresses import Plain, Scheme, is_loopback
from vmferryd.transfer.routes import Carrier, Encryption, Route

_PLAIN = "the guest would travel in the clear"


def agreed(flags: Flag, source: Encryption, destination: Encryption, plain: Plain | None, asked: str) -> Encryption:
    """What the hypervisors use on a way of their own, given the best that each host can.

    TLS where it was asked for, and without being asked between daemons that speak it; but to an address that was `asked` for
    data travels plain where the operator of the destination lets it.
    """
    if Encryption.NONE in (source, destination) or Flag.TUNNELLED in flags:
        return Encryption.NONE
    usual = plain is Plain.NOWHERE or (plain is Plain.AS_ASKED and not asked)
    return Encryption.TLS if usual or Flag.TLS in flags else Encryption.NONE


def refusal_at_destination(flags: Flag, source: Encryption, agreed_upon: Encryption, own_uri: str) -> VmferryError | None:
    """Why TLS cannot be had that was asked for; `own_uri` is where the tunnel would lead."""
    if Flag.TLS not in flags or agreed_upon is Encryption.TLS or is_secret(own_uri):
        return None
    if Flag.TUNNELLED in flags:
        text = f"{_PLAIN}: the tunnel is as safe as the daemons' connection, and this daemon is reached at {own_uri}"
        return NotSupported(text, remedy="let the daemons listen at vmferry+tls://, or leave out TUNNELLED or TLS")
    lacking = "the source's daemon has no certificates for its hypervisor" if source is Encryption.NONE else "no TLS here"
    return NotSupported(f"{_PLAIN}: {lacking}", remedy="give both daemons `certificates`, and use the same version")


def refusal_at_source(flags: Flag, route: Route, plain: Plain | None) -> VmferryError | None:
    """Why a guest may not take `route`, which the destination has offered."""
    safe = is_secret(route.daemon_uri)
    if route.encryption is Encryption.TLS and flags & STORAGE and not safe:
        text = "disks would travel in the clear: hypervisors encrypt memory alone, and the daemons' connection is not TLS"
        return NotSupported(text, remedy="name the destination's daemon as vmferry+tls://")
    if route.encryption is Encryption.TLS or (route.carrier is Carrier.TUNNEL and (safe or Flag.TLS not in flags)):
        return None
    if route.carrier is Carrier.TUNNEL:
        text = f"{_PLAIN}: the tunnel to {route.daemon_uri} is not encrypted"
        return NotSupported(text, remedy="name the destination's daemon as vmferry+tls://, or leave out TLS")
    if Flag.TLS in flags:
        return NotSupported(f"{_PLAIN}: the destination does not offer TLS", remedy="give its daemon `certificates`")
    return _refusal_of_plain(route, plain)


def _refusal_of_plain(route: Route, plain: Plain | None) -> VmferryError | None:
    address = route.address
    if plain is not Plain.NOWHERE or address is None or address.scheme is not Scheme.TCP or is_loopback(address.host):
        return None
    return NotSupported(
        f"{_PLAIN} to {address}, and this host does not allow that: {plain}",
        remedy="let the destination's daemon speak TLS, or set data.plain = true at the source",
    )


def hostname(route: Route, asked: str | None) -> str:
    """What the destination's certificate must name: what was asked for, else how its daemon is reached, or the address.

    Raises:
        NotSupported: none of them is a host's name.
    """
    daemon = parse_uri(route.daemon_uri).host if is_secret(route.daemon_uri) else ""
    found = asked or daemon or (route.address.host if route.address is not None else "")
    if not found:
        raise NotSupported(
            "a UNIX socket does not say which name the destination's certificate must have", remedy="give tls.destination"
        )
    return found


def is_secret(daemon_uri: str) -> bool:
    """Whoever goes through the connection to that daemon is encrypted."""
    return bool(daemon_uri) and parse_uri(daemon_uri).transport is Transport.TLS
