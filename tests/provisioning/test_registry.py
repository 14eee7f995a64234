"""The book: registering twice changes nothing, revoking reaches everything, forgetting keeps what matters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning import registry as book
from provisioning.certificate import serial
from provisioning.errors import ProvisioningError, Refused
from provisioning.registry import Registry
from provisioning.role import Role
from schemas.errors import InvalidTopic
from tests.provisioning.bench import DAY, NAMES, NOW, machine, make_authority, noted, registered, with_token


def test_registering_twice_changes_nothing() -> None:
    registry = registered("pi")
    assert book.register(registry, "pi", Role.DEVICE, (), NOW + DAY) is registry


def test_registering_in_another_role_is_refused() -> None:
    with pytest.raises(ProvisioningError, match="registered already, as device"):
        book.register(registered("pi"), "pi", Role.VERIFIER, (), NOW)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_that_no_machine_may_have(name: str) -> None:
    with pytest.raises(InvalidTopic, match="lower-case letters, digits and hyphens"):
        registered(name)


def test_a_name_never_is_a_bootstrap_identitys() -> None:
    with pytest.raises(InvalidTopic):
        registered("enroll.0001020304050607")


def test_revoking_reaches_certificates_and_open_tokens() -> None:
    authority = make_authority()
    old, new = machine(authority), machine(authority)
    registry = noted(noted(registered("pi", "pi-2"), "pi", old), "pi", new)
    registry, identity, bootstrap = with_token(registry, authority, "pi")
    revoked = book.revoke(registry, "pi", NOW)
    for asking in (old, new, bootstrap):
        assert book.is_revoked(revoked, serial(asking.certificate))
    assert identity not in revoked.tokens
    assert book.identities(registry, NOW) == [("pi", Role.DEVICE), ("pi-2", Role.DEVICE), (identity, Role.ENROLMENT)]
    assert book.identities(registry, NOW + DAY) == [("pi", Role.DEVICE), ("pi-2", Role.DEVICE)]
    assert book.identities(revoked, NOW) == [("pi-2", Role.DEVICE)]
    assert book.revoke(revoked, "pi", NOW + DAY) is revoked
    with pytest.raises(Refused, match="was revoked"):
        book.require(revoked, "pi")
    with pytest.raises(ProvisioningError, match="sled device delete pi"):
        book.register(revoked, "pi", Role.DEVICE, (), NOW)


def test_revoking_a_stranger_is_an_error() -> None:
    """A typing mistake must not look like a success."""
    with pytest.raises(ProvisioningError, match="no device 'pj'"):
        book.revoke(registered("pi"), "pj", NOW)


def test_deleting_frees_the_name_and_keeps_the_revocations() -> None:
    authority = make_authority()
    stolen = machine(authority)
    registry = book.delete(noted(registered("pi"), "pi", stolen), "pi", NOW)
    assert book.is_revoked(registry, serial(stolen.certificate))
    again = book.register(registry, "pi", Role.VERIFIER, (), NOW)
    assert again.devices["pi"].role is Role.VERIFIER
    assert book.is_revoked(again, serial(stolen.certificate))
    assert book.delete(registry, "pi", NOW) is registry


def test_what_expired_long_ago_is_forgotten_but_for_the_newest() -> None:
    authority = make_authority()
    first, second = machine(authority, lifetime=DAY), machine(authority, lifetime=2 * DAY)
    registry = noted(noted(registered("pi", "gone"), "pi", first), "pi", second)
    registry = book.revoke(noted(registry, "gone", machine(authority, "gone", lifetime=DAY)), "gone", NOW)
    registry, _, _ = with_token(registry, authority, "pi")
    assert book.pruned(registry, NOW + DAY) is registry
    later = book.pruned(registry, NOW + 30 * DAY)
    assert [issued.serial for issued in later.devices["pi"].certificates] == [serial(second.certificate)]
    assert not later.tokens
    assert not later.revocations
    assert later.devices["gone"].revoked == NOW


def test_json_round_trip_that_a_person_can_read() -> None:
    registry = noted(registered("pi"), "pi", machine(make_authority()))
    text = book.encode(registry)
    assert b'\n    "pi": {\n' in text
    assert book.decode(text) == registry


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"devices":3}', b'{"devices":{"pi":{}}}', b"\xff", b"[" * 10_000])
def test_damaged(text: bytes) -> None:
    with pytest.raises(ProvisioningError, match="damaged"):
        book.decode(text)


def test_a_newer_version() -> None:
    with pytest.raises(ProvisioningError, match="version 2"):
        book.decode(b'{"version":2}')


_MACHINES = [machine(make_authority()) for _ in range(12)]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["register", "revoke", "delete"]), st.sampled_from(["a", "b"])), max_size=12))
def test_no_revocation_is_ever_lost(steps: list[tuple[str, str]]) -> None:
    registry, void = Registry(), set[str]()
    for (step, name), asking in zip(steps, _MACHINES, strict=False):
        known = registry.devices.get(name)
        if step == "register" and (known is None or not known.revoked):
            registry = noted(book.register(registry, name, Role.DEVICE, (), NOW), name, asking)
        elif known is not None:
            void |= {issued.serial for issued in known.certificates}
            registry = (book.revoke if step == "revoke" else book.delete)(registry, name, NOW)
    assert {entry.serial for entry in registry.revocations} == void
