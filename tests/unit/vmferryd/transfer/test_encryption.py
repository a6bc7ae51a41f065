"""Whether hypervisors encrypt: never less than was asked for, and never a silent fall-back."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from vmferry.errors import NotSupported
from vmferry.flags import NONE, Flag
from vmferryd.drivers.base import Tls
from vmferryd.phases.settings import tls_over
from vmferryd.transfer import addresses
from vmferryd.transfer.addresses import Plain
from vmferryd.transfer.encryption import agreed, hostname, refusal_at_destination, refusal_at_source
from vmferryd.transfer.routes import Carrier, DataOffer, Encryption, Route, choose

PLAIN, TLS = Encryption.NONE, Encryption.TLS
TO_TLS, TO_TCP, TO_UNIX = "vmferry+tls://host-b:16533", "vmferry+tcp://host-b:16533", "vmferry+unix:///run/b.sock"
FAR, NEAR, FILE = (addresses.parse(uri) for uri in ("tcp:10.0.0.2:700", "tcp:127.0.0.1:700", "unix:///run/m.sock"))


@pytest.mark.parametrize("plain", [None, *Plain])
@pytest.mark.parametrize("asked", ["", "tcp:host-b"])
@pytest.mark.parametrize("flags", [NONE, Flag.TLS, Flag.TLS | Flag.TUNNELLED])
def test_what_is_agreed_upon(flags: Flag, asked: str, plain: Plain | None) -> None:
    """TLS needs both hosts; it is used when it is asked for, and by daemons that speak it unless an address is asked for."""
    for source, destination in itertools.product(Encryption, Encryption):
        usual = plain is Plain.NOWHERE or (plain is Plain.AS_ASKED and not asked)
        able = source is destination is TLS and Flag.TUNNELLED not in flags
        wanted = TLS if able and (usual or Flag.TLS in flags) else PLAIN
        assert wanted is agreed(flags, source, destination, plain, asked)


@pytest.mark.parametrize(
    ("flags", "source", "agreed_upon", "uri", "says"),
    [
        (NONE, PLAIN, PLAIN, TO_UNIX, ""),
        (Flag.TLS, TLS, TLS, TO_UNIX, ""),
        (Flag.TLS, PLAIN, PLAIN, TO_UNIX, "the source's daemon has no certificates"),
        (Flag.TLS, TLS, PLAIN, TO_UNIX, "no TLS here"),
        (Flag.TLS, TLS, PLAIN, TO_TLS, ""),
        (Flag.TLS | Flag.TUNNELLED, TLS, PLAIN, TO_TLS, ""),
        (Flag.TLS | Flag.TUNNELLED, TLS, PLAIN, TO_TCP, "as safe as the daemons' connection"),
    ],
)
def test_refused_by_the_destination(flags: Flag, source: Encryption, agreed_upon: Encryption, uri: str, says: str) -> None:
    """TLS that was asked for is had, or refused with what is lacking."""
    refused = refusal_at_destination(flags, source, agreed_upon, uri)
    assert (refused is None) == (says == "")
    assert says in str(refused)


@pytest.mark.parametrize(
    ("flags", "route", "plain", "says"),
    [
        (Flag.TLS, Route(Carrier.NATIVE, TO_UNIX, NEAR, encryption=TLS), None, ""),
        (Flag.TLS, Route(Carrier.NATIVE, TO_UNIX, NEAR), None, "does not offer TLS"),
        (Flag.TLS, Route(Carrier.TUNNEL, TO_TLS), None, ""),
        (Flag.TLS, Route(Carrier.TUNNEL, TO_TCP), None, "is not encrypted"),
        (Flag.TLS, Route(Carrier.TUNNEL, TO_TCP, encryption=TLS), None, ""),
        (NONE, Route(Carrier.TUNNEL, TO_TCP), Plain.NOWHERE, ""),
        (Flag.NON_SHARED_DISK, Route(Carrier.NATIVE, TO_TLS, FAR, encryption=TLS), Plain.NOWHERE, ""),
        (Flag.NON_SHARED_DISK, Route(Carrier.NATIVE, TO_TCP, FAR, encryption=TLS), None, "disks would travel in the clear"),
        (NONE, Route(Carrier.NATIVE, TO_TCP, FAR), Plain.NOWHERE, "does not allow that"),
        (NONE, Route(Carrier.NATIVE, TO_TCP, FAR), Plain.AS_ASKED, ""),
        (NONE, Route(Carrier.NATIVE, TO_TCP, FAR), Plain.ANYWHERE, ""),
        (NONE, Route(Carrier.NATIVE, TO_UNIX, NEAR), Plain.NOWHERE, ""),
        (NONE, Route(Carrier.NATIVE, TO_UNIX, FILE), Plain.NOWHERE, ""),
    ],
)
def test_refused_by_the_source(flags: Flag, route: Route, plain: Plain | None, says: str) -> None:
    """A destination that offers less than was asked for, or than this host allows, gets nothing."""
    refused = refusal_at_source(flags, route, plain)
    assert (refused is None) == (says == "")
    assert says in str(refused)


def test_the_name_of_a_certificate() -> None:
    """What was asked for; else the name under which the daemon has proved itself already; else the address."""
    assert "b.example" == hostname(Route(Carrier.NATIVE, TO_TLS, FAR), "b.example")
    assert "host-b" == hostname(Route(Carrier.NATIVE, TO_TLS, FAR), None)
    assert "10.0.0.2" == hostname(Route(Carrier.NATIVE, TO_TCP, FAR), None)
    with pytest.raises(NotSupported):
        hostname(Route(Carrier.NATIVE, TO_UNIX, FILE), None)


def test_a_way_keeps_its_encryption() -> None:
    """Also through the tunnel in its place: both hypervisors are set up for it."""
    route = choose(NONE, "", DataOffer("tcp:10.0.0.2:700", encryption=TLS), TO_TLS)
    assert TLS is route.encryption is route.tunnel.encryption
    assert "connection to tcp:10.0.0.2:700 (TLS)" == str(route)
    assert TLS is choose(NONE, TO_TLS, DataOffer("tcp:10.0.0.2:700", encryption=TLS), TO_TLS).encryption
    assert PLAIN is choose(Flag.TUNNELLED, "", None, TO_TLS).encryption


def test_a_source_sends_with_tls_or_not_at_all() -> None:
    """Where the destination expects TLS, nothing is sent by a host without certificates."""
    way, plain = Route(Carrier.NATIVE, TO_TLS, FAR, encryption=TLS), Route(Carrier.NATIVE, TO_TLS, NEAR)
    there = Path("/etc/vmferry/pki")
    assert Tls(there, "host-b") == tls_over(way, there, None)
    assert tls_over(plain, there, None) is None
    with pytest.raises(NotSupported, match="no certificates"):
        tls_over(way, None, None)
