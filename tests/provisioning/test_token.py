"""Tokens survive a terminal, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning.errors import ProvisioningError
from provisioning.role import Role
from provisioning.token import MOST_CHARACTERS, PREFIX, Ticket, decode, encode
from schemas.enrolment import bootstrap_name
from tests.provisioning.bench import MINUTE, NAMES, machine, make_authority

AUTHORITY = make_authority()
BOOTSTRAP = machine(AUTHORITY, bootstrap_name(bytes(8)), Role.ENROLMENT, lifetime=15 * MINUTE)
TICKET = Ticket(
    "pi-7", "mqtts://desk.example:8883", "sled/v1", AUTHORITY.certificate, BOOTSTRAP.certificate, BOOTSTRAP.key
)


def test_round_trip_through_a_terminal() -> None:
    text = encode(TICKET)
    assert len(text) < MOST_CHARACTERS / 4
    broken = "\n".join(text[at : at + 80] for at in range(0, len(text), 80))
    read = decode(f"  {broken}\r\n")
    assert read._replace(key=TICKET.key) == TICKET
    assert read.key.private_numbers() == TICKET.key.private_numbers()
    assert read.identity == "enroll.0000000000000000"


@pytest.mark.parametrize("text", ["", "hello", "sled2.abcd", PREFIX, f"{PREFIX}!!!", "x" * 100_000])
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(ProvisioningError, match="token"):
        decode(text)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 100, 1000])
def test_cut_off(cut: int) -> None:
    with pytest.raises(ProvisioningError, match="damaged"):
        decode(encode(TICKET)[:-cut])


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_token_for_a_name_that_no_machine_may_have(name: str) -> None:
    with pytest.raises(ProvisioningError, match="damaged"):
        decode(encode(TICKET._replace(device=name)))


def test_a_key_that_is_not_the_certificates() -> None:
    with pytest.raises(ProvisioningError, match="not that of its certificate"):
        decode(encode(TICKET._replace(key=machine(AUTHORITY).key)))


def test_a_machines_certificate_is_no_bootstrap_identity() -> None:
    pi = machine(AUTHORITY)
    with pytest.raises(ProvisioningError, match="not for enrolment"):
        decode(encode(TICKET._replace(certificate=pi.certificate, key=pi.key)))


def test_an_identity_of_another_authority() -> None:
    with pytest.raises(ProvisioningError, match="not issued by this fleet"):
        decode(encode(TICKET._replace(authority=make_authority().certificate)))


@settings(max_examples=50)
@given(st.integers(0, 1200), st.integers(1, 255))
def test_one_character_changed(at: int, flip: int) -> None:
    text = encode(TICKET)
    at = len(PREFIX) + at % (len(text) - len(PREFIX))
    changed = text[:at] + chr(ord(text[at]) ^ flip) + text[at + 1 :]
    try:
        ticket = decode(changed)
    except ProvisioningError:
        return
    # Only what says where the broker is, or for whom the token is meant, may differ: the operator checks the latter.
    assert ticket.certificate == TICKET.certificate
    assert ticket.authority == TICKET.authority


@settings(max_examples=50)
@given(st.binary(max_size=400))
def test_rubbish(data: bytes) -> None:
    import base64

    with pytest.raises(ProvisioningError):
        decode(PREFIX + base64.urlsafe_b64encode(data).decode())
