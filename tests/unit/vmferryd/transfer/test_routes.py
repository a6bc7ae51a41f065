"""Which way a guest's data takes, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmferry.errors import InvalidParameter, NotSupported
from vmferry.flags import NONE, Flag
from vmferryd.transfer.addresses import parse
from vmferryd.transfer.routes import Carrier, DataOffer, Otherwise, Route, choose

DAEMON = "vmferry+tcp://host-b:16533"
USUAL = DataOffer("tcp:host-b:16534", Otherwise.TUNNEL)
ASKED = DataOffer("tcp:host-b:49152")
TUNNEL = Route(Carrier.TUNNEL, DAEMON)


def native(uri: str, otherwise: Otherwise = Otherwise.FAIL) -> Route:
    """The way over a connection of its own."""
    return Route(Carrier.NATIVE, DAEMON, parse(uri), otherwise)


@pytest.mark.parametrize(
    ("flags", "uri", "offer", "route"),
    [
        # what Prepare answered, or nothing because the caller knew it
        (NONE, "tcp:host-b:16534", USUAL, native("tcp:host-b:16534", Otherwise.TUNNEL)),
        (NONE, "", USUAL, native("tcp:host-b:16534", Otherwise.TUNNEL)),
        (NONE, "tcp:host-b:49152", ASKED, native("tcp:host-b:49152")),
        (NONE, "", ASKED, native("tcp:host-b:49152")),
        # a caller who knows another way there has asked for it
        (NONE, "tcp:10.0.0.2:4000", USUAL, native("tcp:10.0.0.2:4000")),
        (NONE, "unix:///run/a", DataOffer("unix:///run/a"), native("unix:///run/a")),
        # the tunnel: an older destination, one that offers no more, or one that was asked for
        (NONE, "", None, TUNNEL),
        (NONE, "", DataOffer(), TUNNEL),
        (NONE, DAEMON, None, TUNNEL),
        (NONE, DAEMON, USUAL, TUNNEL),
        (NONE, "vmferry+tls://other:1", None, Route(Carrier.TUNNEL, "vmferry+tls://other:1")),
        (Flag.TUNNELLED, "", None, TUNNEL),
        (Flag.TUNNELLED, "", USUAL, TUNNEL),
        (Flag.TUNNELLED, DAEMON, None, TUNNEL),
    ],
)
def test_route(flags: Flag, uri: str, offer: DataOffer | None, route: Route) -> None:
    """One row."""
    assert route == choose(flags, uri, offer, DAEMON)


@pytest.mark.parametrize(
    ("flags", "uri", "offer", "error", "says"),
    [
        (NONE, "tcp:host-b:1", None, NotSupported, "does not wait"),
        (NONE, "tcp:host-b:1", DataOffer(), NotSupported, "does not wait"),
        (Flag.TUNNELLED, "tcp:host-b:1", USUAL, NotSupported, "a tunnel does not lead"),
        (NONE, "nonsense", USUAL, InvalidParameter, "no scheme"),
    ],
)
def test_refused(flags: Flag, uri: str, offer: DataOffer | None, error: type[Exception], says: str) -> None:
    """What the destination did not offer is not tried."""
    with pytest.raises(error, match=says):
        choose(flags, uri, offer, DAEMON)


@pytest.mark.parametrize("offer", [replace(USUAL, disks="tcp:host-b:9"), DataOffer(disks="tcp:host-b:9")])
def test_disks_have_a_place_of_their_own(offer: DataOffer) -> None:
    """Whichever way the rest takes, and also when that changes on the way."""
    route = choose(NONE, "", offer, DAEMON)
    assert parse("tcp:host-b:9") == route.disks == route.tunnel.disks


def test_words() -> None:
    """For the log and the job."""
    assert f"tunnel to {DAEMON}" == str(native("tcp:host-b:1").tunnel)
    assert "connection to tcp:host-b:1" == str(native("tcp:host-b:1"))
