"""The access files beside the registry: always what it says, and never half of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from broker.access import Action, Rulebook
from broker.access_file import read_access
from provisioning import fleet
from provisioning.authority_folder import AuthorityFolder
from provisioning.errors import ProvisioningError
from provisioning.published import PublishedAuthority
from provisioning.role import Role
from tests.provisioning.bench import DAY, MINUTE, NOW, full_disk

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ca(tmp_path: Path) -> PublishedAuthority:
    """A new authority."""
    folder = PublishedAuthority(tmp_path / "ca")
    folder.create("fleet", now=NOW)
    return folder


def names(folder: PublishedAuthority) -> set[str]:
    """Who may connect by the access file; the ACL file must say the same."""
    found = {identity.name for identity in read_access(folder.access_file).identities}
    acl = folder.acl_file.read_text().splitlines()
    assert {line.removeprefix("user ") for line in acl if line.startswith("user ")} == found
    return found


def test_an_empty_fleet_lets_nobody_in(ca: PublishedAuthority) -> None:
    assert names(ca) == set()
    assert ca.access_file.stat().st_mode & 0o777 == 0o644


def test_every_change_is_in_the_files(ca: PublishedAuthority) -> None:
    authority = ca.authority()
    fleet.register(ca, "pi", Role.DEVICE, now=NOW)
    fleet.register(ca, "app", Role.APP, now=NOW)
    fleet.register(ca, "desk", Role.BROKER, ("desk.example",), now=NOW)
    assert names(ca) == {"pi", "app"}, "a broker is nobody's client"
    token = fleet.make_token(ca, authority, "pi", broker="mqtts://desk.example", root=ca.root, ttl=15 * MINUTE, now=NOW)
    assert names(ca) == {"pi", "app", token.identity}
    fleet.revoke(ca, authority, "pi", now=NOW)
    assert names(ca) == {"app"}
    fleet.delete(ca, authority, "pi", now=NOW)
    fleet.register(ca, "pi", Role.DEVICE, now=NOW)
    assert names(ca) == {"app", "pi"}


def test_a_token_is_forgotten_when_it_has_expired(ca: PublishedAuthority) -> None:
    authority = ca.authority()
    fleet.register(ca, "pi", Role.DEVICE, now=NOW)
    fleet.make_token(ca, authority, "pi", broker="mqtts://desk.example", root=ca.root, ttl=15 * MINUTE, now=NOW)
    fleet.renew_list(ca, authority, now=NOW + DAY)
    assert names(ca) == {"pi"}


def test_a_dry_run_writes_nothing(ca: PublishedAuthority) -> None:
    before = ca.access_file.stat().st_ino
    fleet.register(ca, "pi", Role.DEVICE, now=NOW, dry_run=True)
    assert ca.access_file.stat().st_ino == before


def test_a_file_that_says_the_same_stays(ca: PublishedAuthority) -> None:
    """A broker reads again what was replaced, so nothing is replaced without need."""
    fleet.register(ca, "pi", Role.DEVICE, now=NOW)
    before = ca.access_file.stat().st_ino
    fleet.register(ca, "pi", Role.DEVICE, now=NOW)
    assert ca.access_file.stat().st_ino == before


def test_a_full_disk_leaves_the_file_whole(ca: PublishedAuthority) -> None:
    fleet.register(ca, "pi", Role.DEVICE, now=NOW)
    plain = AuthorityFolder(ca.path)  # which changes the registry alone
    fleet.register(plain, "app", Role.APP, now=NOW)
    with full_disk(1_000), pytest.raises(ProvisioningError, match="the disk is full"):
        ca.publish(NOW)
    assert names(ca) == {"pi"}
    ca.publish(NOW)
    assert names(ca) == {"pi", "app"}


def test_a_stolen_machine_is_revoked_even_where_the_access_files_cannot_be_written(ca: PublishedAuthority) -> None:
    authority = ca.authority()
    fleet.register(ca, "pi", Role.DEVICE, now=NOW)
    (ca.path / "fleet.json").write_text("{")
    with pytest.raises(ProvisioningError, match=r"fleet\.json"):
        fleet.revoke(ca, authority, "pi", now=NOW)
    assert AuthorityFolder(ca.path).registry().devices["pi"].revoked


def test_two_commands_at_once(ca: PublishedAuthority) -> None:
    """Whoever is last, the files say what the registry says."""
    wanted = {f"pi-{number}" for number in range(8)}
    threads = [
        threading.Thread(
            target=lambda name: fleet.register(PublishedAuthority(ca.path), name, Role.DEVICE, now=NOW), args=(name,)
        )
        for name in wanted
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(ca) == wanted


def test_another_root(ca: PublishedAuthority) -> None:
    ca.settle("lab/sled", now=NOW)
    fleet.register(ca, "pi", Role.DEVICE, now=NOW)
    book = Rulebook(read_access(ca.access_file))
    assert book.may("pi", Action.PUBLISH, "lab/sled/device/pi/state")
    assert not book.may("pi", Action.PUBLISH, "sled/v1/device/pi/state")
    ca.settle("lab/sled", now=NOW)  # the same again
    with pytest.raises(ProvisioningError, match="'lab/sled'"):
        ca.settle("sled/v1", now=NOW)


@pytest.mark.parametrize("content", ["{", '{"root": "sled/+"}'])
def test_a_damaged_root(ca: PublishedAuthority, content: str) -> None:
    ca.terms_file.write_text(content)
    with pytest.raises(ProvisioningError, match="is damaged"):
        ca.publish(NOW)
