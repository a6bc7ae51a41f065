"""A small authority for hosts and clients: certificates as daemons, clients and QEMU's own TLS read them.

A folder of certificates has the names that QEMU's `tls-creds-x509` looks for (QEMU manual, "TLS setup for network
services"), so that one folder serves both layers: `ca-cert.pem`, `server-cert.pem` with `server-key.pem`, and
`client-cert.pem` with `client-key.pem`; a host's also `dh-params.pem`, which only QEMU reads. The authority's folder has its
certificate, its key, and a folder for each name it signed.

Keys are elliptic (P-256) and without a passphrase: a daemon starts unattended. Key files are readable by their owner only.
"""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vmferry.errors import AlreadyExists, InvalidParameter, NotFound

CA_CERTIFICATE = "ca-cert.pem"
CA_KEY = "ca-key.pem"
DH_PARAMETERS = "dh-params.pem"
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825
SOON_DAYS = 30
"""A certificate that ends within this is a finding."""

_FFDHE2048 = b"""\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The group of that name (RFC 7919, appendix A.1). Without the file QEMU looks for a group of its own whenever it is to wait
for a guest, which took 0.1 to 1.7 s and stops its main loop."""

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*")
_SKEW = dt.timedelta(hours=1)
"""Clocks of hosts differ: what is made now is valid a little earlier."""


class Role(enum.StrEnum):
    """What a certificate is shown for."""

    SERVER = "server"
    CLIENT = "client"

    @property
    def certificate(self) -> str:
        """The name of its certificate's file."""
        return f"{self}-cert.pem"

    @property
    def key(self) -> str:
        """The name of its key's file."""
        return f"{self}-key.pem"

    @property
    def usage(self) -> x509.ObjectIdentifier:
        """The extended key usage that the other side demands."""
        return ExtendedKeyUsageOID.SERVER_AUTH if self is Role.SERVER else ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs what is trusted by whoever trusts it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, name: str, days: int, now: dt.datetime) -> Authority:
        """A fresh one that trusts itself for `days`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        unsigned = _unsigned(subject, subject, key.public_key(), now, days)
        unsigned = unsigned.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        unsigned = unsigned.add_extension(_key_usage(signs_certificates=True), critical=True)
        unsigned = unsigned.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(unsigned.sign(key, hashes.SHA256()), key)

    @classmethod
    def read(cls, folder: Path) -> Authority:
        """The one that `folder` holds.

        Raises:
            NotFound: there is none.
            InvalidParameter: it cannot be used.
        """
        try:
            certificate, key = (folder / CA_CERTIFICATE).read_bytes(), (folder / CA_KEY).read_bytes()
        except OSError as error:
            raise NotFound(
                f"{folder} holds no authority: {error.strerror}", remedy="make one with `vmferry pki init`"
            ) from error
        try:
            loaded = serialization.load_pem_private_key(key, password=None)
            authority = x509.load_pem_x509_certificate(certificate)
        except (ValueError, TypeError) as error:
            raise InvalidParameter(
                f"the authority in {folder} cannot be read: {error}", remedy="restore its files"
            ) from error
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != authority.public_key():
            raise InvalidParameter(f"{CA_KEY} in {folder} is not the key of {CA_CERTIFICATE}", remedy="restore its files")
        return cls(authority, loaded)

    def issue(self, role: Role, name: str, addresses: Sequence[str], days: int, now: dt.datetime) -> dict[str, bytes]:
        """A fresh certificate and its key, as the content of their files.

        It never outlives the authority.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        left_days = (self.certificate.not_valid_after_utc - now).days
        unsigned = _unsigned(_name(name), self.certificate.subject, key.public_key(), now, min(days, left_days))
        unsigned = unsigned.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        unsigned = unsigned.add_extension(_key_usage(signs_certificates=False), critical=True)
        unsigned = unsigned.add_extension(x509.ExtendedKeyUsage([role.usage]), critical=False)
        unsigned = unsigned.add_extension(x509.SubjectAlternativeName(list(map(_address, addresses))), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        signed = unsigned.add_extension(issuer, critical=False).sign(self.key, hashes.SHA256())
        return {role.certificate: _pem(signed), role.key: _key_pem(key)}


def initialise(folder: Path, name: str, days: int, now: dt.datetime) -> Authority:
    """`folder` holds a new authority.

    Raises:
        AlreadyExists: it holds one; nothing was changed, for every certificate that it signed would be worthless.
    """
    if (folder / CA_KEY).exists() or (folder / CA_CERTIFICATE).exists():
        raise AlreadyExists(f"{folder} holds an authority already", remedy="use it, or name another folder")
    authority = Authority.new(name, days, now)
    _write(folder, {CA_CERTIFICATE: _pem(authority.certificate), CA_KEY: _key_pem(authority.key)})
    return authority


def issue_host(authority: Authority, folder: Path, addresses: Sequence[str], days: int, now: dt.datetime) -> None:
    """`folder` has all that a daemon needs: it serves under `addresses`, and is a client of its peers under the first.

    Raises:
        InvalidParameter: an address is neither a host name nor an IP address.
    """
    files = {CA_CERTIFICATE: _pem(authority.certificate)}
    for role in Role:
        files |= authority.issue(role, addresses[0], addresses, days, now)
    _write(folder, files | {DH_PARAMETERS: _FFDHE2048})


def issue_client(authority: Authority, folder: Path, name: str, days: int, now: dt.datetime) -> None:
    """`folder` has all that a client needs."""
    files = {CA_CERTIFICATE: _pem(authority.certificate)}
    _write(folder, files | authority.issue(Role.CLIENT, name, [name], days, now))


# -- looking -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """One certificate file and what is wrong with it; nothing is when `problems` is empty."""

    path: str
    subject: str
    addresses: tuple[str, ...]
    usages: tuple[str, ...]
    ends: dt.datetime
    days_left: int
    problems: tuple[str, ...]


def examine(folder: Path, now: dt.datetime) -> tuple[CertificateFacts, ...]:
    """Every certificate in `folder`, the authority's first.

    Raises:
        NotFound: there is no authority's certificate, so nothing else there can be judged.
        InvalidParameter: a file is no certificate.
    """
    authority = _read(folder / CA_CERTIFICATE)
    facts = [_facts(folder / CA_CERTIFICATE, authority, _authority_problems(authority), now)]
    for role in Role:
        path = folder / role.certificate
        if path.exists() or (folder / role.key).exists():
            certificate = _read(path)
            facts.append(_facts(path, certificate, _problems(folder, role, certificate, authority), now))
    return tuple(facts)


def _facts(path: Path, certificate: x509.Certificate, problems: Iterable[str], now: dt.datetime) -> CertificateFacts:
    ends = certificate.not_valid_after_utc
    return CertificateFacts(
        path=str(path),
        subject=certificate.subject.rfc4514_string(),
        addresses=_addresses(certificate),
        usages=_usages(certificate),
        ends=ends,
        days_left=(ends - now).days,
        problems=(*problems, *_time_problems(certificate, now)),
    )


def _time_problems(certificate: x509.Certificate, now: dt.datetime) -> Iterable[str]:
    if now < certificate.not_valid_before_utc:
        yield f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is this host's clock right?"
    if now > certificate.not_valid_after_utc:
        yield "has ended; issue it anew"
    elif (certificate.not_valid_after_utc - now).days < SOON_DAYS:
        yield f"ends within {SOON_DAYS} days; issue it anew"


def _authority_problems(authority: x509.Certificate) -> Iterable[str]:
    try:
        if not authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            yield "is no authority's certificate"
    except x509.ExtensionNotFound:
        yield "is no authority's certificate"


def _problems(folder: Path, role: Role, certificate: x509.Certificate, authority: x509.Certificate) -> Iterable[str]:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001 - whatever is wrong with the signature, it is not this authority's
        yield f"was not signed by {CA_CERTIFICATE}"
    if str(role) not in _usages(certificate):
        yield f"may not be shown as a {role}"
    if role is Role.SERVER and not _addresses(certificate):
        yield "names no address (subjectAltName)"
    yield from _key_problems(folder / role.key, certificate)


def _key_problems(path: Path, certificate: x509.Certificate) -> Iterable[str]:
    try:
        if path.stat().st_mode & 0o077:
            yield f"{path.name} can be read by others; chmod 600"
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        yield f"{path.name} cannot be read: {error.strerror}"
    except (ValueError, TypeError) as error:
        yield f"{path.name} is no key without a passphrase: {error}"
    else:
        if key.public_key() != certificate.public_key():
            yield f"{path.name} is not its key"


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}", remedy="name a folder that `vmferry pki` wrote") from error
    except ValueError as error:
        raise InvalidParameter(f"{path} is no certificate: {error}", remedy="issue it anew") from error


def _addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _usages(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(role.value for role in Role if role.usage in usages)


# -- making --------------------------------------------------------------------------------------------------------


def _name(common_name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError as error:
        raise InvalidParameter(f"{common_name!r} cannot be a name: {error}", remedy="use 1 to 64 characters") from error


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    if _HOST_NAME.fullmatch(text):
        return x509.DNSName(text)
    raise InvalidParameter(f"{text!r} is neither a host name nor an IP address", remedy="write it as it stands in URIs")


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """QEMU wants `key encipherment` as well, whatever the kind of key."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Every file is in `folder`; each was replaced at once, and keys can be read by their owner only."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        handle, fresh = tempfile.mkstemp(dir=folder)  # mode 0600
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if not name.endswith("-key.pem"):
            Path(fresh).chmod(0o644)
        Path(fresh).replace(folder / name)


def now() -> dt.datetime:
    """This moment, in UTC."""
    return dt.datetime.now(dt.UTC)


def fits(certificate: bytes, key: bytes) -> bool:
    """The private key in the one PEM file is that of the certificate in the other."""
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
        return loaded.public_key() == x509.load_pem_x509_certificate(certificate).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def certificate_ends_s(certificate: bytes) -> float:
    """When the certificate, which is PEM and fits its key, ends, in seconds since 1970."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()
