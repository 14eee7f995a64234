"""The machine's side: by token, by file, renewal; and whatever goes wrong, the identity before stays whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from provisioning import fleet, keys, machine
from provisioning import registry as book
from provisioning.authority_folder import AuthorityFolder
from provisioning.certificate import fingerprint, to_pem
from provisioning.enrolment import Asking
from provisioning.errors import ProvisioningError, Refused
from provisioning.identity_folder import Identity, IdentityFolder, Place
from provisioning.role import Role
from provisioning.token import Ticket
from schemas.errors import InvalidTopic
from tests.provisioning import bench
from tests.provisioning.bench import (
    DAY,
    MINUTE,
    NAMES,
    NOW,
    Operator,
    full_disk,
    make_authority,
    registered,
    with_token,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from schemas.enrolment import EnrolmentRequest


class World:
    """An operator, a token for `pi`, and the folder of that machine."""

    def __init__(self, path: Path) -> None:
        self.authority = make_authority()
        registry, _, bootstrap = with_token(registered("pi"), self.authority, "pi")
        self.operator = Operator(self.authority, registry)
        self.ticket = Ticket(
            "pi", "mqtts://desk", "sled/v1", self.authority.certificate, bootstrap.certificate, bootstrap.key
        )
        self.folder = IdentityFolder(path / "identity")

    def enrol(self) -> None:
        machine.enrol(self.folder, self.ticket, self.operator, now=NOW)

    def files(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.folder.path.iterdir() if file.name != ".lock"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Nothing enrolled yet."""
    return World(tmp_path)


@pytest.fixture
def enrolled(world: World) -> World:
    """`pi` has its identity."""
    world.enrol()
    return world


@pytest.fixture
def umask_0() -> Iterator[None]:
    """Files are open to everybody, where nothing else is said."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def silent(place: Place, identity: Identity, request: EnrolmentRequest) -> str:
    """Nobody answers."""
    raise ProvisioningError("nobody answered")


# By token


def test_a_token_makes_an_identity(world: World) -> None:
    report = machine.enrol(world.folder, world.ticket, world.operator, now=NOW)
    assert (report.name, report.role, report.changed) == ("pi", "device", True)
    identity = world.folder.require_identity()
    assert (identity.name, identity.authority) == ("pi", world.authority.certificate)
    assert world.folder.place() == Place("pi", "mqtts://desk", "sled/v1")
    modes = {file.name: mode(file) for file in world.folder.path.iterdir() if file.name != ".lock"}
    assert modes == {"identity.pem": 0o600, "ca.pem": 0o644, "enrolment.json": 0o644}
    assert mode(world.folder.path) == 0o700


@pytest.mark.usefixtures("umask_0")
def test_a_key_that_waits_is_its_owners_alone(world: World) -> None:
    """While a certificate is asked for, the first as well as the next; so is its folder."""
    modes: list[tuple[int, int]] = []

    def looked(place: Place, identity: Identity, request: EnrolmentRequest) -> str:
        modes.append((mode(world.folder.pending_file), mode(world.folder.path)))
        return world.operator(place, identity, request)

    machine.enrol(world.folder, world.ticket, looked, now=NOW)
    machine.renew(world.folder, looked, now=NOW)
    assert modes == [(0o600, 0o700)] * 2
    assert not world.folder.pending_file.exists()


@pytest.mark.usefixtures("umask_0")
def test_a_key_that_waits_by_file_is_its_owners_alone(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path / "pi")
    machine.write_signing_request(folder, tmp_path / "pi.csr", name="pi")
    assert (mode(folder.pending_file), mode(folder.path)) == (0o600, 0o700)


def test_a_key_that_waits_and_that_others_may_read(world: World) -> None:
    """It is neither certified nor replaced unasked."""
    with pytest.raises(ProvisioningError, match="nobody answered"):
        machine.enrol(world.folder, world.ticket, silent, now=NOW)
    world.folder.pending_file.chmod(0o644)
    before = world.files()
    with pytest.raises(ProvisioningError, match=r"pending\.pem has mode 0644"):
        world.enrol()
    assert (world.files(), world.operator.asked) == (before, 0)


def test_the_key_never_leaves(world: World) -> None:
    heard: list[bytes] = []

    def overheard(place: Place, identity: Identity, request: EnrolmentRequest) -> str:
        heard.extend([request.csr.encode(), request.certificate.encode(), request.signature])
        return world.operator(place, identity, request)

    machine.enrol(world.folder, world.ticket, overheard, now=NOW)
    secret = world.folder.require_identity().key.private_numbers().private_value.to_bytes(32, "big")
    assert all(secret not in text and b"PRIVATE" not in text for text in heard)


def test_enrolling_again_asks_nobody(enrolled: World) -> None:
    before, asked = enrolled.files(), enrolled.operator.asked
    report = machine.enrol(enrolled.folder, enrolled.ticket, enrolled.operator, now=NOW)
    assert not report.changed
    assert (enrolled.files(), enrolled.operator.asked) == (before, asked)


def test_an_answer_that_was_lost_is_asked_for_again(world: World) -> None:
    def lost(place: Place, identity: Identity, request: EnrolmentRequest) -> str:
        world.operator(place, identity, request)
        return silent(place, identity, request)

    with pytest.raises(ProvisioningError, match="nobody answered"):
        machine.enrol(world.folder, world.ticket, lost, now=NOW)
    assert world.folder.identity() is None
    world.enrol()
    assert len(world.operator.registry.devices["pi"].certificates) == 1


def test_a_token_that_was_used_by_another(world: World, tmp_path: Path) -> None:
    machine.enrol(IdentityFolder(tmp_path / "thief"), world.ticket, world.operator, now=NOW)
    with pytest.raises(Refused, match="was used on"):
        world.enrol()
    assert world.folder.identity() is None


def test_an_expired_token_asks_nobody(world: World) -> None:
    with pytest.raises(Refused, match="the token expired on"):
        machine.enrol(world.folder, world.ticket, world.operator, now=NOW + 16 * MINUTE)
    assert world.operator.asked == 0
    assert not world.folder.path.exists()


def test_a_clock_that_stands_in_another_year(world: World) -> None:
    with pytest.raises(Refused, match=r"the token is valid from .* this machine's clock says 1970-"):
        machine.enrol(world.folder, world.ticket, world.operator, now=NOW.replace(year=1970))
    assert not world.folder.path.exists()


def test_another_token_does_not_take_the_place_unasked(enrolled: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    other.folder = enrolled.folder
    before = enrolled.files()
    with pytest.raises(ProvisioningError, match="--replace"):
        other.enrol()
    assert enrolled.files() == before
    machine.enrol(enrolled.folder, other.ticket, other.operator, now=NOW, replace=True)
    assert enrolled.folder.require_identity().authority == other.authority.certificate


def test_dry_run(world: World, tmp_path: Path) -> None:
    assert machine.enrol(world.folder, world.ticket, silent, now=NOW, dry_run=True).changed
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_certificate_from_the_operator_is_not_installed(world: World) -> None:
    impostor = make_authority()

    def wrong(place: Place, identity: Identity, request: EnrolmentRequest) -> str:
        return to_pem(bench.machine(impostor).certificate)

    with pytest.raises(Refused, match="another fleet"):
        machine.enrol(world.folder, world.ticket, wrong, now=NOW)
    assert world.folder.identity() is None


# Renewal


def test_rotation_changes_key_and_certificate(enrolled: World) -> None:
    before = enrolled.folder.require_identity()
    enrolled.operator.now = NOW + 61 * DAY
    report = machine.renew(enrolled.folder, enrolled.operator, now=NOW + 61 * DAY)
    after = enrolled.folder.require_identity()
    assert report.changed
    assert after.certificate.not_valid_after_utc == NOW + 151 * DAY
    assert keys.key_digest(after.key.public_key()) != keys.key_digest(before.key.public_key())
    assert not enrolled.folder.pending_file.exists()


def test_nobody_answers_a_rotation(enrolled: World) -> None:
    before = enrolled.files()
    with pytest.raises(ProvisioningError, match="nobody answered"):
        machine.renew(enrolled.folder, silent, now=NOW)
    assert enrolled.files().items() >= before.items()
    enrolled.folder.require_identity()


@pytest.mark.parametrize("room", [100, 900])
def test_full_disk_during_a_rotation(enrolled: World, room: int) -> None:
    """Room for nothing, or for all but the identity itself: the old one stays whole, and the same can be done again."""
    before = enrolled.files()
    with full_disk(room), pytest.raises(ProvisioningError, match=r"disk is full.*is as it was"):
        machine.renew(enrolled.folder, enrolled.operator, now=NOW)
    after = enrolled.files()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"pending.pem"}
    asked = enrolled.operator.asked
    machine.renew(enrolled.folder, enrolled.operator, now=NOW)
    assert enrolled.operator.asked == asked + 1
    assert len(enrolled.operator.registry.devices["pi"].certificates) == 2  # the answer that had no room came again


def test_killed_while_it_wrote(enrolled: World) -> None:
    """A copy of a new key does not lie about for ever."""
    left = enrolled.folder.path / ".identity.pem.abcd.new"
    left.write_bytes(b"half a key")
    machine.renew(enrolled.folder, enrolled.operator, now=NOW)
    assert not left.exists()


def test_two_rotations_at_the_same_time(enrolled: World) -> None:
    with enrolled.folder.locked(), pytest.raises(ProvisioningError, match="another command is changing"):
        machine.renew(enrolled.folder, enrolled.operator, now=NOW)


def test_a_revoked_machine_does_not_renew(enrolled: World) -> None:
    enrolled.operator.registry = book.revoke(enrolled.operator.registry, "pi", NOW)
    with pytest.raises(Refused, match="was revoked"):
        machine.renew(enrolled.folder, enrolled.operator, now=NOW)


def test_an_expired_identity_does_not_renew(enrolled: World) -> None:
    with pytest.raises(Refused, match="enrol again with a new token"):
        machine.renew(enrolled.folder, enrolled.operator, now=NOW + 91 * DAY)


def test_rotation_dry_run(enrolled: World) -> None:
    before = enrolled.files()
    assert machine.renew(enrolled.folder, silent, now=NOW, dry_run=True).changed
    assert enrolled.files() == before


@pytest.mark.parametrize(("days", "due"), [(0, False), (59, False), (61, True), (100, True)])
def test_needs_renewal_when_a_third_is_left(enrolled: World, days: int, due: bool) -> None:
    assert machine.look(enrolled.folder, now=NOW + days * DAY).renew is due


def test_needs_renewal_with_a_clock_that_is_behind(enrolled: World) -> None:
    with pytest.raises(Refused, match="clock is probably behind"):
        machine.look(enrolled.folder, now=NOW - DAY)


def test_no_identity(world: World) -> None:
    with pytest.raises(ProvisioningError, match="sled enroll"):
        machine.look(world.folder, now=NOW)


# What may be wrong with the folder


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_a_key_that_others_may_read(enrolled: World, mode: int) -> None:
    enrolled.folder.identity_file.chmod(mode)
    with pytest.raises(ProvisioningError, match="chmod 600"):
        machine.look(enrolled.folder, now=NOW)


def test_a_key_that_a_service_may_read(enrolled: World) -> None:
    """As systemd's LoadCredential leaves it."""
    enrolled.folder.identity_file.chmod(0o440)
    machine.look(enrolled.folder, now=NOW)


def test_another_machines_certificate_beside_this_key(enrolled: World) -> None:
    own = enrolled.folder.require_identity()
    other = bench.machine(enrolled.authority, "pi-2")
    enrolled.folder.identity_file.write_bytes(keys.to_pem(own.key) + to_pem(other.certificate).encode())
    with pytest.raises(Refused, match="certificate of 'pi-2' and the key of another"):
        machine.look(enrolled.folder, now=NOW)


@pytest.mark.parametrize(
    ("authority", "words"), [(make_authority(), "another fleet"), (None, "self-signed")], ids=["other", "self-signed"]
)
def test_a_certificate_that_is_not_of_the_authority_beside_it(enrolled: World, authority: object, words: str) -> None:
    own = make_authority("pi")
    made = bench.machine(authority) if authority else Asking(own.certificate, own.key)  # type: ignore[arg-type]
    enrolled.folder.identity_file.write_bytes(keys.to_pem(made.key) + to_pem(made.certificate).encode())
    with pytest.raises(Refused, match=words):
        machine.look(enrolled.folder, now=NOW)


@pytest.mark.parametrize("name", ["identity.pem", "ca.pem"])
def test_damaged_files(enrolled: World, name: str) -> None:
    path = enrolled.folder.path / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ProvisioningError, match=name):
        machine.look(enrolled.folder, now=NOW)


def test_damaged_place(enrolled: World) -> None:
    enrolled.folder.place_file.write_bytes(b"{")
    with pytest.raises(ProvisioningError, match=r"enrolment\.json is damaged"):
        machine.renew(enrolled.folder, enrolled.operator, now=NOW)


# By file


@pytest.fixture
def office(tmp_path: Path) -> AuthorityFolder:
    """An authority on disk that knows `pi` and `pi-2`."""
    folder = AuthorityFolder(tmp_path / "ca")
    folder.create("fleet", now=NOW)
    for name in ("pi", "pi-2"):
        fleet.register(folder, name, Role.DEVICE, now=NOW)
    return folder


def sign(office: AuthorityFolder, request: Path) -> Path:
    out = request.with_suffix(".pem")
    fleet.sign(office, office.authority(), request, out, now=NOW)
    return out


def test_by_file(office: AuthorityFolder, tmp_path: Path) -> None:
    folder, csr = IdentityFolder(tmp_path / "pi"), tmp_path / "pi.csr"
    report = machine.write_signing_request(folder, csr, name="pi", broker="mqtts://desk")
    assert report.pending == str(csr)
    assert b"PRIVATE" not in csr.read_bytes()
    certificate = sign(office, csr)
    trusted = fingerprint(office.certificate())
    report = machine.install_certificate(folder, certificate, now=NOW, trusted=trusted.upper())
    assert (report.name, report.fingerprint, report.changed) == ("pi", trusted, True)
    assert folder.place() == Place("pi", "mqtts://desk", "sled/v1")
    assert not machine.install_certificate(folder, certificate, now=NOW).changed

    # and the renewal
    machine.write_renewal_request(folder, csr)
    before = folder.require_identity()
    assert machine.install_certificate(folder, sign(office, csr), now=NOW).changed
    assert folder.require_identity().certificate != before.certificate
    assert folder.place() == Place("pi", "mqtts://desk", "sled/v1")


def test_by_file_over_an_identity_that_is_in_use(office: AuthorityFolder, tmp_path: Path) -> None:
    """While the certificate is on its way, the machine goes on as before, and afterwards where it was."""
    folder, csr = IdentityFolder(tmp_path / "pi"), tmp_path / "pi.csr"
    machine.write_signing_request(folder, csr, name="pi", broker="mqtts://desk", root="lab/sled")
    machine.install_certificate(folder, sign(office, csr), now=NOW)
    before = folder.require_identity()
    machine.write_signing_request(folder, csr, name="pi")
    assert folder.place() == Place("pi", "mqtts://desk", "lab/sled")
    assert folder.require_identity().certificate == before.certificate
    machine.install_certificate(folder, sign(office, csr), now=NOW)
    assert folder.place() == Place("pi", "mqtts://desk", "lab/sled")
    machine.write_signing_request(folder, csr, name="pi", broker="mqtts://other", root="sled/v1")
    assert folder.place() == Place("pi", "mqtts://other", "sled/v1"), "what is said goes before what was"


def test_by_file_where_the_place_is_damaged_or_anothers(tmp_path: Path) -> None:
    folder, csr = IdentityFolder(tmp_path / "pi"), tmp_path / "pi.csr"
    machine.write_signing_request(folder, csr, name="pi-2", broker="mqtts://desk")
    machine.write_signing_request(folder, csr, name="pi")
    assert folder.place() == Place("pi")
    folder.place_file.write_bytes(b"{")
    machine.write_signing_request(folder, csr, name="pi")
    assert folder.place() == Place("pi")


def test_by_file_from_an_authority_that_the_operator_did_not_name(office: AuthorityFolder, tmp_path: Path) -> None:
    folder, csr = IdentityFolder(tmp_path / "pi"), tmp_path / "pi.csr"
    machine.write_signing_request(folder, csr, name="pi")
    with pytest.raises(Refused, match="not the one the operator named"):
        machine.install_certificate(folder, sign(office, csr), now=NOW, trusted="00" * 32)
    assert folder.identity() is None


def test_by_file_from_an_authority_that_nobody_has_named(
    office: AuthorityFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is installed, and said what to compare; with a fingerprint, or a known authority, there is nothing to say."""
    folder, csr = IdentityFolder(tmp_path / "pi"), tmp_path / "pi.csr"
    machine.write_signing_request(folder, csr, name="pi")
    certificate, trusted = sign(office, csr), fingerprint(office.certificate())
    machine.install_certificate(folder, certificate, now=NOW, trusted=trusted, dry_run=True)
    assert not caplog.records
    machine.install_certificate(folder, certificate, now=NOW)
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert trusted in warning.getMessage()
    assert "--fingerprint" in warning.getMessage()
    machine.write_renewal_request(folder, csr)
    machine.install_certificate(folder, sign(office, csr), now=NOW)
    assert len(caplog.records) == 1


def test_by_file_the_certificate_of_another(office: AuthorityFolder, tmp_path: Path) -> None:
    folders = [IdentityFolder(tmp_path / name) for name in ("pi", "pi-2")]
    for folder in folders:
        machine.write_signing_request(folder, folder.path.with_suffix(".csr"), name=folder.path.name)
    other = sign(office, tmp_path / "pi-2.csr")
    with pytest.raises(Refused, match="certificate of 'pi-2', and this machine is 'pi'"):
        machine.install_certificate(folders[0], other, now=NOW)
    assert folders[0].identity() is None


def test_by_file_for_a_key_of_before(office: AuthorityFolder, tmp_path: Path) -> None:
    folder, csr = IdentityFolder(tmp_path / "pi"), tmp_path / "pi.csr"
    machine.write_signing_request(folder, csr, name="pi")
    certificate = sign(office, csr)
    folder.pending_file.unlink()
    machine.write_signing_request(folder, csr, name="pi")
    with pytest.raises(Refused, match="for another key"):
        machine.install_certificate(folder, certificate, now=NOW)


def test_by_file_what_nobody_asked_for(office: AuthorityFolder, tmp_path: Path) -> None:
    csr = tmp_path / "pi.csr"
    machine.write_signing_request(IdentityFolder(tmp_path / "pi"), csr, name="pi")
    with pytest.raises(ProvisioningError, match="waits for no certificate"):
        machine.install_certificate(IdentityFolder(tmp_path / "other"), sign(office, csr), now=NOW)


def test_by_file_without_the_authority(office: AuthorityFolder, tmp_path: Path) -> None:
    folder, csr = IdentityFolder(tmp_path / "pi"), tmp_path / "pi.csr"
    machine.write_signing_request(folder, csr, name="pi")
    certificate = sign(office, csr)
    first, _, _ = certificate.read_text().partition("-----END CERTIFICATE-----\n")
    certificate.write_text(f"{first}-----END CERTIFICATE-----\n")
    with pytest.raises(ProvisioningError, match="does not hold the authority's certificate"):
        machine.install_certificate(folder, certificate, now=NOW)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_by_file_under_a_name_that_no_machine_may_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidTopic):
        machine.write_signing_request(IdentityFolder(tmp_path / "pi"), tmp_path / "csr", name=name)
    assert list(tmp_path.iterdir()) == []


def test_by_file_dry_runs(office: AuthorityFolder, tmp_path: Path) -> None:
    folder, csr = IdentityFolder(tmp_path / "pi"), tmp_path / "pi.csr"
    machine.write_signing_request(folder, csr, name="pi", dry_run=True)
    assert not csr.exists()
    assert not folder.path.exists()
    machine.write_signing_request(folder, csr, name="pi")
    certificate = sign(office, csr)
    machine.install_certificate(folder, certificate, now=NOW, dry_run=True)
    assert folder.identity() is None
