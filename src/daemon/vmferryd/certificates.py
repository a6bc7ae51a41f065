"""The daemon's certificates, as its folder has them now: `vmferry pki issue --renew` asks for no restart.

A connection keeps what it was opened with. Files that are being replaced do not fit each other for a moment, or are missing:
then what was read before still holds.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import grpc
import structlog

from vmferry.channel import Credentials
from vmferry.errors import InvalidParameter
from vmferry.pki import certificate_ends_s, fits

log = structlog.get_logger()


class Certificates:
    """Those of `folder`, which `vmferry pki issue host` made."""

    def __init__(self, folder: Path) -> None:
        """They are read.

        Raises:
            InvalidParameter: they cannot be, or do not fit each other.
        """
        self._folder = folder
        self._client = _Kept(folder, "client")
        self._server = _Kept(folder, "server")

    @property
    def client(self) -> Credentials:
        """What is shown to other daemons."""
        return self._client.newest

    @property
    def ends_s(self) -> float:
        """When what is shown to whoever connects ends, in seconds since 1970; 0 when nothing is."""
        shown = self._server.newest.certificate
        return 0.0 if shown is None else certificate_ends_s(shown)

    def server(self) -> grpc.ServerCredentials:
        """For one place: what is shown there, the newest to each who connects; they have to show one of the same authority.

        Raises:
            InvalidParameter: there is none.
        """
        if self._server.newest.certificate is None:
            raise InvalidParameter(f"{self._folder} has no server-cert.pem", remedy="make it with `vmferry pki issue host`")
        shown = _Shown(self._server)
        return grpc.dynamic_ssl_server_credentials(
            _configuration(shown.own),
            shown.renewed,  # type: ignore[arg-type]  # the stubs do not know that None means: as before
            require_client_authentication=True,
        )


class _Kept:
    """The newest files of one role that fit each other. Asked for at each call: what looks as before is not read."""

    def __init__(self, folder: Path, role: str) -> None:
        self._folder, self._role = folder, role
        self._looked = _looks_of(folder, role)
        self._found = _read(folder, role)

    @property
    def newest(self) -> Credentials:
        looks = _looks_of(self._folder, self._role)
        if looks != self._looked:
            self._looked, self._found = looks, _newest(self._folder, self._role, self._found)
        return self._found


class _Shown:
    """What one place shows."""

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept
        self.own = kept.newest

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC before each handshake, in one of its threads; None when nothing has changed."""
        before, self.own = self.own, self._kept.newest
        return None if self.own == before else _configuration(self.own)


def _looks_of(folder: Path, role: str) -> tuple[tuple[int, int, int], ...]:
    """What changes when one of the files is replaced."""
    found = []
    for name in ("ca-cert.pem", f"{role}-cert.pem", f"{role}-key.pem"):
        with contextlib.suppress(OSError):
            seen = (folder / name).stat()
            found.append((seen.st_ino, seen.st_size, seen.st_mtime_ns))
    return tuple(found)


def _newest(folder: Path, role: str, before: Credentials) -> Credentials:
    try:
        found = _read(folder, role)
    except (InvalidParameter, OSError) as error:
        log.warning("certificates_not_read", role=role, error=str(error))
        return before
    if found.certificate is None:
        return before
    if found != before:
        log.info("certificates_renewed", role=role)
    return found


def _read(folder: Path, role: str) -> Credentials:
    found = Credentials.read(folder, role)
    if found.certificate is not None and not fits(found.certificate, found.key or b""):
        raise InvalidParameter(f"{role}-key.pem in {folder} is not the key of {role}-cert.pem", remedy="renew both")
    return found


def _configuration(own: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(own.key or b"", own.certificate or b"")], root_certificates=own.authority
    )
