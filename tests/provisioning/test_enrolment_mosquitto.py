"""From a token to a certificate and out again, over a real Mosquitto that lets nobody in without one."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest

from broker import port as ports
from broker.address import BrokerAddress
from broker.client import Bridge
from broker.errors import BrokerUnreachable
from broker.mosquitto import find_mosquitto
from provisioning import fleet, machine, serve
from provisioning.authority import Subject
from provisioning.authority_folder import AuthorityFolder
from provisioning.errors import ProvisioningError, Refused
from provisioning.exchange import MqttAsk
from provisioning.identity_folder import Identity, IdentityFolder, Place
from provisioning.role import Role
from provisioning.serve import EnrolmentServer, ServeOptions
from provisioning.token import decode
from tests.conftest import require
from tests.provisioning.bench import DAY, MINUTE
from tests.provisioning.command import COMMAND, process
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ACL: Final = """
pattern write sled/v1/enroll/%u/request
pattern read sled/v1/enroll/%u/answer
pattern read sled/v1/device/%u/ask

user ops
topic read sled/v1/enroll/+/request
topic write sled/v1/enroll/+/answer

user phone
topic write sled/v1/device/+/ask
"""


class Fleet:
    """An authority, an operator's identity, and a Mosquitto that trusts the one and lists the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = datetime.now(UTC)
        self.ca = AuthorityFolder(path / "ca")
        self.ca.create("fleet", now=self.now - 100 * DAY)
        self.authority = self.ca.authority()
        self.ops = self.identity("ops", Role.OPERATOR)
        self.port = ports.claim("127.0.0.1", 0)
        self.broker = f"mqtts://127.0.0.1:{self.port}"
        self._process = self._start()

    def identity(self, name: str, role: Role, hosts: tuple[str, ...] = ()) -> IdentityFolder:
        """Make an identity beside the authority."""
        folder = IdentityFolder(self.path / name)
        fleet.give_identity(
            self.ca, self.authority, Subject(name, role, hosts), folder, now=self.now, broker="", root="sled/v1"
        )
        return folder

    def token(self, device: str) -> str:
        """Register a device and make a token for it."""
        fleet.register(self.ca, device, Role.DEVICE, now=self.now)
        report = fleet.make_token(
            self.ca, self.authority, device, broker=self.broker, root="sled/v1", ttl=15 * MINUTE, now=self.now
        )
        return report.token

    def reread(self) -> None:
        """Have the broker read its revocation list again."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End the broker."""
        self._process.terminate()
        self._process.wait(10)

    def refusal(self, folder: IdentityFolder) -> str | None:
        """Connect with an identity; return why that cannot be done, None if it can."""
        identity = folder.require_identity()
        bridge = Bridge(self.address, identity.name, tls=folder.tls(), quiet=True, reconnect_delay=(0.05, 0.1))
        try:
            with bridge:
                bridge.wait_up(5)
        except BrokerUnreachable as error:
            return str(error)
        return None

    @property
    def address(self) -> BrokerAddress:
        """Of the broker."""
        return BrokerAddress("127.0.0.1", self.port, tls=True)

    def _start(self) -> subprocess.Popen[bytes]:
        own = self.identity("broker", Role.BROKER, ("127.0.0.1",)).identity_file
        (self.path / "acl").write_text(_ACL)
        config = self.path / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"cafile {self.ca.certificate_file}",
            f"crlfile {self.ca.list_file}",
            f"certfile {own}",
            f"keyfile {own}",
            "require_certificate true",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            "allow_anonymous false",
            f"acl_file {self.path / 'acl'}",
            "set_tcp_nodelay true",
            *(["user root"] if os.geteuid() == 0 else []),
        ]
        config.write_text("\n".join(lines) + "\n")
        program = find_mosquitto()
        assert program is not None
        with (self.path / "mosquitto.log").open("wb") as log:
            started = subprocess.Popen([program, "-c", config], stdout=log, stderr=log)
        wait_for(lambda: started.poll() is not None or self.refusal(self.ops) is None)
        assert started.poll() is None, (self.path / "mosquitto.log").read_text()
        return started


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Fleet]:
    """A broker that lets in whom the authority knows."""
    require("mosquitto")
    made = Fleet(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def served(world: Fleet) -> Iterator[Fleet]:
    """The operator's side answers, in this process."""
    server = EnrolmentServer(world.ca, world.authority, ServeOptions(world.address, "ops", world.ops.tls()))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield world
    server.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_token_to_certificate_to_revoked(world: Fleet) -> None:
    """Every party a process of its own."""
    with (world.path / "serve.log").open("w") as log:
        serving = subprocess.Popen(
            [
                *COMMAND, "ca", "serve", "--broker", world.broker,
                "--ca", str(world.ca.path), "--identity", str(world.ops.path),
            ],
            stderr=log,
        )  # fmt: skip
    token, folder = world.token("pi-1"), IdentityFolder(world.path / "pi-1")
    enrolled = process("enroll", "--token", token, "--identity", str(folder.path))
    assert enrolled.returncode == 0, enrolled.stderr + (world.path / "serve.log").read_text()
    first = folder.require_identity()
    assert world.refusal(folder) is None

    thief = IdentityFolder(world.path / "thief")
    with pytest.raises(Refused, match="this token was used on"):
        machine.enrol(thief, decode(token), MqttAsk(60), now=datetime.now(UTC))
    assert thief.identity() is None

    rotated = process("device", "rotate", "--identity", str(folder.path))
    assert rotated.returncode == 0, rotated.stderr
    assert folder.require_identity().certificate != first.certificate
    assert world.refusal(folder) is None

    other = world.identity("pi-2", Role.DEVICE)
    fleet.revoke(world.ca, world.authority, "pi-1", now=datetime.now(UTC))
    world.reread()
    wait_for(lambda: world.refusal(folder) is not None)
    assert world.refusal(other) is None
    before = folder.identity_file.read_bytes()
    with pytest.raises(ProvisioningError, match="certificate that was revoked"):
        machine.renew(folder, MqttAsk(2), now=datetime.now(UTC))
    assert folder.identity_file.read_bytes() == before

    serving.send_signal(signal.SIGTERM)
    assert serving.wait(60) == 0
    assert "Traceback" not in (world.path / "serve.log").read_text()


def test_an_operator_whose_certificate_has_run_out(world: Fleet) -> None:
    """As after three months in which nobody was there to renew it: it renews it itself, and answers."""
    late = IdentityFolder(world.path / "late")
    long_ago, subject = world.now - 91 * DAY, Subject("late", Role.OPERATOR)
    fleet.give_identity(world.ca, world.authority, subject, late, now=long_ago)
    serving = process("ca", "serve", "--for", "1s", "--broker", world.broker, "--ca", str(world.ca.path),
                      "--identity", str(late.path))  # fmt: skip
    assert serving.returncode == 0, serving.stderr
    assert "answering enrolment requests" in serving.stderr
    assert late.require_identity().certificate.not_valid_after_utc > world.now + 89 * DAY


def test_an_operator_that_connects_anew_goes_on_answering(
    world: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a certificate that was renewed, under the name it has at the broker already."""
    monkeypatch.setattr(serve, "_LOOK_EVERY", 0.2)
    caplog.set_level(logging.INFO)
    options = ServeOptions(world.address, "ops", world.ops.tls(), identity=world.ops)
    server = EnrolmentServer(world.ca, world.authority, options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: "answering enrolment requests" in caplog.text)
        fleet.renew_identity(world.ca, world.authority, world.ops, now=world.now)
        wait_for(lambda: "connecting anew" in caplog.text)
        folder = IdentityFolder(world.path / "pi")
        assert machine.enrol(folder, decode(world.token("pi")), MqttAsk(30), now=datetime.now(UTC)).changed
    finally:
        server.stop()
        thread.join(30)
    assert not thread.is_alive()


def test_asks_that_wait_for_a_device_outlast_its_renewal(served: Fleet, tmp_path: Path) -> None:
    """A renewal connects as the device itself, while the agent is away or in its place."""
    folder = IdentityFolder(tmp_path / "pi")
    machine.enrol(folder, decode(served.token("pi")), MqttAsk(30), now=datetime.now(UTC))
    heard: list[bytes] = []

    def agent() -> Bridge:
        bridge = Bridge(served.address, "pi", clean=False, tls=folder.tls(), quiet=True)
        bridge.subscribe("sled/v1/device/pi/ask", lambda message: heard.append(message.payload))
        return bridge

    with agent() as before:
        before.wait_up(30)
    phone = served.identity("phone", Role.APP)
    with Bridge(served.address, "phone", tls=phone.tls(), quiet=True) as app:
        app.wait_up(30)
        app.publish("sled/v1/device/pi/ask", b"Why is the sky blue?")
        assert app.flush(30)
    assert machine.renew(folder, MqttAsk(30), now=datetime.now(UTC)).changed
    assert not heard
    with agent() as after:
        after.wait_up(30)
        wait_for(lambda: heard)
    assert heard == [b"Why is the sky blue?"]


def test_a_bootstrap_identity_reaches_nothing_else(world: Fleet, tmp_path: Path) -> None:
    """It hears neither of devices nor of other enrolments, and what it says elsewhere nobody hears."""
    ticket = decode(world.token("pi"))
    folder = IdentityFolder(tmp_path / "bootstrap")
    folder.path.mkdir()
    folder.install(Identity(ticket.certificate, ticket.key, ticket.authority), Place("pi"))
    own = f"sled/v1/enroll/{ticket.identity}"
    told, heard = list[str](), list[str]()
    bridge = Bridge(world.address, ticket.identity, tls=folder.tls(), quiet=True)
    for topic in ("#", "sled/v1/device/pi/ask", "sled/v1/enroll/+/answer"):
        bridge.subscribe(topic, lambda message: told.append(message.topic))
    with bridge, Bridge(world.address, "ops", tls=world.ops.tls(), quiet=True) as ops:
        ops.subscribe("sled/v1/enroll/+/request", lambda message: heard.append(message.topic))
        bridge.wait_up(30)
        ops.wait_up(30)
        for topic in ("sled/v1/enroll/pi/request", "sled/v1/device/pi/state", f"{own}/answer", f"{own}/request"):
            bridge.publish(topic, b"from the bootstrap identity")
        for topic in ("sled/v1/enroll/pi/answer", f"{own}/answer"):
            ops.publish(topic, b"from the operator")
        wait_for(lambda: heard and told)
    assert set(heard) == {f"{own}/request"}
    assert set(told) == {f"{own}/answer"}
    assert len(heard) == 1


def test_rubbish_does_not_stop_the_operators_side(served: Fleet, tmp_path: Path) -> None:
    token = served.token("pi")
    ticket = decode(token)
    folder = IdentityFolder(tmp_path / "bootstrap")
    folder.path.mkdir()
    folder.install(Identity(ticket.certificate, ticket.key, ticket.authority), Place("pi"))
    answers: list[bytes] = []
    bridge = Bridge(served.address, ticket.identity, tls=folder.tls(), quiet=True)
    bridge.subscribe(f"sled/v1/enroll/{ticket.identity}/answer", lambda message: answers.append(message.payload))
    rubbish = [b"", b"{", b"\xff\xfe", b"[" * 5000, b"x" * 20_000, b'{"version":9}', b'{"version":1,"id":"#"}']
    with bridge:
        bridge.wait_up(30)
        for number, payload in enumerate(rubbish, 1):

            def answered(number: int = number, payload: bytes = payload) -> bool:
                bridge.publish(f"sled/v1/enroll/{ticket.identity}/request", payload)
                return len(answers) >= number

            wait_for(answered, every=0.3)  # what comes too soon after an answer is dropped
    assert all(b'"refused"' in answer for answer in answers)
    report = machine.enrol(IdentityFolder(tmp_path / "pi"), ticket, MqttAsk(30), now=datetime.now(UTC))
    assert report.changed


def test_nobody_answers(world: Fleet, tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path / "pi")
    with pytest.raises(ProvisioningError, match="nobody answered within 1 s: is `sled ca serve` running"):
        machine.enrol(folder, decode(world.token("pi")), MqttAsk(1), now=datetime.now(UTC))
    assert folder.identity() is None
