"""A throw-away authority and certificates for hosts on loopback, in the layout that daemons and clients read."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = dt.timedelta(days=1)


class Authority:
    """Signs what is trusted by whoever trusts it."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        unsigned = self._unsigned(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.certificate = unsigned.sign(self._key, hashes.SHA256())

    def folder(self, directory: Path) -> Path:
        """`directory` has ca.pem, and certificates with keys for a server on 127.0.0.1 and for a client."""
        directory.mkdir(parents=True)
        (directory / "ca.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self._issue(directory, "server", ExtendedKeyUsageOID.SERVER_AUTH)
        self._issue(directory, "client", ExtendedKeyUsageOID.CLIENT_AUTH)
        return directory

    def _issue(self, directory: Path, role: str, usage: x509.ObjectIdentifier) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, role)])
        places = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        unsigned = self._unsigned(name, key).add_extension(places, critical=False)
        unsigned = unsigned.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        signed = unsigned.sign(self._key, hashes.SHA256())
        (directory / f"{role}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        (directory / f"{role}-key.pem").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )

    def _unsigned(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
        )
