"""Who a command connects as, and what it says when it cannot."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from broker.address import BrokerAddress
from broker.port import claim
from broker.run import start_broker
from broker.security import Security
from broker.tls import ServerTls
from edge_agent.drafters.lookup import PromptLookup
from edge_agent.policy import FixedLength
from edge_agent.service import Agent, AgentOptions
from edge_agent.spool import Spool
from provisioning import fleet
from provisioning.authority import Subject
from provisioning.errors import ProvisioningError
from provisioning.identity_folder import Identity, IdentityFolder, Place
from provisioning.published import PublishedAuthority
from provisioning.role import Role
from sled.client import Client
from sled.connection import Connection, identified, plain, require
from tests.conftest import require as require_engine
from tests.edge_agent.test_intake import bytewise
from tests.provisioning.bench import DAY, NOW, machine, make_authority
from tests.sled.entry import lets_in
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from broker.run import Engine

AUTHORITY = make_authority()


def folder(
    path: Path, name: str = "pi", role: Role = Role.DEVICE, *, broker: str = "mqtts://desk", root: str = "lab"
) -> IdentityFolder:
    """An identity on disk."""
    asking = machine(AUTHORITY, name, role, hosts=("desk",) if role is Role.BROKER else ())
    opened = IdentityFolder(path)
    with opened.locked():
        opened.install(Identity(asking.certificate, asking.key, AUTHORITY.certificate), Place(name, broker, root))
    return opened


def test_the_identity_says_it_all(tmp_path: Path) -> None:
    opened = folder(tmp_path)
    assert identified(opened, Role.DEVICE, now=NOW) == Connection(
        (BrokerAddress("desk", 8883, tls=True),), "lab", opened.tls(), "pi"
    )


def test_what_was_told_goes_first(tmp_path: Path) -> None:
    found = identified(folder(tmp_path), Role.DEVICE, broker="mqtts://other:1", root="x", name="pi", now=NOW)
    assert (found.address, found.root) == ((BrokerAddress("other", 1, tls=True),), "x")


def test_without_an_identity() -> None:
    assert plain(None, None) == Connection((BrokerAddress("127.0.0.1", 1883),), "sled/v1", None, "")
    assert plain("a:1", "r") == Connection((BrokerAddress("a", 1),), "r", None, "")


@pytest.mark.parametrize(
    ("role", "advice"),
    [(Role.DEVICE, "`sled device create NAME`"), (Role.VERIFIER, "`sled device create NAME --role verifier`")],
)
def test_of_another_role(tmp_path: Path, role: Role, advice: str) -> None:
    with pytest.raises(ProvisioningError, match=r"whose role is app, and this needs the role") as caught:
        identified(folder(tmp_path, "phone", Role.APP), role, now=NOW)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("options", "now", "wrong"),
    [
        ({"name": "pi-8"}, NOW, "holds the identity of 'pi', not of 'pi-8'"),
        ({"broker": "desk:1883"}, NOW, "over TLS only"),
        ({}, NOW + 91 * DAY, "expired on"),
        ({}, NOW - timedelta(days=2), "clock is probably behind"),
    ],
)
def test_refused(tmp_path: Path, options: dict[str, str], now: object, wrong: str) -> None:
    with pytest.raises(ProvisioningError, match=wrong):
        identified(folder(tmp_path), Role.DEVICE, now=now, **options)  # type: ignore[arg-type]


def test_nobody_has_said_where(tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match="does not say where the broker is"):
        identified(folder(tmp_path, broker=""), Role.DEVICE, now=NOW)


def test_no_identity(tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match="holds no identity"):
        require(IdentityFolder(tmp_path), Role.BROKER, NOW)


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_from_the_registry_to_the_broker(kind: Engine, tmp_path: Path) -> None:
    """What the authority's folder says is what the broker does, as soon as it has read it again."""
    require_engine(kind)
    now = datetime.now(UTC)
    ca = PublishedAuthority(tmp_path / "ca")
    ca.create("fleet", now=now)
    authority, port = ca.authority(), claim("127.0.0.1", 0)
    folders: dict[Role, IdentityFolder] = {}
    for role, hosts in ((Role.BROKER, ("127.0.0.1",)), (Role.DEVICE, ()), (Role.APP, ())):
        folders[role] = IdentityFolder(tmp_path / role)
        where = f"mqtts://127.0.0.1:{port}"
        fleet.give_identity(ca, authority, Subject(f"my-{role}", role, hosts), folders[role], now=now, broker=where)
    own = folders[Role.BROKER].identity_file
    security = Security(ServerTls(own, own, ca.certificate_file, ca.list_file), ca.access_file)
    running = start_broker(kind, port=port, security=security)
    try:
        device, app = (identified(folders[role], role) for role in (Role.DEVICE, Role.APP))
        options = AgentOptions(
            device.client_id, device.address, device.root, tls=device.tls, client_id=device.client_id
        )
        agent = Agent(options, PromptLookup(), bytewise(), FixedLength(2), Spool(None))
        thread = threading.Thread(target=agent.run, daemon=True)
        thread.start()
        with Client(app.address, root=app.root, client_id=app.client_id, tls=app.tls) as client:
            assert client.wait_online(devices=1, verifiers=0, timeout=60)
        agent.stop()
        thread.join(60)
        fleet.revoke(ca, authority, app.client_id, now=now)
        running.reload()
        wait_for(lambda: not lets_in(app))  # Mosquitto reads its files in its own time
    finally:
        running.stop()
