"""Hashes of passwords, in the form that Mosquitto keeps them in, so that one hash serves every broker.

`$7$iterations$salt$hash`: PBKDF2 with HMAC-SHA-512 (RFC 8018), salt and hash in base64. Passwords here are drawn by a
machine; a hash of one that a person made up can be guessed from a stolen file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Final

from msgspec import Struct

ITERATIONS: Final = 20_000
"""About 10 ms on a small machine, which a broker spends on each connection."""
_MOST_ITERATIONS: Final = 1_000_000
_SALT_BYTES: Final = 12
_HASH_BYTES: Final = 64


class PasswordHash(Struct, frozen=True):
    """The parts of a hash: salt and hash in base64, as the files of brokers hold them."""

    iterations: int
    salt: str
    hash: str

    def __str__(self) -> str:
        return f"$7${self.iterations}${self.salt}${self.hash}"


def hash_password(password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """Return the hash of a password; the salt is drawn anew if left out."""
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    return str(PasswordHash(iterations, _text(salt), _text(_derive(password, salt, iterations))))


def check_hash(text: str) -> PasswordHash:
    """Return the parts of a hash.

    Raises:
        ValueError: it is none.
    """
    match text.split("$"):
        case ["", "7", iterations, salt, digest] if iterations.isdecimal() and _sized(salt, digest):
            parts = PasswordHash(int(iterations), salt, digest)
            if 0 < parts.iterations <= _MOST_ITERATIONS:
                return parts
    raise ValueError("it is no hash of the form $7$iterations$salt$hash, as mosquitto_passwd writes it")


def matches(text: str, password: str) -> bool:
    """Whether a password is the one of a hash."""
    parts = check_hash(text)
    salt, expected = base64.b64decode(parts.salt), base64.b64decode(parts.hash)
    return hmac.compare_digest(_derive(password, salt, parts.iterations), expected)


def _derive(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, _HASH_BYTES)


def _sized(salt: str, digest: str) -> bool:
    try:
        return len(base64.b64decode(salt, validate=True)) > 0 and (
            len(base64.b64decode(digest, validate=True)) == _HASH_BYTES
        )
    except binascii.Error:
        return False


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
