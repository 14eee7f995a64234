"""Reading certificates, and judging whether one is good: whose it is, who issued it, when it holds."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from provisioning.errors import Refused
from provisioning.keys import PublicKey, p256
from provisioning.role import Role
from schemas.errors import InvalidTopic
from schemas.topics import check_identity

if TYPE_CHECKING:
    from datetime import timedelta

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the parser raises for bytes that are no certificate, signing request or list."""


def read_certificate(pem: str | bytes, what: str) -> x509.Certificate:
    """Return the first certificate in `pem`.

    Raises:
        Refused: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
    except UNREADABLE as error:
        raise Refused("malformed", f"{what} is no certificate in PEM ({_brief(error)})") from None


def read_chain(pem: bytes, what: str) -> list[x509.Certificate]:
    """Return all certificates in `pem`, at least one.

    Raises:
        Refused: there is none, or one is malformed.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise Refused("malformed", f"{what} holds no certificate in PEM ({_brief(error)})") from None


def to_pem(certificate: x509.Certificate) -> str:
    """Return a certificate as text."""
    return certificate.public_bytes(Encoding.PEM).decode()


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` has it, in lower case."""
    return certificate.fingerprint(SHA256()).hex(":")


def serial(certificate: x509.Certificate) -> str:
    """Return the serial number, hexadecimal."""
    return f"{certificate.serial_number:x}"


def common_name(signed: x509.Certificate | x509.CertificateSigningRequest, what: str) -> str:
    """Return the one common name of a subject, if it may name a machine or a bootstrap identity.

    Raises:
        Refused: there is not exactly one, or it may not.
    """
    names = [attribute.value for attribute in _subject(signed).get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1 or not isinstance(names[0], str):
        raise Refused("wrong_name", f"{what} has {len(names)} common names: it must have one, the machine's")
    try:
        return check_identity(names[0])
    except InvalidTopic as error:
        raise Refused("wrong_name", f"{what} has a name that is not allowed: {error}") from None


def name_of(certificate: x509.Certificate) -> str:
    """Return the name of the machine that a certificate stands for, or raise Refused."""
    return common_name(certificate, "the certificate")


def role_of(certificate: x509.Certificate) -> Role:
    """Return the role that a certificate was issued for.

    Raises:
        Refused: none that SLED knows.
    """
    subject = _subject(certificate)
    units = [str(unit.value) for unit in subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    try:
        (unit,) = units
        return Role(unit)
    except ValueError:
        raise Refused("wrong_identity", f"the certificate is for no role that SLED knows ({units})") from None


def public_key_of(certificate: x509.Certificate) -> PublicKey:
    """Return the public key, which must be on P-256, or raise Refused."""
    try:
        key = certificate.public_key()
    except UNREADABLE as error:
        raise Refused("wrong_key", f"the key of the certificate cannot be read ({_brief(error)})") from None
    return p256(key, "the certificate")


def check(certificate: x509.Certificate, authority: x509.Certificate, now: datetime) -> None:
    """See that a certificate was issued by an authority, and that it and the authority are valid now.

    Args:
        certificate: of a machine.
        authority: the fleet's.
        now: with a time zone.

    Raises:
        Refused: it was not, or they are not; the sentence says which, and what to do.
    """
    check_issuer(certificate, authority)
    check_dates(authority, "the certificate of the fleet's authority", now)
    check_dates(certificate, f"the certificate of {name_of(certificate)!r}", now)


def check_issuer(certificate: x509.Certificate, authority: x509.Certificate) -> None:
    """See that a certificate was issued by an authority.

    Raises:
        Refused: it was not, with the code `self_signed` or `wrong_authority`.
    """
    if issued_by(certificate, authority):
        return
    name = name_of(certificate)
    if issued_by(certificate, certificate):
        raise Refused(
            "self_signed",
            f"the certificate of {name!r} is self-signed: anybody can make such a one. Get one from the fleet's "
            "authority with `sled enroll`",
        )
    raise Refused(
        "wrong_authority",
        f"the certificate of {name!r} was not issued by this fleet's authority (SHA-256 {fingerprint(authority)}): it "
        "belongs to another fleet, or the authority was made anew. Get one with `sled enroll`",
    )


def check_dates(certificate: x509.Certificate, what: str, now: datetime) -> None:
    """See that a certificate holds now.

    Raises:
        Refused: it does not yet, or no more; the sentence names both times, since the clock may be what is wrong.
    """
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        raise Refused(
            "not_yet_valid",
            f"{what} is valid from {shown(begins)} on, and this machine's clock says {shown(now)}: the clock is "
            "probably behind. Set it (`timedatectl set-ntp true`) and try again",
        )
    if now > ends:
        raise Refused(
            "expired",
            f"{what} expired on {shown(ends)}, {_ago(now - ends)} ago by this machine's clock ({shown(now)}): if the "
            "clock is right, enrol again with a new token",
        )


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether a certificate carries an authority's name as issuer and its signature."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def shown(time: datetime) -> str:
    """Return a time as people read it, in UTC to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _subject(signed: x509.Certificate | x509.CertificateSigningRequest) -> x509.Name:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are too long or empty, which are refused in our own words
        try:
            return signed.subject
        except UNREADABLE as error:
            raise Refused("malformed", f"the name in it cannot be read ({_brief(error)})") from None


def _ago(span: timedelta) -> str:
    return f"{span.days} days" if span.days else f"{span.seconds // 60} minutes"


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."
