"""What a signing request may ask for."""

from __future__ import annotations

import base64
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning import keys
from provisioning.errors import Refused
from provisioning.signing_request import make_signing_request, read_signing_request
from tests.provisioning.bench import NAMES


def refusal(pem: str | bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        read_signing_request(pem)
    return caught.value


def named(*names: str) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library says of some that they are too long
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in names]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    return builder.sign(keys.generate(), hashes.SHA256()).public_bytes(Encoding.PEM)


def test_round_trip() -> None:
    key = keys.generate()
    wanted = read_signing_request(make_signing_request("pi-7", key))
    assert wanted.name == "pi-7"
    assert wanted.key == key.public_key()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_that_no_machine_may_have(name: str) -> None:
    refused = refusal(named(name))
    assert refused.code == "wrong_name"
    assert len(str(refused)) < 400


def test_two_names_or_none() -> None:
    assert refusal(named("pi", "admin")).code == "wrong_name"
    assert refusal(named()).code == "wrong_name"


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "secp256k1", "ed25519"],
)
def test_keys_of_another_kind(key: object) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pi")])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    pem = builder.sign(key, algorithm).public_bytes(Encoding.PEM)  # type: ignore[arg-type]
    refused = refusal(pem)
    assert refused.code == "wrong_key"
    assert "P-256" in str(refused)


def test_altered_name() -> None:
    """The request of `pi`, with another name written into it."""
    der = x509.load_pem_x509_csr(make_signing_request("pi-a", keys.generate()).encode()).public_bytes(Encoding.DER)
    text = base64.encodebytes(der.replace(b"pi-a", b"pi-b")).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"
    assert refusal(pem).code == "bad_signature"


def test_too_large() -> None:
    assert refusal(make_signing_request("pi", keys.generate()) + "\n" * 9000).code == "too_large"


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_rubbish(data: bytes) -> None:
    assert refusal(data).code == "malformed"
    armoured = (
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE REQUEST-----\n"
    )
    assert refusal(armoured).code == "malformed"
