"""Certificates good and bad, made for a test."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.tls import ServerTls

if TYPE_CHECKING:
    from pathlib import Path

DAY = timedelta(days=1)


class Authority:
    """An authority whose files are in a folder: `NAME.pem` and `NAME.key` for each certificate, `ca.pem`, `crl.pem`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        self._revoked: list[x509.RevokedCertificate] = []
        self.certificate = self._sign(self._name, self._key.public_key(), DAY, ca=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(_pem(self.certificate))
        self.crl = folder / "crl.pem"
        self.write_crl()

    def issue(
        self,
        name: str,
        *,
        begins: timedelta = -2 * DAY,
        ends: timedelta = DAY,
        server: bool = False,
        file: str | None = None,
        by_itself: bool = False,
    ) -> x509.Certificate:
        """Issue a certificate, or have it sign itself, and write it down with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            _name(name), key.public_key(), ends, begins=begins, server=server, signer=key if by_itself else None
        )
        (self.folder / f"{file or name}.pem").write_bytes(_pem(certificate))
        secret = self.folder / f"{file or name}.key"
        secret.touch(0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate

    def revoke(self, certificate: x509.Certificate) -> None:
        now = datetime.now(UTC)
        builder = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
        self._revoked.append(builder.revocation_date(now).build())
        self.write_crl()

    def write_crl(self) -> None:
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        # Each list is a little younger than the one before, as OpenSSL takes the youngest; dates are in seconds.
        builder = builder.last_update(now - timedelta(seconds=100 - len(self._revoked))).next_update(now + DAY)
        for revoked in self._revoked:
            builder = builder.add_revoked_certificate(revoked)
        self.crl.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def client(self, name: str | None) -> ssl.SSLContext:
        """What a client with this certificate speaks TLS by; None for one that has none."""
        context = ssl.create_default_context(cafile=self.ca)
        if name is not None:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        ends: timedelta,
        *,
        begins: timedelta = -2 * DAY,
        ca: bool = False,
        server: bool = False,
        signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if signer else self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if server:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(signer or self._key, hashes.SHA256())


def tls_of(authority: Authority, *, clients: bool = True) -> ServerTls:
    """How a broker of the authority speaks TLS; with certificates of its clients, or without."""
    folder = authority.folder
    certificate, key = folder / "localhost.pem", folder / "localhost.key"
    return ServerTls(certificate, key, authority.ca, authority.crl) if clients else ServerTls(certificate, key)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
