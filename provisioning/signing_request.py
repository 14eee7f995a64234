"""Signing requests (PKCS #10): a machine's new public key under its name, signed with the new private key."""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from provisioning.certificate import UNREADABLE, common_name
from provisioning.errors import Refused
from provisioning.keys import PrivateKey, PublicKey, p256
from schemas.enrolment import MAX_ENROLMENT_BYTES


class SigningRequest(NamedTuple):
    """What a machine asks a certificate for."""

    name: str
    key: PublicKey


def make_signing_request(name: str, key: PrivateKey) -> str:
    """Return the signing request of a machine for its key, in PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def read_signing_request(pem: str | bytes) -> SigningRequest:
    """Return what a signing request asks for; of its contents only the name and the key count.

    Raises:
        Refused: it is too large, malformed, not signed with its own key, of a key that is not on P-256, or of a name
            that is not allowed.
    """
    data = pem.encode() if isinstance(pem, str) else pem
    if len(data) > MAX_ENROLMENT_BYTES:
        raise Refused(
            "too_large",
            f"the signing request has {len(data)} bytes, and may have {MAX_ENROLMENT_BYTES}: is it the file?",
        )
    try:
        request = x509.load_pem_x509_csr(data)
        key = p256(request.public_key(), "the signing request")
        signed = request.is_signature_valid
    except UNREADABLE as error:
        brief = " ".join(str(error).split())[:120]
        raise Refused("malformed", f"this is no signing request in PEM ({brief}): make it with --csr-out") from None
    if not signed:
        raise Refused(
            "bad_signature", "the signing request is not signed with its own key: it was altered; make it anew"
        )
    return SigningRequest(common_name(request, "the signing request"), key)
