"""The operator's side: who gets a certificate, and who does not and why."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning import keys
from provisioning import registry as book
from provisioning.certificate import name_of, read_certificate, role_of, to_pem
from provisioning.enrolment import Asking, accept, decide, make_request, read_answer, sign_for
from provisioning.errors import Refused
from provisioning.registry import MOST_CERTIFICATES
from provisioning.role import Role
from provisioning.signing_request import SigningRequest
from schemas.enrolment import (
    MAX_ENROLMENT_BYTES,
    CertificateIssued,
    EnrolmentRefused,
    EnrolmentRequest,
    encode_enrolment,
    signed_part,
)
from schemas.messages import VERSION
from tests.provisioning.bench import (
    DAY,
    MINUTE,
    NOW,
    Operator,
    machine,
    make_authority,
    noted,
    registered,
    request_of,
    terms,
    with_token,
)

if TYPE_CHECKING:
    from provisioning.registry import Registry

AUTHORITY = make_authority(now=NOW - 10 * DAY)


def refused(operator: Operator, identity: str, payload: bytes) -> EnrolmentRefused:
    """Have a request refused; the book must be as it was."""
    before = operator.registry
    answer = operator.answer(identity, payload).answer
    assert isinstance(answer, EnrolmentRefused)
    assert operator.registry is before
    return answer


def issued(operator: Operator, identity: str, payload: bytes) -> x509.Certificate:
    answer = operator.answer(identity, payload).answer
    assert isinstance(answer, CertificateIssued), answer
    return read_certificate(answer.certificate, "it")


def token_operator(device: str = "pi") -> tuple[Operator, str, Asking]:
    registry, identity, bootstrap = with_token(registered("pi", "pi-2"), AUTHORITY, device)
    return Operator(AUTHORITY, registry), identity, bootstrap


def enrolled_operator() -> tuple[Operator, Asking]:
    pi = machine(AUTHORITY)
    return Operator(AUTHORITY, noted(registered("pi", "pi-2"), "pi", pi)), pi


# By token


def test_a_token_brings_a_certificate_for_the_key_of_the_machine() -> None:
    operator, identity, bootstrap = token_operator()
    key = keys.generate()
    certificate = issued(operator, identity, request_of("pi", bootstrap, key))
    assert certificate.public_key() == key.public_key()
    assert (name_of(certificate), role_of(certificate)) == ("pi", Role.DEVICE)
    assert len(operator.registry.devices["pi"].certificates) == 1


def test_the_same_key_again_gets_the_same_certificate() -> None:
    """Its answer was lost on the way."""
    operator, identity, bootstrap = token_operator()
    key = keys.generate()
    first = issued(operator, identity, request_of("pi", bootstrap, key))
    registry = operator.registry
    assert issued(operator, identity, request_of("pi", bootstrap, key, "q2")) == first
    assert operator.registry is registry


def test_a_token_that_was_used() -> None:
    operator, identity, bootstrap = token_operator()
    issued(operator, identity, request_of("pi", bootstrap))
    answer = refused(operator, identity, request_of("pi", bootstrap))
    assert answer.code == "token_used"
    assert "sled token create pi" in answer.message
    assert "sled device revoke pi" in answer.message


def test_a_token_that_expired() -> None:
    operator, identity, bootstrap = token_operator()
    operator.now = NOW + 16 * MINUTE
    answer = refused(operator, identity, request_of("pi", bootstrap))
    assert answer.code == "expired"


def test_a_token_whose_time_the_book_says_is_over() -> None:
    """Whatever its certificate says."""
    registry, identity, _ = with_token(registered("pi"), AUTHORITY, "pi")
    longer = machine(AUTHORITY, identity, Role.ENROLMENT, lifetime=DAY)
    token = msgspec.structs.replace(registry.tokens[identity], key=keys.key_digest(longer.key.public_key()))
    operator = Operator(AUTHORITY, book.add_token(registry, identity, token), NOW + 16 * MINUTE)
    answer = refused(operator, identity, request_of("pi", longer))
    assert answer.code == "expired"
    assert "sled token create pi" in answer.message


def test_a_token_for_somebody_else() -> None:
    operator, identity, bootstrap = token_operator("pi-2")
    answer = refused(operator, identity, request_of("pi", bootstrap))
    assert answer.code == "wrong_name"
    assert "'pi-2'" in answer.message


def test_a_token_that_was_withdrawn() -> None:
    operator, identity, bootstrap = token_operator()
    operator.registry = msgspec.structs.replace(operator.registry, tokens={})
    assert refused(operator, identity, request_of("pi", bootstrap)).code == "token_unknown"


def test_another_bootstrap_identity_under_the_name_of_a_token() -> None:
    operator, identity, _ = token_operator()
    other = machine(AUTHORITY, identity, Role.ENROLMENT, lifetime=15 * MINUTE)
    assert refused(operator, identity, request_of("pi", other)).code == "token_unknown"


def test_a_token_of_a_machine_that_was_revoked() -> None:
    operator, identity, bootstrap = token_operator()
    operator.registry = book.revoke(operator.registry, "pi", NOW)
    assert refused(operator, identity, request_of("pi", bootstrap)).code == "revoked"


def test_a_bootstrap_identity_gets_no_certificate_in_its_own_name() -> None:
    operator, identity, bootstrap = token_operator()
    assert refused(operator, identity, request_of(identity, bootstrap)).code == "wrong_name"


# Renewal


def test_a_machine_renews_its_own() -> None:
    operator, pi = enrolled_operator()
    operator.now = NOW + 60 * DAY
    certificate = issued(operator, "pi", request_of("pi", pi))
    assert certificate.not_valid_after_utc == NOW + 150 * DAY


def test_a_machine_gets_no_other_machines() -> None:
    operator, pi = enrolled_operator()
    answer = refused(operator, "pi", request_of("pi-2", pi))
    assert answer.code == "wrong_name"
    assert "'pi-2'" in answer.message


def test_on_another_machines_topic() -> None:
    """A broker that lets this through is set up wrongly; the operator's side does not rely on it."""
    operator, pi = enrolled_operator()
    assert refused(operator, "pi-2", request_of("pi-2", pi)).code == "wrong_identity"


def test_with_another_machines_certificate_but_without_its_key() -> None:
    operator, pi = enrolled_operator()
    stolen = Asking(pi.certificate, keys.generate())
    assert refused(operator, "pi", request_of("pi", stolen)).code == "bad_signature"


def test_a_signing_request_put_into_a_request_that_was_overheard() -> None:
    operator, pi = enrolled_operator()
    heard = make_request("pi", keys.generate(), pi, "q1")
    other = make_request("pi", keys.generate(), pi, "q2")
    assert (
        refused(operator, "pi", encode_enrolment(msgspec.structs.replace(heard, csr=other.csr))).code == "bad_signature"
    )


@pytest.mark.parametrize(
    ("asking", "code"),
    [
        (machine(make_authority()), "wrong_authority"),
        (Asking(make_authority("pi").certificate, keys.generate()), "self_signed"),
        (machine(AUTHORITY, lifetime=timedelta(seconds=1), now=NOW - DAY), "expired"),
        (machine(AUTHORITY, now=NOW + DAY), "not_yet_valid"),
        (machine(AUTHORITY), "unknown_device"),
    ],
    ids=["wrong-authority", "self-signed", "expired", "not-yet-valid", "not-in-the-book"],
)
def test_identities_that_may_not_ask(asking: Asking, code: str) -> None:
    operator, _ = enrolled_operator()
    assert refused(operator, "pi", request_of("pi", asking)).code == code


def test_revoked() -> None:
    operator, pi = enrolled_operator()
    operator.registry = book.revoke(operator.registry, "pi", NOW)
    answer = refused(operator, "pi", request_of("pi", pi))
    assert answer.code == "revoked"
    assert "ask the operator" in answer.message


def test_revoked_although_the_name_is_in_use_again() -> None:
    operator, stolen = enrolled_operator()
    operator.registry = book.register(book.delete(operator.registry, "pi", NOW), "pi", Role.DEVICE, (), NOW)
    assert refused(operator, "pi", request_of("pi", stolen)).code == "revoked"


def test_a_machine_gone_wild_is_stopped() -> None:
    operator, pi = enrolled_operator()
    for number in range(MOST_CERTIFICATES - 1):
        issued(operator, "pi", request_of("pi", pi, number=f"q{number}"))
    assert refused(operator, "pi", request_of("pi", pi)).code == "too_many"


def test_a_lost_answer_is_given_again_only_while_it_is_fresh() -> None:
    operator, pi = enrolled_operator()
    key = keys.generate()
    first = issued(operator, "pi", request_of("pi", pi, key))
    operator.now = NOW + 80 * DAY
    assert issued(operator, "pi", request_of("pi", pi, key)) != first


# What is no request


def test_too_large() -> None:
    operator, pi = enrolled_operator()
    answer = refused(operator, "pi", request_of("pi", pi) + b" " * MAX_ENROLMENT_BYTES)
    assert answer.code == "too_large"
    assert answer.id is None


def test_another_version() -> None:
    operator, pi = enrolled_operator()
    request = msgspec.structs.replace(make_request("pi", keys.generate(), pi, "q1"), version=VERSION + 1)
    assert refused(operator, "pi", encode_enrolment(request)).code == "unsupported_version"


def test_a_key_of_another_kind() -> None:
    operator, pi = enrolled_operator()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pi")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    csr = builder.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    signature = keys.sign(pi.key, signed_part("q1", csr))
    request = EnrolmentRequest(VERSION, "q1", csr, to_pem(pi.certificate), signature)
    assert refused(operator, "pi", encode_enrolment(request)).code == "wrong_key"


_OPERATOR, _PI = enrolled_operator()
_REQUEST = request_of("pi", _PI)


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_rubbish(payload: bytes) -> None:
    refused(_OPERATOR, "pi", payload)


@settings(max_examples=50)
@given(st.integers(0, len(_REQUEST) - 1), st.binary(max_size=3))
def test_a_request_that_was_altered(at: int, other: bytes) -> None:
    """Whatever is changed: no certificate, or one for the very key that asked, in the very name."""
    payload = _REQUEST[:at] + other + _REQUEST[at + 1 :]
    decision = decide(_OPERATOR.registry, AUTHORITY, "pi", payload, terms())
    if isinstance(decision.answer, CertificateIssued):
        wanted = msgspec.json.decode(_REQUEST, type=EnrolmentRequest).csr
        assert read_certificate(decision.answer.certificate, "it").public_key() == (
            x509.load_pem_x509_csr(wanted.encode()).public_key()
        )


# What comes back


def test_a_certificate_is_accepted_only_by_the_machine_that_asked() -> None:
    key, registry = keys.generate(), registered("pi", "pi-2")
    _, pem = _signed(registry, "pi", key)
    accept(pem, "pi", key.public_key(), AUTHORITY.certificate, NOW)
    with pytest.raises(Refused, match="certificate of 'pi', and this machine is 'pi-2'"):
        accept(pem, "pi-2", key.public_key(), AUTHORITY.certificate, NOW)
    with pytest.raises(Refused, match="for another key"):
        accept(pem, "pi", keys.generate().public_key(), AUTHORITY.certificate, NOW)
    with pytest.raises(Refused, match="another fleet"):
        accept(pem, "pi", key.public_key(), make_authority().certificate, NOW)
    with pytest.raises(Refused, match="clock is probably behind"):
        accept(pem, "pi", key.public_key(), AUTHORITY.certificate, NOW - DAY)
    with pytest.raises(Refused, match="expired"):
        accept(pem, "pi", key.public_key(), AUTHORITY.certificate, NOW + 91 * DAY)


def _signed(registry: Registry, name: str, key: keys.PrivateKey) -> tuple[Registry, str]:
    return sign_for(registry, AUTHORITY, SigningRequest(name, key.public_key()), terms())


def test_an_answer_to_another_request_is_passed_over() -> None:
    assert read_answer(encode_enrolment(CertificateIssued("q1", "pem")), "q2") is None
    assert read_answer(encode_enrolment(CertificateIssued("q1", "pem")), "q1") == "pem"


def test_a_refusal_comes_with_the_operators_words() -> None:
    with pytest.raises(Refused, match="no, and why") as caught:
        read_answer(encode_enrolment(EnrolmentRefused(None, "token_used", "no, and why")), "q1")
    assert caught.value.code == "token_used"
