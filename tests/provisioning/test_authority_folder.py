"""The authority on disk: modes, locks, full disks, and a revocation list that always fits the registry."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from provisioning import fleet, keys
from provisioning import machine as machines
from provisioning import registry as book
from provisioning.authority import LIST_LIFETIME, Subject
from provisioning.authority_folder import AuthorityFolder
from provisioning.errors import ProvisioningError, Refused
from provisioning.identity_folder import IdentityFolder
from provisioning.role import Role
from provisioning.signing_request import make_signing_request
from provisioning.token import decode
from schemas.errors import InvalidTopic
from tests.provisioning.bench import DAY, MINUTE, NAMES, NOW, full_disk, of_no_version

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> AuthorityFolder:
    """A new authority."""
    made = AuthorityFolder(tmp_path / "ca")
    made.create("fleet", now=NOW)
    return made


def contents(path: Path) -> dict[str, bytes]:
    """All files but the lock."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != ".lock"}


def enrolled(folder: AuthorityFolder, name: str) -> str:
    """Register a machine and sign for it; returns the serial number."""
    fleet.register(folder, name, Role.DEVICE, now=NOW)
    request = folder.path.parent / f"{name}.csr"
    request.write_text(make_signing_request(name, keys.generate()))
    fleet.sign(folder, folder.authority(), request, request.with_suffix(".pem"), now=NOW)
    return folder.registry().devices[name].certificates[0].serial


def listed(folder: AuthorityFolder) -> set[str]:
    crl = x509.load_pem_x509_crl(folder.list_file.read_bytes())
    assert crl.is_signature_valid(folder.authority().key.public_key())
    return {f"{entry.serial_number:x}" for entry in crl}


def test_a_new_authority(folder: AuthorityFolder) -> None:
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.path.iterdir() if file.name != ".lock"}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "registry.json": 0o600, "crl.pem": 0o644}
    assert listed(folder) == set()


def test_making_it_again_changes_nothing(folder: AuthorityFolder) -> None:
    before = contents(folder.path)
    report = fleet.make_authority(folder, "another name", now=NOW + DAY)
    assert not report.changed
    assert contents(folder.path) == before


def test_dry_run_makes_nothing(tmp_path: Path) -> None:
    report = fleet.make_authority(AuthorityFolder(tmp_path / "ca"), "fleet", now=NOW, dry_run=True)
    assert report.changed
    assert list(tmp_path.iterdir()) == []


def test_half_an_authority_is_not_overwritten(folder: AuthorityFolder) -> None:
    key = folder.key_file.read_bytes()
    folder.certificate_file.unlink()
    with pytest.raises(ProvisioningError, match="not its certificate"):
        folder.create("fleet", now=NOW)
    assert folder.key_file.read_bytes() == key


def test_no_authority_here(tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match="sled ca init"):
        AuthorityFolder(tmp_path).authority()


def test_full_disk_while_it_is_made(tmp_path: Path) -> None:
    folder = AuthorityFolder(tmp_path / "ca")
    with full_disk(300), pytest.raises(ProvisioningError, match="disk is full"):
        folder.create("fleet", now=NOW)
    assert contents(folder.path) == {}
    assert folder.create("fleet", now=NOW)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o601])
def test_a_key_that_others_may_read(folder: AuthorityFolder, mode: int) -> None:
    folder.key_file.chmod(mode)
    with pytest.raises(ProvisioningError, match=f"mode {mode:04o}.*chmod 600 .*ca.key"):
        folder.authority()


def test_a_passphrase(tmp_path: Path) -> None:
    folder = AuthorityFolder(tmp_path / "ca")
    folder.create("fleet", now=NOW, passphrase=b"open sesame")
    assert folder.is_protected()
    folder.authority(b"open sesame")
    with pytest.raises(ProvisioningError, match="does not open"):
        folder.authority(b"open barley")
    with pytest.raises(ProvisioningError, match="protected by a passphrase"):
        folder.authority()


def test_the_key_of_another_authority(folder: AuthorityFolder) -> None:
    folder.key_file.write_bytes(keys.to_pem(keys.generate()))
    with pytest.raises(ProvisioningError, match="is not the key of"):
        folder.authority()


def test_revoking_writes_the_list(folder: AuthorityFolder) -> None:
    stolen, kept = enrolled(folder, "pi-1"), enrolled(folder, "pi-2")
    report = fleet.revoke(folder, folder.authority(), "pi-1", now=NOW)
    assert (report.state, report.changed) == ("revoked", True)
    assert listed(folder) == {stolen}
    assert kept not in listed(folder)
    before = contents(folder.path)
    assert not fleet.revoke(folder, folder.authority(), "pi-1", now=NOW).changed
    assert contents(folder.path) == before


def test_deleting_keeps_the_revocation(folder: AuthorityFolder) -> None:
    gone = enrolled(folder, "pi-1")
    assert fleet.delete(folder, folder.authority(), "pi-1", now=NOW).changed
    assert listed(folder) == {gone}
    assert not fleet.delete(folder, folder.authority(), "pi-1", now=NOW).changed


def test_dry_runs_change_nothing(folder: AuthorityFolder) -> None:
    enrolled(folder, "pi-1")
    authority = folder.authority()
    before = contents(folder.path)
    assert fleet.register(folder, "pi-2", Role.DEVICE, now=NOW, dry_run=True).changed
    assert fleet.revoke(folder, authority, "pi-1", now=NOW, dry_run=True).changed
    assert fleet.delete(folder, authority, "pi-1", now=NOW, dry_run=True).changed
    token = fleet.make_token(
        folder, authority, "pi-1", broker="mqtts://desk", root="sled/v1", ttl=MINUTE, now=NOW, dry_run=True
    )
    assert token.token == ""
    assert contents(folder.path) == before


def test_full_disk_while_revoking_leaves_list_and_registry_in_step(folder: AuthorityFolder) -> None:
    enrolled(folder, "pi-1")
    before = contents(folder.path)
    authority = folder.authority()
    size = len(before["registry.json"])
    with full_disk(size // 2), pytest.raises(ProvisioningError, match=r"disk is full.*is as it was"):
        fleet.revoke(folder, authority, "pi-1", now=NOW)
    assert contents(folder.path) == before
    assert fleet.revoke(folder, authority, "pi-1", now=NOW).changed


def test_a_list_lost_in_a_power_cut_is_written_again(folder: AuthorityFolder) -> None:
    old = folder.list_file.read_bytes()
    stolen = enrolled(folder, "pi-1")
    fleet.revoke(folder, folder.authority(), "pi-1", now=NOW)
    for lost in (old, b"", b"rubbish", of_no_version(old)):
        folder.list_file.write_bytes(lost)
        report = fleet.renew_list(folder, folder.authority(), now=NOW)
        assert report.changed
        assert listed(folder) == {stolen}
    assert not fleet.renew_list(folder, folder.authority(), now=NOW).changed


def test_the_list_is_renewed_when_half_of_its_time_is_over(folder: AuthorityFolder) -> None:
    assert not fleet.renew_list(folder, folder.authority(), now=NOW + LIST_LIFETIME / 2 - MINUTE).changed
    assert fleet.renew_list(folder, folder.authority(), now=NOW + LIST_LIFETIME / 2 + MINUTE).changed


def test_openssl_agrees(folder: AuthorityFolder, tmp_path: Path) -> None:
    """A verifier of another make lets the one in and the revoked one not."""
    now = datetime.now(UTC)
    real = AuthorityFolder(tmp_path / "now")
    real.create("fleet", now=now)
    for name in ("pi-1", "pi-2"):
        fleet.register(real, name, Role.DEVICE, now=now)
        request = tmp_path / f"{name}.csr"
        request.write_text(make_signing_request(name, keys.generate()))
        fleet.sign(real, real.authority(), request, tmp_path / f"{name}.pem", now=now)
    fleet.revoke(real, real.authority(), "pi-1", now=now)

    def verify(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check",
                "-CAfile", str(real.certificate_file), "-CRLfile", str(real.list_file), str(tmp_path / f"{name}.pem"),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert verify("pi-2").returncode == 0, verify("pi-2").stderr
    assert "certificate revoked" in verify("pi-1").stderr


def test_commands_at_the_same_time_lose_nothing(folder: AuthorityFolder) -> None:
    """The lock is the kernel's, on a file opened anew each time: two threads stand for two processes."""

    def register(number: int) -> None:
        fleet.register(AuthorityFolder(folder.path), f"pi-{number}", Role.DEVICE, now=NOW)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(register, range(40)))
    assert len(folder.registry().devices) == 40


def test_registering(folder: AuthorityFolder) -> None:
    assert fleet.register(folder, "pi", Role.DEVICE, now=NOW).changed
    before = contents(folder.path)
    again = fleet.register(folder, "pi", Role.DEVICE, now=NOW + DAY)
    assert (again.changed, again.state) == (False, "registered")
    assert contents(folder.path) == before
    assert [report.name for report in fleet.list_devices(folder, now=NOW).devices] == ["pi"]
    assert fleet.show_device(folder, "pi", now=NOW).role == "device"
    with pytest.raises(ProvisioningError, match="no device 'pj'"):
        fleet.show_device(folder, "pj", now=NOW)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_that_no_machine_may_have(folder: AuthorityFolder, name: str) -> None:
    before = contents(folder.path)
    with pytest.raises(InvalidTopic, match="use 1 to 63 lower-case letters"):
        fleet.register(folder, name, Role.DEVICE, now=NOW)
    with pytest.raises(InvalidTopic):
        fleet.make_token(folder, folder.authority(), name, broker="mqtts://desk", root="sled/v1", ttl=MINUTE, now=NOW)
    assert contents(folder.path) == before


def test_a_broker_needs_a_host_and_nobody_else_has_one(folder: AuthorityFolder) -> None:
    with pytest.raises(ProvisioningError, match="a broker has at least one host"):
        fleet.register(folder, "broker", Role.BROKER, now=NOW)
    with pytest.raises(ProvisioningError, match="a broker has at least one host"):
        fleet.register(folder, "pi", Role.DEVICE, ("desk",), now=NOW)


def test_signing_for_a_stranger(folder: AuthorityFolder, tmp_path: Path) -> None:
    request = tmp_path / "pi.csr"
    request.write_text(make_signing_request("pi", keys.generate()))
    with pytest.raises(Refused, match="sled device create pi"):
        fleet.sign(folder, folder.authority(), request, tmp_path / "pi.pem", now=NOW)
    assert not (tmp_path / "pi.pem").exists()


def test_signing_twice_gives_the_same(folder: AuthorityFolder, tmp_path: Path) -> None:
    enrolled(folder, "pi")
    first = (tmp_path / "pi.pem").read_bytes()
    report = fleet.sign(folder, folder.authority(), tmp_path / "pi.csr", tmp_path / "pi.pem", now=NOW)
    assert not report.changed
    assert (tmp_path / "pi.pem").read_bytes() == first


def test_tokens(folder: AuthorityFolder) -> None:
    fleet.register(folder, "pi", Role.DEVICE, now=NOW)
    report = fleet.make_token(
        folder, folder.authority(), "pi", broker="mqtts://desk", root="sled/v1", ttl=15 * MINUTE, now=NOW
    )
    ticket = decode(report.token)
    assert (ticket.device, ticket.identity) == ("pi", report.identity)
    assert ticket.certificate.not_valid_after_utc == NOW + 15 * MINUTE
    assert fleet.show_device(folder, "pi", now=NOW).tokens == 1
    assert fleet.show_device(folder, "pi", now=NOW + DAY).tokens == 0
    secret = f"{ticket.key.private_numbers().private_value:x}"
    assert all(
        secret.encode() not in text and report.token.encode() not in text for text in contents(folder.path).values()
    )


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(days=8)])
def test_tokens_are_short_lived(folder: AuthorityFolder, ttl: timedelta) -> None:
    fleet.register(folder, "pi", Role.DEVICE, now=NOW)
    with pytest.raises(ProvisioningError, match="at most 7 days"):
        fleet.make_token(folder, folder.authority(), "pi", broker="mqtts://desk", root="sled/v1", ttl=ttl, now=NOW)


def test_tokens_need_tls(folder: AuthorityFolder) -> None:
    with pytest.raises(ProvisioningError, match="mqtts://"):
        fleet.make_token(folder, folder.authority(), "pi", broker="desk", root="sled/v1", ttl=MINUTE, now=NOW)


def test_an_identity_made_beside_the_authority(folder: AuthorityFolder, tmp_path: Path) -> None:
    ops, place, authority = Subject("ops", Role.OPERATOR), IdentityFolder(tmp_path / "ops"), folder.authority()
    assert fleet.give_identity(folder, authority, ops, place, now=NOW, dry_run=True).changed
    assert not place.path.exists()
    assert not folder.registry().devices
    assert fleet.give_identity(folder, authority, ops, place, now=NOW).changed
    identity = place.require_identity()
    assert (identity.name, identity.role) == ops[:2]
    assert not fleet.give_identity(folder, authority, ops, place, now=NOW + DAY).changed
    assert fleet.give_identity(folder, authority, ops, place, now=NOW + 80 * DAY).changed
    assert place.require_identity().certificate != identity.certificate
    with pytest.raises(ProvisioningError, match="identity of 'ops'"):
        fleet.give_identity(folder, authority, Subject("other", Role.OPERATOR), place, now=NOW)
    assert set(folder.registry().devices) == {"ops"}, "what was refused has registered nobody"


def test_a_folder_that_cannot_be_made_registers_nobody(folder: AuthorityFolder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = IdentityFolder(tmp_path / "file" / "ops")
    with pytest.raises(ProvisioningError):
        fleet.give_identity(folder, folder.authority(), Subject("ops", Role.OPERATOR), place, now=NOW)
    assert not folder.registry().devices


def test_an_identity_is_renewed_beside_the_authority(folder: AuthorityFolder, tmp_path: Path) -> None:
    """Also one that has expired: whoever has the authority's key vouches for it."""
    machine, place, authority = (
        Subject("desk", Role.BROKER, ("desk",)),
        IdentityFolder(tmp_path / "b"),
        folder.authority(),
    )
    fleet.give_identity(folder, authority, machine, place, now=NOW, broker="mqtts://desk")
    first = place.require_identity().certificate
    assert fleet.renew_identity(folder, authority, place, now=NOW + DAY, dry_run=True).changed
    assert place.require_identity().certificate == first
    for days in (1, 400):
        fleet.renew_identity(folder, authority, place, now=NOW + days * DAY)
        renewed = place.require_identity()
        assert (renewed.name, renewed.role) == machine[:2]
        assert renewed.certificate.public_key() != first.public_key()
        assert renewed.certificate.not_valid_after_utc > NOW + days * DAY
    known = place.place()
    assert known is not None
    assert known.broker == "mqtts://desk"
    with pytest.raises(ProvisioningError, match="--ca"):
        machines.renew(place, lambda *_: "", now=NOW)


def test_only_the_own_authority_renews(folder: AuthorityFolder, tmp_path: Path) -> None:
    place, other = IdentityFolder(tmp_path / "ops"), AuthorityFolder(tmp_path / "other")
    fleet.give_identity(folder, folder.authority(), Subject("ops", Role.OPERATOR), place, now=NOW)
    other.create("other", now=NOW)
    fleet.register(other, "ops", Role.OPERATOR, now=NOW)
    before = place.require_identity().certificate
    with pytest.raises(ProvisioningError, match="is that with"):
        fleet.renew_identity(other, other.authority(), place, now=NOW)
    assert place.require_identity().certificate == before
    assert not other.registry().devices["ops"].certificates


def test_a_revoked_machine_is_not_renewed(folder: AuthorityFolder, tmp_path: Path) -> None:
    place = IdentityFolder(tmp_path / "ops")
    fleet.give_identity(folder, folder.authority(), Subject("ops", Role.OPERATOR), place, now=NOW)
    fleet.revoke(folder, folder.authority(), "ops", now=NOW)
    before = place.require_identity().certificate
    for dry_run in (True, False):
        with pytest.raises(ProvisioningError, match="revoked"):
            fleet.renew_identity(folder, folder.authority(), place, now=NOW, dry_run=dry_run)
    assert place.require_identity().certificate == before


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 100])
def test_a_damaged_registry_stops_everything(folder: AuthorityFolder, damage: bytes) -> None:
    folder.registry_file.write_bytes(damage)
    with pytest.raises(ProvisioningError, match="registry is damaged"):
        fleet.register(folder, "pi", Role.DEVICE, now=NOW)
    assert folder.registry_file.read_bytes() == damage


def test_a_lost_registry(folder: AuthorityFolder) -> None:
    folder.registry_file.unlink()
    with pytest.raises(ProvisioningError, match=r"registry\.json is missing: restore it"):
        fleet.register(folder, "pi", Role.DEVICE, now=NOW)


def test_a_failing_change_changes_nothing(folder: AuthorityFolder) -> None:
    before = contents(folder.path)
    with pytest.raises(ProvisioningError):
        folder.change(lambda registry: (book.revoke(registry, "nobody", NOW), None), now=NOW)
    assert contents(folder.path) == before
