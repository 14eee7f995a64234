"""Enrolment tokens: one line of text with all that a new machine needs to get its certificate.

A token is `sled1.` and, in base64url (RFC 4648), a msgpack array: where the broker is, whom to trust, what the machine
is called, and a bootstrap identity: a certificate that the authority signed, valid for minutes, and its key. So a token
is a secret until it has been used or has expired.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta, Struct

from provisioning.certificate import UNREADABLE, check_issuer, issued_by, name_of, public_key_of, role_of
from provisioning.errors import ProvisioningError, Refused
from provisioning.keys import PrivateKey, key_digest
from provisioning.role import Role
from schemas.errors import InvalidTopic
from schemas.topics import Topics, check_name

PREFIX: Final = "sled1."
MOST_CHARACTERS: Final = 8_000

_KEY_BYTES: Final = 32
_Der = Annotated[bytes, Meta(max_length=3_000)]


class Ticket(NamedTuple):
    """What a token says.

    Attributes:
        device: the name of the machine it is for.
        broker: address of the broker, as for --broker.
        root: of all topics.
        authority: certificate of the fleet's authority.
        certificate: of the bootstrap identity.
        key: of the bootstrap identity.
    """

    device: str
    broker: str
    root: str
    authority: x509.Certificate
    certificate: x509.Certificate
    key: PrivateKey

    @property
    def identity(self) -> str:
        """The name of the bootstrap identity."""
        return name_of(self.certificate)


class _Packed(Struct, frozen=True, array_like=True):
    device: Annotated[str, Meta(max_length=63)]
    broker: Annotated[str, Meta(max_length=1_000)]
    root: Annotated[str, Meta(max_length=200)]
    authority: _Der
    certificate: _Der
    key: Annotated[bytes, Meta(min_length=_KEY_BYTES, max_length=_KEY_BYTES)]


def encode(ticket: Ticket) -> str:
    """Return a ticket as one line of text."""
    packed = _Packed(
        ticket.device,
        ticket.broker,
        ticket.root,
        ticket.authority.public_bytes(Encoding.DER),
        ticket.certificate.public_bytes(Encoding.DER),
        ticket.key.private_numbers().private_value.to_bytes(_KEY_BYTES, "big"),
    )
    return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(packed)).decode().rstrip("=")


def decode(text: str) -> Ticket:
    """Return what a token says; line breaks that a terminal put into it do not matter.

    Raises:
        ProvisioningError: it is no token, is cut off, or was altered.
    """
    if len(text) > 2 * MOST_CHARACTERS:
        raise ProvisioningError(f"a token has at most {MOST_CHARACTERS} characters, this text has {len(text)}")
    plain = "".join(text.split())
    if not plain.startswith(PREFIX):
        raise ProvisioningError(
            f"this is no enrolment token: it begins with {PREFIX!r}, as `sled token create` prints it"
        )
    packed = _unpacked(plain.removeprefix(PREFIX))
    try:
        check_name(packed.device)
        Topics(packed.root)
        ticket = Ticket(
            packed.device,
            packed.broker,
            packed.root,
            x509.load_der_x509_certificate(packed.authority),
            x509.load_der_x509_certificate(packed.certificate),
            ec.derive_private_key(int.from_bytes(packed.key, "big"), ec.SECP256R1()),
        )
        _check(ticket)
    except (*UNREADABLE, InvalidTopic, Refused) as error:
        raise _damaged(str(error)) from None
    return ticket


def _unpacked(text: str) -> _Packed:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.msgpack.decode(raw, type=_Packed)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise _damaged(str(error)) from None


def _check(ticket: Ticket) -> None:
    """See that the parts of a token belong together, or raise Refused."""
    if not issued_by(ticket.authority, ticket.authority):
        raise Refused("malformed", "the authority's certificate was altered")
    check_issuer(ticket.certificate, ticket.authority)
    if role_of(ticket.certificate) is not Role.ENROLMENT:
        raise Refused("wrong_identity", "its certificate is not for enrolment")
    if key_digest(public_key_of(ticket.certificate)) != key_digest(ticket.key.public_key()):
        raise Refused("wrong_key", "its key is not that of its certificate")


def _damaged(why: str) -> ProvisioningError:
    return ProvisioningError(
        f"the token is damaged ({' '.join(why.split())[:200]}): copy it again, whole, or make another with "
        "`sled token create`"
    )
