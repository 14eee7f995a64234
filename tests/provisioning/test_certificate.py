"""Whose certificate, issued by whom, valid when: each way to be wrong has its own words."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from provisioning.authority import BACKDATED, check_hosts
from provisioning.certificate import check, name_of, read_certificate, role_of, to_pem
from provisioning.errors import ProvisioningError, Refused
from provisioning.role import Role
from tests.provisioning.bench import DAY, NOW, machine, make_authority


def refusal(certificate: x509.Certificate, authority: x509.Certificate, now: object = NOW) -> Refused:
    with pytest.raises(Refused) as caught:
        check(certificate, authority, now)  # type: ignore[arg-type]
    return caught.value


def test_own_certificate_is_good() -> None:
    authority = make_authority()
    pi = machine(authority)
    check(pi.certificate, authority.certificate, NOW)
    assert name_of(pi.certificate) == "pi"
    assert role_of(pi.certificate) is Role.DEVICE


def test_a_clock_a_little_behind_is_no_trouble() -> None:
    authority = make_authority()
    check(machine(authority).certificate, authority.certificate, NOW - BACKDATED)


def test_expired() -> None:
    authority = make_authority()
    refused = refusal(machine(authority).certificate, authority.certificate, NOW + 92 * DAY)
    assert refused.code == "expired"
    assert "expired on 2027-05-30 12:00:00 UTC, 2 days ago" in str(refused)


def test_clock_before_the_beginning_is_said_to_be_the_clock() -> None:
    authority = make_authority()
    refused = refusal(machine(authority, now=NOW + DAY).certificate, authority.certificate, NOW)
    assert refused.code == "not_yet_valid"
    assert "this machine's clock says 2027-03-01 12:00:00 UTC" in str(refused)
    assert "timedatectl" in str(refused)


def test_wrong_authority_even_under_the_same_name() -> None:
    refused = refusal(machine(make_authority("fleet")).certificate, make_authority("fleet").certificate)
    assert refused.code == "wrong_authority"
    assert "another fleet" in str(refused)


def test_self_signed() -> None:
    own = make_authority("pi")  # issues itself, under a device's name
    refused = refusal(own.certificate, make_authority().certificate)
    assert refused.code == "self_signed"
    assert "self-signed" in str(refused)


def test_a_machine_is_no_authority() -> None:
    """What a device signs with its own key is not the fleet's, although the chain leads there."""
    authority = make_authority()
    pi = machine(authority)
    forged = machine(authority._replace(key=pi.key), "pi-2")
    assert refusal(forged.certificate, authority.certificate).code == "wrong_authority"


def test_expired_authority() -> None:
    authority = make_authority(now=NOW - timedelta(days=4000))
    with pytest.raises(Refused, match="authority expired"):
        machine(authority)


def test_a_certificate_never_outlives_its_authority() -> None:
    authority = make_authority()
    pi = machine(authority, now=NOW + timedelta(days=3640))
    assert pi.certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_a_library_that_knows_the_rules_agrees() -> None:
    """The chain is one that a strict verifier of clients (RFC 5280) accepts, and not as a server."""
    authority = make_authority()
    store = verification.Store([authority.certificate])
    builder = verification.PolicyBuilder().store(store).time(NOW)
    verifier = builder.build_client_verifier()
    pi = machine(authority)
    assert verifier.verify(pi.certificate, []).subjects == [x509.UniformResourceIdentifier("sled:device/pi")]
    with pytest.raises(verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("pi")).verify(pi.certificate, [])


def test_a_broker_proves_its_hosts_and_nothing_else() -> None:
    authority = make_authority()
    broker = machine(authority, "broker", Role.BROKER, hosts=("desk.example", "192.0.2.7"))
    store = verification.Store([authority.certificate])
    builder = verification.PolicyBuilder().store(store).time(NOW)
    builder.build_server_verifier(x509.DNSName("desk.example")).verify(broker.certificate, [])
    with pytest.raises(verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("other.example")).verify(broker.certificate, [])
    usage = broker.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize("host", ["", "a b", "x" * 64, "http://desk", "desk/..", "dеsk", "-a", "*.example"])  # noqa: RUF001
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(ProvisioningError, match="neither a host name nor an address"):
        check_hosts([host])


@pytest.mark.parametrize("pem", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_no_certificate(pem: str) -> None:
    with pytest.raises(Refused, match="no certificate in PEM"):
        read_certificate(pem, "the file")


def test_pem_round_trip() -> None:
    pi = machine(make_authority()).certificate
    assert read_certificate(to_pem(pi), "it") == pi
