"""How a machine gets its certificate: what it sends to the operator's side, and what comes back.

A request carries a new key's signing request, and proves with the identity the machine has so far that it may have it:
the bootstrap identity of a token the first time, its present certificate from then on. So enrolment and renewal are one
exchange. Both messages are JSON, at QoS 1, never retained:

    …/enroll/{identity}/request    machine → operator    EnrolmentRequest
    …/enroll/{identity}/answer     operator → machine    CertificateIssued or EnrolmentRefused

`{identity}` is the name in the certificate that the machine is connected with; a broker lets it reach these two topics
of its own and, with a bootstrap identity, nothing else. Nothing that travels is secret.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from schemas.codec import brief
from schemas.errors import (
    InvalidField,
    InvalidTopic,
    NotText,
    PayloadMalformed,
    PayloadTooLarge,
    UnsupportedVersion,
)
from schemas.messages import VERSION, RequestId, Sentence, Version
from schemas.topics import Family, Topics, check_identity

T = TypeVar("T")

MAX_ENROLMENT_BYTES: Final = 8_192
"""Of a request or an answer: a P-256 certificate and its signing request take less than 2,000."""

BOOTSTRAP_PREFIX: Final = "enroll."
"""What the name of a bootstrap identity begins with. No device's name has a dot, so the two cannot be confused."""

Pem = Annotated[str, Meta(max_length=4_096, description="PEM (RFC 7468)")]
Signature = Annotated[bytes, Meta(max_length=128, description="ECDSA over P-256 with SHA-256, DER")]

RefusalReason = Literal[
    "malformed",
    "too_large",
    "not_utf8",
    "unsupported_version",
    "invalid_field",
    "wrong_authority",
    "self_signed",
    "expired",
    "not_yet_valid",
    "revoked",
    "wrong_identity",
    "bad_signature",
    "wrong_key",
    "wrong_name",
    "unknown_device",
    "token_unknown",
    "token_used",
    "too_many",
    "failed",
]
"""Why no certificate is issued."""


class EnrolmentRequest(Struct, frozen=True):
    """A machine asks for a certificate for a new key.

    Attributes:
        id: drawn anew for each request; the answer carries it.
        csr: certificate signing request (PKCS #10) for the new key; its common name is the machine's.
        certificate: the identity that asks: a token's bootstrap certificate, or the machine's present one.
        signature: made with that identity's key over `signed_part`.
    """

    limit: ClassVar[int] = MAX_ENROLMENT_BYTES

    version: Version
    id: RequestId
    csr: Pem
    certificate: Pem
    signature: Signature

    def signed_part(self) -> bytes:
        """Return the bytes that `signature` signs."""
        return signed_part(self.id, self.csr)


class CertificateIssued(Struct, frozen=True, tag_field="event", tag="issued"):
    """The certificate for the key of the request.

    Attributes:
        id: of the request.
        certificate: for the new key.
    """

    limit: ClassVar[int] = MAX_ENROLMENT_BYTES

    id: RequestId
    certificate: Pem


class EnrolmentRefused(Struct, frozen=True, tag_field="event", tag="refused"):
    """No certificate.

    Attributes:
        id: of the request; None if it could not be read.
        code: for programs.
        message: for people: what was wrong and what to do.
    """

    limit: ClassVar[int] = MAX_ENROLMENT_BYTES

    id: RequestId | None
    code: RefusalReason
    message: Sentence


EnrolmentAnswer = CertificateIssued | EnrolmentRefused

_REQUEST = msgspec.json.Decoder(EnrolmentRequest)
_ANSWER: msgspec.json.Decoder[EnrolmentAnswer] = msgspec.json.Decoder(EnrolmentAnswer)


class _Header(Struct, frozen=True):
    version: int


_HEADER = msgspec.json.Decoder(_Header)


def signed_part(request: str, csr: str) -> bytes:
    """Return what the asking identity signs: the request's id and signing request, marked as an enrolment."""
    return f"sled enrolment {VERSION}\n{request}\n{csr}".encode()


def bootstrap_name(token: bytes) -> str:
    """Return the name of the bootstrap identity of a token.

    Args:
        token: the token's id, 8 bytes.
    """
    return check_identity(BOOTSTRAP_PREFIX + token.hex())


def request_topic(root: str, identity: str) -> str:
    """Return where an identity asks; `+` as identity for the filter of all, or raise InvalidTopic."""
    return Topics(root).enrol_request(identity)


def answer_topic(root: str, identity: str) -> str:
    """Return where an identity is answered, or raise InvalidTopic."""
    return Topics(root).enrol_answer(identity)


def asking_identity(root: str, topic: str) -> str:
    """Return the identity of a request's topic.

    Raises:
        InvalidTopic: it is no topic of requests below this root.
    """
    parsed = Topics(root).parse(topic)
    if parsed.family is not Family.ENROL_REQUEST:
        raise InvalidTopic(f"topic {topic[:200]!r} carries no enrolment requests")
    return parsed.identity


def encode_enrolment(message: EnrolmentRequest | EnrolmentAnswer) -> bytes:
    """Return a message as JSON.

    Raises:
        PayloadTooLarge: it has more bytes than it may.
    """
    payload = msgspec.json.encode(message)
    _check_size(payload)
    return payload


def decode_request(payload: bytes) -> EnrolmentRequest:
    """Return the request in `payload`.

    Raises:
        PayloadTooLarge, NotText, PayloadMalformed, UnsupportedVersion, InvalidField: with a sentence that says why.
    """
    _check_size(payload)
    version = _parse(_HEADER, payload, "the enrolment request").version
    if version != VERSION:
        raise UnsupportedVersion(
            f"the enrolment request is of protocol version {version}; this side speaks version {VERSION}: "
            "update the older side"
        )
    return _parse(_REQUEST, payload, "the enrolment request")


def decode_answer(payload: bytes) -> EnrolmentAnswer:
    """Return the answer in `payload`, or raise a WireError as `decode_request` does."""
    _check_size(payload)
    return _parse(_ANSWER, payload, "the enrolment answer")


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_ENROLMENT_BYTES:
        raise PayloadTooLarge(f"an enrolment message may have {MAX_ENROLMENT_BYTES} bytes, this one has {len(payload)}")


def _parse(decoder: msgspec.json.Decoder[T], payload: bytes, what: str) -> T:
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise InvalidField(f"{what} is not valid: {brief(error)}") from None
    except msgspec.DecodeError as error:
        raise PayloadMalformed(f"{what} is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise NotText(f"{what} is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise PayloadMalformed(f"{what} is nested too deeply") from None
