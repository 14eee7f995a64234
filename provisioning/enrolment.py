"""The exchange that gives a machine its certificate, as pure functions: bytes, a book and a time in, the same out.

Nothing here trusts the broker: who asks is proved by a signature inside the request, and the certificate that comes
back is checked against the authority that the machine knows already. See `schemas.enrolment` for the messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from provisioning import registry as book
from provisioning.authority import LIFETIME, Subject, issue
from provisioning.certificate import (
    check,
    name_of,
    public_key_of,
    read_certificate,
    role_of,
    serial,
    shown,
    to_pem,
)
from provisioning.errors import ProvisioningError, Refused
from provisioning.keys import key_digest, sign, verifies
from provisioning.role import Role
from provisioning.signing_request import make_signing_request, read_signing_request
from schemas.enrolment import (
    CertificateIssued,
    EnrolmentRefused,
    EnrolmentRequest,
    decode_answer,
    decode_request,
    signed_part,
)
from schemas.errors import WireError
from schemas.limits import MAX_SENTENCE_CHARACTERS
from schemas.messages import VERSION

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from cryptography import x509

    from provisioning.authority import Authority
    from provisioning.keys import PrivateKey, PublicKey
    from provisioning.registry import Registry
    from provisioning.signing_request import SigningRequest
    from schemas.enrolment import EnrolmentAnswer, RefusalReason


class Asking(NamedTuple):
    """The identity a machine asks with."""

    certificate: x509.Certificate
    key: PrivateKey


class Decision(NamedTuple):
    """What the operator's side makes of a request.

    Attributes:
        registry: the book afterwards; the one before if nothing was issued.
        answer: to send back.
        name: the machine's, as far as it is known.
    """

    registry: Registry
    answer: EnrolmentAnswer
    name: str


class Terms(NamedTuple):
    """How certificates are issued.

    Attributes:
        serial: a random serial number, used for the certificate if there is one.
        now: with a time zone.
        lifetime: of the certificate.
    """

    serial: int
    now: datetime
    lifetime: timedelta = LIFETIME


def make_request(name: str, new_key: PrivateKey, asking: Asking, request: str) -> EnrolmentRequest:
    """Return the request of a machine for a certificate.

    Args:
        name: the machine's.
        new_key: that the certificate is for.
        asking: the identity that may ask: a token's, or the present one.
        request: an id that was not used before.
    """
    csr = make_signing_request(name, new_key)
    signature = sign(asking.key, signed_part(request, csr))
    return EnrolmentRequest(VERSION, request, csr, to_pem(asking.certificate), signature)


def decide(registry: Registry, authority: Authority, identity: str, payload: bytes, terms: Terms) -> Decision:
    """Answer a request that came on the topic of `identity`."""
    request: EnrolmentRequest | None = None
    try:
        request = decode_request(payload)
        after, certificate, name = _issue(registry, authority, identity, request, terms)
    except Refused as refused:
        answer = _refusal(request, refused.code, str(refused))
    except WireError as error:
        answer = _refusal(request, cast("RefusalReason", error.code), str(error))
    except ProvisioningError as error:
        answer = _refusal(request, "failed", str(error))
    else:
        return Decision(after, CertificateIssued(request.id, certificate), name)
    return Decision(registry, answer, identity)


def sign_for(registry: Registry, authority: Authority, wanted: SigningRequest, terms: Terms) -> tuple[Registry, str]:
    """Issue a certificate that an operator vouches for; the same key gets the same certificate again.

    Returns:
        The book afterwards, and the certificate in PEM.

    Raises:
        Refused: the machine is not registered, was revoked, or holds too many certificates.
    """
    device = book.require(registry, wanted.name)
    digest = key_digest(wanted.key)
    known = book.find_issued(device, digest, terms.now)
    if known is not None and known.ends - terms.now > terms.lifetime / 2:  # its answer was lost
        return registry, known.pem
    book.check_room(wanted.name, device, terms.now)
    certificate = issue(
        authority,
        Subject(wanted.name, device.role, device.hosts),
        wanted.key,
        serial=terms.serial,
        now=terms.now,
        lifetime=terms.lifetime,
    )
    return book.add_certificate(registry, wanted.name, certificate, wanted.key), to_pem(certificate)


def read_answer(payload: bytes, request: str) -> str | None:
    """Return the certificate in an answer to a request; None if it answers another one.

    Raises:
        Refused: the operator's side says no; the sentence is its own.
        WireError: the answer is malformed.
    """
    answer = decode_answer(payload)
    if answer.id is not None and answer.id != request:
        return None
    if isinstance(answer, EnrolmentRefused):
        raise Refused(answer.code, answer.message)
    return answer.certificate


def accept(pem: str | bytes, name: str, key: PublicKey, authority: x509.Certificate, now: datetime) -> x509.Certificate:
    """Return a certificate that came for a machine, if it is what was asked for.

    Args:
        pem: the certificate.
        name: the machine's.
        key: that was asked with.
        authority: the fleet's, known from before.
        now: with a time zone.

    Raises:
        Refused: it is another's, for another key, of another authority, or does not hold now.
    """
    certificate = read_certificate(pem, "what came back")
    check(certificate, authority, now)
    if name_of(certificate) != name:
        raise Refused(
            "wrong_identity", f"this is the certificate of {name_of(certificate)!r}, and this machine is {name!r}"
        )
    if key_digest(public_key_of(certificate)) != key_digest(key):
        raise Refused(
            "wrong_key",
            f"the certificate of {name!r} is for another key than this machine's: ask again, and use what comes back",
        )
    return certificate


def _issue(
    registry: Registry, authority: Authority, identity: str, request: EnrolmentRequest, terms: Terms
) -> tuple[Registry, str, str]:
    asking = read_certificate(request.certificate, "the identity that asks")
    _check_asking(asking, registry, authority, identity, request, terms.now)
    wanted = read_signing_request(request.csr)
    if role_of(asking) is Role.ENROLMENT:
        registry = _redeem(registry, identity, asking, wanted, terms.now)
    else:
        _check_renewal(registry, identity, asking, wanted)
    after, certificate = sign_for(registry, authority, wanted, terms)
    return after, certificate, wanted.name


def _check_asking(
    asking: x509.Certificate,
    registry: Registry,
    authority: Authority,
    identity: str,
    request: EnrolmentRequest,
    now: datetime,
) -> None:
    """See that the identity that asks is one of ours, holds, is the sender's, and has signed."""
    check(asking, authority.certificate, now)
    name = name_of(asking)
    if book.is_revoked(registry, serial(asking)):
        raise Refused("revoked", f"the certificate of {name!r} was revoked: ask the operator")
    if name != identity:
        raise Refused("wrong_identity", f"the certificate of {name!r} came in the name of {identity!r}: use your own")
    if not verifies(public_key_of(asking), request.signature, request.signed_part()):
        raise Refused(
            "bad_signature",
            f"the request in the name of {name!r} is not signed with its key: it was altered, or forged",
        )


def _redeem(
    registry: Registry, identity: str, asking: x509.Certificate, wanted: SigningRequest, now: datetime
) -> Registry:
    """Take a token, which brings one key for one machine."""
    token = registry.tokens.get(identity)
    if token is None or token.key != key_digest(public_key_of(asking)):
        raise Refused("token_unknown", "this token is not known here, or was withdrawn: ask for another")
    if now > token.expires:
        raise Refused(
            "expired",
            f"this token expired on {shown(token.expires)}: make another with `sled token create {token.device}`",
        )
    if wanted.name != token.device:
        raise Refused(
            "wrong_name", f"this token is for {token.device!r}, and the signing request is for {wanted.name!r}"
        )
    return book.use_token(registry, identity, key_digest(wanted.key), now)


def _check_renewal(registry: Registry, identity: str, asking: x509.Certificate, wanted: SigningRequest) -> None:
    """See that a machine asks for itself, with a certificate that is in the book."""
    if wanted.name != identity:
        raise Refused("wrong_name", f"{identity!r} asks for a certificate of {wanted.name!r}: it gets its own only")
    device = book.require(registry, identity)
    if serial(asking) not in {issued.serial for issued in device.certificates}:
        raise Refused(
            "unknown_device", f"the certificate that {identity!r} asks with is not in the registry: enrol with a token"
        )


def _refusal(request: EnrolmentRequest | None, code: RefusalReason, sentence: str) -> EnrolmentRefused:
    return EnrolmentRefused(request.id if request else None, code, sentence[:MAX_SENTENCE_CHARACTERS])
