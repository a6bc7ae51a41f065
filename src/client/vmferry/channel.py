"""Opening gRPC channels: URIs, TLS, keepalive. Nothing is sent here.

URIs: `vmferry+unix:///path`, `vmferry+tcp://host:port`, `vmferry+tls://host:port`. IPv6 hosts stand in brackets.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import grpc
from grpc import aio

from vmferry.bounds import DEFAULTS, Bounds
from vmferry.errors import InvalidParameter

DEFAULT_PORT = 16533
"""Where a daemon listens for TCP when its configuration gives no port."""

DEFAULT_SOCKET = Path("/run/vmferry/vmferryd.sock")
"""Where a daemon listens when its configuration says nothing."""

_MEBIBYTE = 1 << 20


class Transport(StrEnum):
    """How a daemon is reached."""

    UNIX = "unix"
    TCP = "tcp"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Uri:
    """Where a daemon is. `path` for UNIX sockets, `host` and `port` otherwise.

    `certificates` (query `?certificates=DIR`) is a folder with `ca-cert.pem`, `client-cert.pem` and
    `client-key.pem`, as `vmferry pki` makes it.
    """

    transport: Transport
    host: str = ""
    port: int = 0
    path: str = ""
    certificates: Path | None = None

    @property
    def target(self) -> str:
        """What gRPC dials."""
        if self.transport is Transport.UNIX:
            return f"unix:{self.path}"
        return f"ipv6:[{self.host}]:{self.port}" if ":" in self.host else f"dns:{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """It names this machine, so it means nothing on another one (specification 2.5)."""
        return self.transport is Transport.UNIX or self.host.startswith(("localhost", "127.")) or self.host == "::1"

    def __str__(self) -> str:
        """The URI as `parse_uri` reads it."""
        query = f"?{urlencode({'certificates': str(self.certificates)})}" if self.certificates else ""
        if self.transport is Transport.UNIX:
            return f"vmferry+unix://{quote(self.path)}{query}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"vmferry+{self.transport}://{host}:{self.port}{query}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM files of one party. Without `certificate` and `key` the server is verified but the client stays anonymous."""

    authority: bytes
    certificate: bytes | None = None
    key: bytes | None = None

    @classmethod
    def read(cls, folder: Path, role: str) -> Credentials:
        """`ca-cert.pem`, `ROLE-cert.pem` and `ROLE-key.pem` of `folder`.

        Raises:
            InvalidParameter: the authority's certificate is missing, or only one of the pair is there.
        """
        try:
            authority = (folder / "ca-cert.pem").read_bytes()
        except OSError as error:
            raise InvalidParameter(
                f"cannot read the authority's certificate {folder / 'ca-cert.pem'}: {error.strerror}",
                remedy="give a folder that `vmferry pki issue` made",
            ) from error
        certificate, key = folder / f"{role}-cert.pem", folder / f"{role}-key.pem"
        if certificate.exists() != key.exists():
            raise InvalidParameter(f"{folder} has only one of {certificate.name} and {key.name}", remedy="add the other")
        if not certificate.exists():
            return cls(authority)
        return cls(authority, certificate.read_bytes(), key.read_bytes())


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """Bounds of a connection, in seconds and bytes. A silent peer is noticed after `keepalive_s + keepalive_timeout_s`.

    `window_bytes` may be on their way to this side before it has read them, and as many that it has read ahead. None is what
    gRPC finds that the line needs, twice what arrives in a round trip: it starts with 8 MiB, and is 4 MiB on a short line.
    """

    keepalive_s: float = DEFAULTS.keepalive_s
    keepalive_timeout_s: float = DEFAULTS.keepalive_timeout_s
    reconnect_first_s: float = DEFAULTS.reconnect_first_s
    reconnect_longest_s: float = DEFAULTS.reconnect_longest_s
    max_message_bytes: int = 33_554_432
    window_bytes: int | None = None

    @classmethod
    def of(cls, bounds: Bounds) -> Self:
        """The options that `bounds` ask for."""
        return cls(bounds.keepalive_s, bounds.keepalive_timeout_s, bounds.reconnect_first_s, bounds.reconnect_longest_s)

    def as_grpc(self) -> list[tuple[str, int]]:
        """The same, in gRPC's names."""
        return [
            ("grpc.keepalive_time_ms", int(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.keepalive_timeout_s * 1000)),
            # gRPC does not act upon its keepalive's own bound, only upon that of every ping, which is a minute by default.
            ("grpc.http2.ping_timeout_ms", int(self.keepalive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            # Errors travel in trailing metadata; gRPC's own bound of 8 KiB would make a long one look like a lost reply.
            ("grpc.max_metadata_size", _MEBIBYTE),
            ("grpc.absolute_max_metadata_size", _MEBIBYTE),
            ("grpc.initial_reconnect_backoff_ms", int(self.reconnect_first_s * 1000)),
            ("grpc.max_reconnect_backoff_ms", int(self.reconnect_longest_s * 1000)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.http2.lookahead_bytes", self.window_bytes or 8 * _MEBIBYTE),
            ("grpc.http2.bdp_probe", int(self.window_bytes is None)),
            ("grpc.http2.max_frame_size", 8 * _MEBIBYTE),
        ]


def parse_uri(text: str) -> Uri:
    """The daemon that `text` names.

    Raises:
        InvalidParameter: it is no URI of ours; the message says what is wrong with it.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidParameter(f"{text!r}: {error}", remedy="a port is a number from 1 to 65535") from error
    scheme, _, transport = parts.scheme.partition("+")
    if scheme != "vmferry" or transport not in set(Transport):
        raise InvalidParameter(
            f"{text!r} is no URI of a vmferry daemon",
            remedy="use vmferry+unix:///path, vmferry+tcp://host:port or vmferry+tls://host:port",
        )
    query = parse_qs(parts.query)
    if unknown := sorted(set(query) - {"certificates"}):
        raise InvalidParameter(f"{text!r} has unknown options: {', '.join(unknown)}", remedy="only ?certificates=DIR")
    certificates = Path(query["certificates"][0]) if "certificates" in query else None
    if transport == Transport.UNIX:
        return _unix(text, parts.netloc, unquote(parts.path))
    if port == 0:
        raise InvalidParameter(f"{text!r}: port 0 is nowhere", remedy="a port is a number from 1 to 65535")
    if not parts.hostname:
        raise InvalidParameter(f"{text!r} names no host", remedy=f"for example vmferry+{transport}://host:{DEFAULT_PORT}")
    return Uri(Transport(transport), host=parts.hostname, port=port or DEFAULT_PORT, certificates=certificates)


def beside(uri: str, other: str) -> str:
    """`uri`; with the certificates that `other` names, if it is a TLS one that names none of its own."""
    this = parse_uri(uri)
    if this.transport is not Transport.TLS or this.certificates is not None:
        return uri
    return str(replace(this, certificates=parse_uri(other).certificates))


def _unix(text: str, netloc: str, path: str) -> Uri:
    if netloc:
        raise InvalidParameter(f"{text!r} has two slashes before the path", remedy="use three: vmferry+unix:///path")
    return Uri(Transport.UNIX, path=path or str(DEFAULT_SOCKET))


def open_channel(uri: Uri, options: ChannelOptions, credentials: Credentials | None = None) -> aio.Channel:
    """A channel to the daemon at `uri`; it connects when it is first used.

    Args:
        uri: where.
        options: its bounds.
        credentials: for TLS; None reads them from the URI's folder, else from `$VMFERRY_CERTIFICATES`.

    Raises:
        InvalidParameter: TLS without an authority to trust.
    """
    if uri.transport is not Transport.TLS:
        return aio.insecure_channel(uri.target, options=options.as_grpc())
    trusted = credentials or _default_credentials(uri)
    return aio.secure_channel(
        uri.target,
        grpc.ssl_channel_credentials(trusted.authority, trusted.key, trusted.certificate),
        options=options.as_grpc(),
    )


def _default_credentials(uri: Uri) -> Credentials:
    folder = uri.certificates or os.environ.get("VMFERRY_CERTIFICATES")
    if folder is None:
        raise InvalidParameter(
            f"{uri} needs certificates",
            remedy="append ?certificates=DIR, or set VMFERRY_CERTIFICATES, to a folder that `vmferry pki issue` made",
        )
    return Credentials.read(Path(folder), "client")
