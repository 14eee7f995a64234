"""The fleet's certificate authority: what it signs, and how that looks (RFC 5280)."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from provisioning.certificate import check_dates
from provisioning.errors import ProvisioningError
from provisioning.role import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from provisioning.keys import PrivateKey, PublicKey

BACKDATED: Final = timedelta(hours=1)
"""A certificate is valid from so long before it is issued on, since the clocks of a fleet differ."""

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
LIFETIME: Final = timedelta(days=90)
"""Of a machine's certificate; `sled device needs-renewal` says yes when a third of it is left."""
LIST_LIFETIME: Final = timedelta(days=180)
"""Of a revocation list: a broker with an older one lets nobody in. It is renewed when half of it is over."""


class Subject(NamedTuple):
    """Whom a certificate is for.

    Attributes:
        name: the machine's: its client id, user name and place in topics.
        role: what it may do.
        hosts: names and addresses of a broker's machine.
    """

    name: str
    role: Role
    hosts: tuple[str, ...] = ()


class Authority(NamedTuple):
    """The fleet's authority.

    Attributes:
        certificate: that all machines trust.
        key: that signs; whoever has it can be any machine.
    """

    certificate: x509.Certificate
    key: PrivateKey


def found(key: PrivateKey, name: str, *, serial: int, now: datetime, lifetime: timedelta) -> Authority:
    """Return a new authority: a self-signed certificate that can issue machines' certificates and nothing below them.

    Args:
        key: of the authority.
        name: common name, for people.
        serial: a random serial number.
        now: with a time zone.
        lifetime: of the authority's certificate.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_seconds(now - BACKDATED))
        .not_valid_after(_seconds(now + lifetime))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue(
    authority: Authority, subject: Subject, key: PublicKey, *, serial: int, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Return a certificate for a machine's key.

    It proves a client; a broker's proves a server, of the names in `subject.hosts`. It never outlives the authority.

    Args:
        authority: that signs.
        subject: whom it is for.
        key: the machine's public key.
        serial: a random serial number.
        now: with a time zone.
        lifetime: from now on.

    Raises:
        Refused: the authority has expired, or the clock is before its beginning.
        ProvisioningError: a broker has no host, or another role has one.
    """
    check_dates(authority.certificate, "the certificate of the fleet's authority", now)
    if (subject.role is Role.BROKER) != bool(subject.hosts):
        raise ProvisioningError(
            f"{subject.name!r} is of role {subject.role}: a broker has at least one host (--host), and nobody else has"
        )
    parent = authority.certificate
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if subject.role is Role.BROKER else ExtendedKeyUsageOID.CLIENT_AUTH
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_distinguished_name(subject))
        .issuer_name(parent.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(max(_seconds(now - BACKDATED), parent.not_valid_before_utc))
        .not_valid_after(min(_seconds(now + lifetime), parent.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(subject)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def sign_list(
    authority: Authority, revoked: Iterable[tuple[int, datetime]], *, number: int, now: datetime
) -> x509.CertificateRevocationList:
    """Return the list of certificates that are void before their time.

    Args:
        authority: that signs.
        revoked: serial number and time of revocation of each.
        number: higher than that of the list before.
        now: with a time zone.

    Raises:
        Refused: the authority has expired, or the clock is before its beginning.
    """
    check_dates(authority.certificate, "the certificate of the fleet's authority", now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(max(_seconds(now - BACKDATED), authority.certificate.not_valid_before_utc))
        .next_update(_seconds(now + LIST_LIFETIME))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    for serial, since in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_seconds(since)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256())


def check_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Return host names and addresses that a broker's certificate may prove.

    Raises:
        ProvisioningError: one is neither.
    """
    for host in hosts:
        _alternative_name(host)
    return tuple(hosts)


def _distinguished_name(subject: Subject) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, subject.role.value),
            x509.NameAttribute(NameOID.COMMON_NAME, subject.name),
        ]
    )


def _alternative_names(subject: Subject) -> list[x509.GeneralName]:
    if subject.hosts:
        return [_alternative_name(host) for host in subject.hosts]
    # Not a DNS name: a device's certificate must prove no host, whatever the device is called.
    return [x509.UniformResourceIdentifier(f"sled:{subject.role}/{subject.name}")]


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    labels = host.split(".")
    if len(host) > 253 or not all(_is_label(label) for label in labels):
        raise ProvisioningError(f"{host[:100]!r} is neither a host name nor an address: write pi.example or 192.0.2.7")
    return x509.DNSName(host)


def _is_label(label: str) -> bool:
    plain = label.replace("-", "a")
    return 0 < len(label) <= 63 and plain.isascii() and plain.isalnum() and not label.startswith("-")


def _seconds(time: datetime) -> datetime:
    return time.replace(microsecond=0)
