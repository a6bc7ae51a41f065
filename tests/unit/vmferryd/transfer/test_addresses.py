"""Specification 1.12 as a table: what is asked for, where the destination waits, and what Prepare answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import InvalidParameter, NotSupported, VmferryError
from vmferryd.transfer.addresses import (
    Address,
    Here,
    OwnPort,
    OwnSocket,
    Plain,
    Scheme,
    Shared,
    Style,
    arrange,
    disks_uri,
    is_loopback,
    parse,
    refusal,
    refusal_of_bare,
)

ANY = "0.0.0.0"  # noqa: S104 - parsed, not bound
HERE = Here(ANY, "host-b", 16534)
SIX = Here("::", "2001:db8::1", 16534)
ALONE = Here("127.0.0.1", "127.0.0.1", 0)


def outcome(uri: str, listen_address: str, here: Here) -> tuple[str, str]:
    """Where it waits, and what is answered when the range gives port 49152."""
    match arrange(uri, listen_address, here):
        case Shared(uri_out):
            return "the shared port", uri_out
        case OwnPort() as own:
            port = own.port or 49152
            return f"{own.listen} {'any' if not own.port else own.port}", own.uri_out(port)
        case OwnSocket(path):
            return path, ""
        case None:
            return "the tunnel", ""


@pytest.mark.parametrize(
    ("uri", "listen_address", "here", "waits", "uri_out"),
    [
        # absent
        ("", "", HERE, "the shared port", "tcp:host-b:16534"),
        ("", "", SIX, "the shared port", "tcp:[2001:db8::1]:16534"),
        ("", "", ALONE, "the tunnel", ""),
        # absent, with an address to listen at
        ("", ANY, HERE, "0.0.0.0 any", "tcp:host-b:49152"),
        ("", "::", SIX, ":: any", "tcp:[2001:db8::1]:49152"),
        ("", "10.0.0.2", HERE, "10.0.0.2 any", "tcp:10.0.0.2:49152"),
        ("", "2001:db8::2", HERE, "2001:db8::2 any", "tcp:[2001:db8::2]:49152"),
        ("", "127.0.0.1", ALONE, "127.0.0.1 any", "tcp:127.0.0.1:49152"),
        # without a port: a port is found, and answered in the style of the question
        ("tcp:host-c", "", HERE, "0.0.0.0 any", "tcp:host-c:49152"),
        ("tcp://host-c", "", HERE, "0.0.0.0 any", "tcp://host-c:49152"),
        ("tcp://host-c/", "", HERE, "0.0.0.0 any", "tcp://host-c:49152"),
        ("tcp:[2001:db8::3]", "", SIX, ":: any", "tcp:[2001:db8::3]:49152"),
        ("tcp://[2001:db8::3]", "", SIX, ":: any", "tcp://[2001:db8::3]:49152"),
        ("TCP:host-c", "", HERE, "0.0.0.0 any", "tcp:host-c:49152"),
        ("tcp:host-c", "10.0.0.2", HERE, "10.0.0.2 any", "tcp:host-c:49152"),
        # with a port: that one, and nothing is answered
        ("tcp:host-c:4444", "", HERE, "0.0.0.0 4444", ""),
        ("tcp://host-c:4444", "", HERE, "0.0.0.0 4444", ""),
        ("tcp:[2001:db8::3]:4444", "", SIX, ":: 4444", ""),
        ("tcp:host-c:4444", "10.0.0.2", HERE, "10.0.0.2 4444", ""),
        # a UNIX socket
        ("unix:///run/a.sock", "", HERE, "/run/a.sock", ""),
        ("unix:/run/a.sock", "", HERE, "/run/a.sock", ""),
        ("unix:///run/a%20b", "", HERE, "/run/a b", ""),
    ],
)
def test_table(uri: str, listen_address: str, here: Here, waits: str, uri_out: str) -> None:
    """One row of the table."""
    assert (waits, uri_out) == outcome(uri, listen_address, here)


@pytest.mark.parametrize(
    ("uri", "error", "code"),
    [
        ("rdma://host-c", NotSupported, "OPERATION_UNSUPPORTED"),
        ("rdma:host-c:4444", NotSupported, "OPERATION_UNSUPPORTED"),
        ("udp:host-c", NotSupported, "ARGUMENT_UNSUPPORTED"),
        ("vmferry+tcp://host-c", NotSupported, "ARGUMENT_UNSUPPORTED"),
        ("exec:cat", NotSupported, "ARGUMENT_UNSUPPORTED"),
        ("host-c", InvalidParameter, "INVALID_ARG"),
        (":host-c", InvalidParameter, "INVALID_ARG"),
        ("tcp:", InvalidParameter, "INVALID_ARG"),
        ("tcp://", InvalidParameter, "INVALID_ARG"),
        ("tcp::4444", InvalidParameter, "INVALID_ARG"),
        ("tcp:host-c:0", InvalidParameter, "INVALID_ARG"),
        ("tcp:host-c:65536", InvalidParameter, "INVALID_ARG"),
        ("tcp:host-c:http", InvalidParameter, "INVALID_ARG"),
        ("tcp:[2001:db8::3", InvalidParameter, "INVALID_ARG"),
        ("tcp://user@host-c", InvalidParameter, "INVALID_ARG"),
        ("tcp://host-c/path", InvalidParameter, "INVALID_ARG"),
        ("tcp://host-c?x=1", InvalidParameter, "INVALID_ARG"),
        ("unix:", InvalidParameter, "INVALID_ARG"),
        ("unix:relative", InvalidParameter, "INVALID_ARG"),
        ("unix://run/a.sock", InvalidParameter, "INVALID_ARG"),
    ],
)
def test_refused(uri: str, error: type[VmferryError], code: str) -> None:
    """A scheme that is unknown, or no host: libvirt's code for it, and what can be written instead."""
    with pytest.raises(error) as caught:
        arrange(uri, "", HERE)
    assert code in caught.value.detail
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("uri", "instead"),
    [
        ("tcp:host-c:0", "tcp:host-c"),
        ("tcp://host-c:0", "tcp://host-c"),
        ("tcp:host-c:65536", "tcp:host-c"),
        ("tcp:[2001:db8::3]:http", "tcp:[2001:db8::3]"),
    ],
)
def test_a_port_that_is_none_is_named_and_what_to_write_instead(uri: str, instead: str) -> None:
    """Who wants any free port leaves it out."""
    with pytest.raises(InvalidParameter, match="names a port at which nobody can wait") as caught:
        parse(uri)
    assert f"or none ({instead}), and the destination's daemon takes one that is free" in caught.value.remedy


@pytest.mark.parametrize("listen_address", ["", ANY])
def test_host_that_calls_itself_localhost(listen_address: str) -> None:
    """No source is sent to itself."""
    with pytest.raises(NotSupported, match="find itself"):
        arrange("", listen_address, Here(ANY, "localhost.localdomain", 1))
    assert Shared("tcp:localhost:1") == arrange("", "", Here("127.0.0.1", "localhost", 1))


hosts = st.sampled_from(["host-b", "10.0.0.1", "::1", "2001:db8::1"])
places = st.builds(
    Address, st.sampled_from([Scheme.TCP, Scheme.RDMA]), hosts, st.integers(0, 65535), style=st.sampled_from(Style)
)
paths = st.builds(Address, st.just(Scheme.UNIX), path=st.just("/run/a"), style=st.sampled_from(Style))


@given(places | paths)
def test_round_trip(address: Address) -> None:
    """What is written is read back, in the same style."""
    assert address == parse(str(address))


@pytest.mark.parametrize(
    ("plain", "arrangement", "allowed"),
    [
        (Plain.ANYWHERE, OwnPort(ANY, 0, Address(Scheme.TCP)), True),
        (Plain.THIS_MACHINE, OwnPort(ANY, 0, Address(Scheme.TCP)), False),
        (Plain.THIS_MACHINE, OwnPort("10.0.0.1", 0, Address(Scheme.TCP)), False),
        (Plain.THIS_MACHINE, OwnPort("127.0.0.1", 0, Address(Scheme.TCP)), True),
        (Plain.THIS_MACHINE, OwnPort("::1", 0, Address(Scheme.TCP)), True),
        (Plain.THIS_MACHINE, OwnPort("localhost", 0, Address(Scheme.TCP)), True),
        (Plain.THIS_MACHINE, OwnSocket("/run/a", "unix:///run/a"), True),
        (Plain.THIS_MACHINE, Shared("tcp:host-b:1"), True),
        (Plain.NOWHERE, OwnPort("127.0.0.1", 0, Address(Scheme.TCP)), False),
        (Plain.NOWHERE, OwnSocket("/run/a", "unix:///run/a"), False),
        (Plain.NOWHERE, Shared("tcp:host-b:1"), False),
    ],
)
def test_plain_data(plain: Plain, arrangement: OwnPort | OwnSocket | Shared, *, allowed: bool) -> None:
    """A guest travels unencrypted where nobody but this machine sees it, or where the operator has said so."""
    error = refusal(arrangement, plain)
    assert allowed is (error is None)
    assert error is None or "data.plain" in error.remedy


@pytest.mark.parametrize(("host", "answer"), [("127.3.4.5", True), ("::1", True), ("LOCALHOST", True), ("host-b", False)])
def test_loopback(host: str, *, answer: bool) -> None:
    """What only this machine reaches."""
    assert answer is is_loopback(host)


@pytest.mark.parametrize("plain", [*Plain, None])
@pytest.mark.parametrize(
    ("uri", "far"), [("tcp:host-b:4444", True), ("tcp:127.0.0.1:4444", False), ("tcp:[::1]:4444", False), ("unix:/x", False)]
)
def test_plain_data_to_a_hypervisor_without_a_daemon(plain: Plain | None, uri: str, *, far: bool) -> None:
    """What leaves this machine unencrypted has to be allowed by the source's operator, for no tunnel can take its place."""
    error = refusal_of_bare(parse(uri), plain)
    assert (far and plain not in (Plain.ANYWHERE, Plain.AS_ASKED)) is (error is not None)
    assert error is None or "data.plain" in error.remedy


@pytest.mark.parametrize(
    ("uri", "listen_address", "answer"),
    [
        ("", "", "tcp:host-b:7"),
        ("", "192.0.2.1", "tcp:192.0.2.1:7"),
        ("", "::", "tcp:host-b:7"),
        ("tcp:host-c:9", "192.0.2.1", "tcp:host-c:7"),
        ("unix:///run/a", "", "tcp:host-b:7"),
    ],
)
def test_place_of_a_port_for_disks(uri: str, listen_address: str, answer: str) -> None:
    """The host that the migration's URI names, else the one address where it waits, else this host."""
    assert answer == disks_uri(7, uri, listen_address, Here("::", "host-b"))
