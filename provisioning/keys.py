"""Private keys: P-256, made where they are used."""

from __future__ import annotations

from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from provisioning.errors import ProvisioningError, Refused

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey

_SIGNED_WITH = ec.ECDSA(hashes.SHA256())


def generate() -> PrivateKey:
    """Return a new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def to_pem(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """Return a private key as PKCS #8, encrypted if there is a passphrase."""
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def from_pem(pem: bytes, what: str, passphrase: bytes | None = None) -> PrivateKey:
    """Return the private key in `pem`, which may have other PEM blocks after it.

    Raises:
        ProvisioningError: there is none, it is not P-256, or the passphrase is missing or wrong.
    """
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError:
        if passphrase is None:
            raise ProvisioningError(f"{what} is protected by a passphrase: give it") from None
        raise ProvisioningError(f"{what} is not protected, yet a passphrase was given: leave it out") from None
    except (ValueError, UnsupportedAlgorithm):
        if passphrase is not None:
            raise ProvisioningError(f"the passphrase does not open {what}, or the file is damaged") from None
        raise ProvisioningError(f"{what} is no private key in PEM: the file is damaged, or another one") from None
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)):
        raise ProvisioningError(f"{what} is not a P-256 key: make the identity anew")
    return key


def p256(key: object, what: str) -> PublicKey:
    """Return a public key that is on P-256.

    Raises:
        Refused: it is of another kind.
    """
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise Refused("wrong_key", f"the key of {what} is not an ECDSA key on P-256: make one with `sled enroll`")


def key_digest(key: PublicKey) -> str:
    """Return the SHA-256 of a public key (its SubjectPublicKeyInfo), hexadecimal."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def sign(key: PrivateKey, text: bytes) -> bytes:
    """Return the signature of `text` (ECDSA with SHA-256, DER)."""
    return key.sign(text, _SIGNED_WITH)


def verifies(key: PublicKey, signature: bytes, text: bytes) -> bool:
    """Whether `signature` was made over `text` with the private key of `key`."""
    try:
        key.verify(signature, text, _SIGNED_WITH)
    except InvalidSignature:
        return False
    return True
