"""URIs of daemons, and the certificates for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmferry.channel import (
    DEFAULT_PORT,
    DEFAULT_SOCKET,
    ChannelOptions,
    Credentials,
    Transport,
    beside,
    open_channel,
    parse_uri,
)
from vmferry.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "target", "written", "local"),
    [
        ("vmferry+unix:///a/b", "unix:/a/b", "vmferry+unix:///a/b", True),
        ("vmferry+unix:///a%20b", "unix:/a b", "vmferry+unix:///a%20b", True),
        ("vmferry+unix://", f"unix:{DEFAULT_SOCKET}", f"vmferry+unix://{DEFAULT_SOCKET}", True),
        ("vmferry+tcp://Host:1", "dns:host:1", "vmferry+tcp://host:1", False),
        ("vmferry+tcp://host", f"dns:host:{DEFAULT_PORT}", f"vmferry+tcp://host:{DEFAULT_PORT}", False),
        ("vmferry+tcp://localhost:1", "dns:localhost:1", "vmferry+tcp://localhost:1", True),
        ("vmferry+tcp://127.0.0.1:1", "dns:127.0.0.1:1", "vmferry+tcp://127.0.0.1:1", True),
        ("vmferry+tls://[::1]:1", "ipv6:[::1]:1", "vmferry+tls://[::1]:1", True),
        ("vmferry+tls://[fe80::2]", f"ipv6:[fe80::2]:{DEFAULT_PORT}", f"vmferry+tls://[fe80::2]:{DEFAULT_PORT}", False),
        ("vmferry+tls://h:1?certificates=/a%20b", "dns:h:1", "vmferry+tls://h:1?certificates=%2Fa+b", False),
    ],
)
def test_good(text: str, target: str, written: str, local: bool) -> None:
    """A URI names a daemon, and reads the same when it is written again."""
    uri = parse_uri(text)
    assert (target, written, local) == (uri.target, str(uri), uri.is_local)
    assert uri == parse_uri(str(uri))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no URI"),
        ("host", "no URI"),
        ("qemu+tcp://host", "no URI"),
        ("vmferry://host", "no URI"),
        ("vmferry+ssh://host", "no URI"),
        ("vmferry+unix://a/b", "two slashes"),
        ("vmferry+tcp://", "names no host"),
        ("vmferry+tcp://:5", "names no host"),
        ("vmferry+tcp://host:x", "vmferry"),
        ("vmferry+tcp://host:0", "port 0"),
        ("vmferry+tcp://host:65536", "vmferry"),
        ("vmferry+tcp://[::1", "vmferry"),
        ("vmferry+tcp://host?bogus=1", "bogus"),
    ],
)
def test_bad(text: str, match: str) -> None:
    """What is no URI of a daemon is refused, with what is wrong and what helps."""
    with pytest.raises(InvalidParameter, match=match) as caught:
        parse_uri(text)
    assert caught.value.remedy


def _files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def test_credentials(tmp_path: Path) -> None:
    """A party's files are read by its role; without its own pair it stays anonymous."""
    _files(tmp_path, "ca-cert.pem", "client-cert.pem", "client-key.pem")
    assert Credentials(b"ca-cert.pem", b"client-cert.pem", b"client-key.pem") == Credentials.read(tmp_path, "client")
    assert Credentials(b"ca-cert.pem") == Credentials.read(tmp_path, "server")


@pytest.mark.parametrize(("names", "match"), [((), "authority"), (("ca-cert.pem", "client-cert.pem"), "only one")])
def test_bad_credentials(tmp_path: Path, names: tuple[str, ...], match: str) -> None:
    """A folder without an authority, or with half a pair, is refused."""
    with pytest.raises(InvalidParameter, match=match):
        Credentials.read(_files(tmp_path, *names), "client")


async def test_tls_needs_an_authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TLS takes its authority from the URI's folder or from the environment, and is refused without one."""
    monkeypatch.delenv("VMFERRY_CERTIFICATES", raising=False)
    with pytest.raises(InvalidParameter, match="needs certificates"):
        open_channel(parse_uri("vmferry+tls://h:1"), ChannelOptions())
    monkeypatch.setenv("VMFERRY_CERTIFICATES", str(tmp_path))
    with pytest.raises(InvalidParameter, match="authority"):
        open_channel(parse_uri("vmferry+tls://h:1"), ChannelOptions())
    _files(tmp_path, "ca-cert.pem")
    uri = parse_uri(f"vmferry+tls://h:1?certificates={tmp_path}")
    assert Transport.TLS is uri.transport
    await open_channel(uri, ChannelOptions()).close()


@pytest.mark.parametrize(
    ("uri", "other", "found"),
    [
        ("vmferry+tls://b:1", "vmferry+tls://a:1?certificates=/c", "vmferry+tls://b:1?certificates=%2Fc"),
        ("vmferry+tls://b:1?certificates=/d", "vmferry+tls://a:1?certificates=/c", "vmferry+tls://b:1?certificates=/d"),
        ("vmferry+tls://b:1", "vmferry+tls://a:1", "vmferry+tls://b:1"),
        ("vmferry+tcp://b:1", "vmferry+tls://a:1?certificates=/c", "vmferry+tcp://b:1"),
    ],
)
def test_certificates_serve_for_the_other_host_too(uri: str, other: str, found: str) -> None:
    """A journal names the other daemon without certificates, for those are of no use on another machine."""
    assert beside(uri, other) == found
