"""Brokers that listen with TLS and rules: who gets in, as whom, and what a reload changes."""

from __future__ import annotations

import queue
import ssl
import time
from typing import TYPE_CHECKING

import pytest

from broker.access import AccessInvalid
from broker.access_file import encode_access
from broker.address import BrokerAddress
from broker.client import Bridge
from broker.embedded import EmbeddedBroker
from broker.errors import BrokerStartError
from broker.mosquitto import MosquittoProcess
from broker.run import Engine, RunningBroker, start_broker
from broker.security import Security, place
from broker.tls import ServerTls, Tls
from tests.broker.brokers import ALL, allow
from tests.broker.certificates import tls_of
from tests.broker.raw import ACCEPTED, DISCONNECT, NOT_AUTHORIZED, PING, PINGRESP, PUBLISH, RawClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker.message import Message
    from tests.broker.certificates import Authority

NAMES = ("pi", "gpu", "root")
OWN = allow(("{name}/#", ALL), names=NAMES)


@pytest.fixture
def access_file(tmp_path: Path) -> Path:
    file = tmp_path / "access.json"
    file.write_text(encode_access(OWN))
    return file


@pytest.fixture
def secured(engine: Engine, authority: Authority, access_file: Path) -> Iterator[RunningBroker]:
    """Each kind of broker, beyond loopback."""
    broker = start_broker(engine, "0.0.0.0", 0, security=Security(tls_of(authority), access_file))  # noqa: S104
    yield broker
    broker.stop()


def enter(broker: RunningBroker, authority: Authority, name: str | None) -> RawClient:
    return RawClient(At(broker.port), authority.client(name))


def _enter_and_leave(broker: RunningBroker, authority: Authority, name: str | None) -> None:
    with enter(broker, authority, name) as client:
        client.connect("pi")


class At:
    """This machine, by a broker's port."""

    host = "127.0.0.1"

    def __init__(self, port: int) -> None:
        self.port = port


def test_certificates(secured: RunningBroker, authority: Authority) -> None:
    """A client is who its certificate says, whatever it calls itself; its client id is its name."""
    with enter(secured, authority, "pi") as client, enter(secured, authority, "root") as watcher:
        watcher.connect("anything").subscribe("#")
        client.connect("gpu", username="gpu", password="gpu").publish_acknowledged("gpu/topic")  # noqa: S106
        client.publish_acknowledged("pi/topic")
        assert watcher.read().topic == "pi/topic"
        with enter(secured, authority, "pi") as again:
            again.connect("yet-another")
            assert client.closed(5)


@pytest.mark.parametrize("certificate", ["", "expired", "early", "self-signed", "revoked", "elsewhere"])
def test_certificates_that_are_not_good(secured: RunningBroker, authority: Authority, certificate: str) -> None:
    """None of them gets in; one that is good still does."""
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        _enter_and_leave(secured, authority, certificate or None)
    assert _welcome(secured, authority, "pi", "pi")


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o666])
def test_key_that_others_can_get_at(engine: Engine, authority: Authority, access_file: Path, mode: int) -> None:
    security = Security(tls_of(authority), access_file)
    key = authority.folder / "localhost.key"
    key.chmod(mode)
    try:
        with pytest.raises(BrokerStartError, match=f"has mode 0{mode:o}, so that others than its owner can get at it"):
            start_broker(engine, port=0, security=security)
    finally:
        key.chmod(0o600)


def test_identity_that_nobody_knows(secured: RunningBroker, authority: Authority) -> None:
    """A certificate of the authority alone opens nothing."""
    assert not _welcome(secured, authority, "stranger", "stranger")


def test_passwords_over_tls(engine: Engine, authority: Authority, access_file: Path) -> None:
    """Without an authority of clients, they give user name and password; the client id is the name all the same."""
    security = Security(tls_of(authority, clients=False), access_file)
    broker = start_broker(engine, port=0, security=security)
    try:
        with enter(broker, authority, None) as client, enter(broker, authority, None) as other:
            assert other.try_login("pi", word="guess") == NOT_AUTHORIZED
        with enter(broker, authority, None) as client, enter(broker, authority, None) as other:
            client.login("pi").barrier()
            other.login("gpu", client_id="pi").publish_acknowledged("gpu/topic")
            client.barrier()
        with enter(broker, authority, None) as anonymous:
            assert anonymous.try_connect("pi") == NOT_AUTHORIZED
    finally:
        broker.stop()


def test_bridge(secured: RunningBroker, authority: Authority) -> None:
    """The bridge of all roles gets in by its certificate, and its messages through."""
    address = BrokerAddress("localhost", secured.port, tls=True)
    folder = authority.folder
    tls = Tls(authority.ca, folder / "pi.pem", folder / "pi.key")
    received: queue.Queue[Message] = queue.Queue()
    with Bridge(address, "agent-pi", tls=tls) as bridge:
        bridge.wait_up(10)
        bridge.subscribe("pi/topic", received.put)
        bridge.publish("pi/topic", b"hello")
        assert received.get(timeout=10).payload == b"hello"


def test_plain_where_tls_is_spoken(secured: RunningBroker, authority: Authority) -> None:
    """A client without TLS is not heard, and harms nobody."""
    with RawClient(At(secured.port)) as client, pytest.raises((OSError, EOFError)):
        client.connect("pi")
    with enter(secured, authority, "pi") as client:
        client.connect("pi").barrier()


def test_reload_revokes(secured: RunningBroker, authority: Authority, access_file: Path) -> None:
    """An identity that is no longer in the access file can do nothing any more; the others go on, new ones come in."""
    with (
        enter(secured, authority, "pi") as client,
        enter(secured, authority, "gpu") as other,
        enter(secured, authority, "root") as watcher,
    ):
        client.connect("pi")
        other.connect("gpu")
        watcher.connect("root").subscribe("#")
        access_file.write_text(encode_access(allow(("{name}/#", ALL), names=("gpu", "root", "stranger"))))
        secured.reload()
        assert client.closed(5)
        assert not _welcome(secured, authority, "pi", "pi")
        assert _welcome(secured, authority, "stranger", "stranger")
        if secured.name == "embedded":
            other.barrier()
        else:  # Mosquitto was started anew
            assert other.closed(5)
            assert _welcome(secured, authority, "gpu", "gpu")


def test_reload_keeps_who_is_there(secured: RunningBroker, authority: Authority, access_file: Path) -> None:
    """Somebody new disturbs nobody."""
    with enter(secured, authority, "gpu") as client:
        client.connect("gpu")
        access_file.write_text(encode_access(allow(("{name}/#", ALL), names=(*NAMES, "stranger"))))
        secured.reload()
        _until(lambda: _welcome(secured, authority, "stranger", "stranger"))
        client.barrier()


def test_name_given_to_another(secured: RunningBroker, authority: Authority, access_file: Path) -> None:
    """The open connection of who was revoked has nothing of the next one's rights."""
    with enter(secured, authority, "pi") as thief:
        thief.connect("pi")
        for names in (("gpu", "root"), NAMES):
            access_file.write_text(encode_access(allow(("{name}/#", ALL), names=names)))
            secured.reload()
        assert thief.closed(5)


def test_reload_takes_a_new_revocation_list(secured: RunningBroker, authority: Authority) -> None:
    """A certificate that was revoked gets nobody in any more, another of the same name does."""
    certificate = authority.issue("pi", file="second")
    assert _welcome(secured, authority, "second", "pi")
    authority.revoke(certificate)
    secured.reload()
    _until(lambda: not _welcome(secured, authority, "second", "pi"))
    assert _welcome(secured, authority, "pi", "pi")


def test_reload_of_a_broken_file(secured: RunningBroker, authority: Authority, access_file: Path) -> None:
    """It is refused in plain words, and everything stays as it was."""
    access_file.write_text('{"version": 1, "roles": {}}')
    with pytest.raises(AccessInvalid, match=r"the access file .*access.json is not valid: .*identities"):
        secured.reload()
    assert _welcome(secured, authority, "pi", "pi")


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_last_will_of_the_revoked(secured: RunningBroker, authority: Authority, access_file: Path) -> None:
    """Who is thrown out leaves the last will that was good when it came."""
    with enter(secured, authority, "pi") as client, enter(secured, authority, "root") as watcher:
        watcher.connect("root").subscribe("pi/state")
        assert client.try_connect("pi", will="pi/state") == ACCEPTED
        access_file.write_text(encode_access(allow(("{name}/#", ALL), names=("gpu", "root"))))
        secured.reload()
        assert watcher.read().topic == "pi/state"


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_visitor(secured: RunningBroker, authority: Authority) -> None:
    """A client's visitor has a session of its own: it neither ends the client's connection nor its session."""
    with enter(secured, authority, "pi") as client, enter(secured, authority, "pi") as visitor:
        client.connect("agent-pi", clean=False).subscribe("pi/ask")
        visitor.connect("agent-pi.visit").publish_acknowledged("pi/ask")
        assert client.read().topic == "pi/ask"
        visitor.send(DISCONNECT)
        client.barrier()


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_rights_that_were_taken_away(engine: Engine, tmp_path: Path) -> None:
    """A subscription made while it was allowed brings nothing once it is not, nor does what waits."""
    file = tmp_path / "access.json"
    both, less = (("ask", ALL), ("sure", ALL)), (("sure", ALL),)
    file.write_text(encode_access(allow(*both)))
    with (
        EmbeddedBroker(port=0, security=Security(access=file)) as broker,
        RawClient(broker) as device,
        RawClient(broker) as app,
        RawClient(broker) as again,
    ):
        device.login("pi", clean=False).subscribe_all(["ask", "sure"])
        device.send(DISCONNECT)
        assert device.closed()
        app.login("root").publish_acknowledged("ask", b"before")
        file.write_text(encode_access(allow(*less)))
        broker.reload()
        app.publish_acknowledged("ask", b"after")
        app.publish_acknowledged("sure")
        assert again.login("pi", clean=False).read().topic == "sure"


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_session_of_the_revoked(engine: Engine, tmp_path: Path) -> None:
    """It is forgotten: whoever gets the name later does not get what the one before had subscribed to."""
    file = tmp_path / "access.json"
    file.write_text(encode_access(OWN))
    with (
        EmbeddedBroker(port=0, security=Security(access=file)) as broker,
        RawClient(broker) as device,
        RawClient(broker) as app,
        RawClient(broker) as later,
    ):
        device.login("pi", clean=False).subscribe("pi/ask")
        file.write_text(encode_access(allow(("{name}/#", ALL), names=("gpu", "root"))))
        broker.reload()
        assert device.closed()
        file.write_text(encode_access(OWN))
        broker.reload()
        app.login("root").publish_acknowledged("pi/ask")
        assert later.login("pi", clean=False).barrier() == []


def test_files_of_mosquitto(tmp_path: Path, access_file: Path) -> None:
    """What it is told is for its owner alone; so is its folder, which holds prompts."""
    state = tmp_path / "state"
    with MosquittoProcess(port=0, state_dir=state, security=Security(access=access_file)):
        assert state.stat().st_mode & 0o777 == 0o700
        for name in ("mosquitto.conf", "mosquitto.acl", "mosquitto.passwords"):
            assert (state / name).stat().st_mode & 0o777 == 0o600
        config = (state / "mosquitto.conf").read_text().splitlines()
    assert {"allow_anonymous false", "use_username_as_clientid true", "set_tcp_nodelay true"} <= set(config)
    assert "memory_limit 1073741824" in config


@pytest.mark.parametrize(
    ("tls", "access", "missing"),
    [(False, False, "TLS and access control"), (True, False, "access control"), (False, True, "TLS")],
)
def test_beyond_loopback(
    engine: Engine, authority: Authority, access_file: Path, tls: bool, access: bool, missing: str
) -> None:
    """What is missing is named."""
    security = Security(tls_of(authority) if tls else None, access_file if access else None)
    with pytest.raises(BrokerStartError, match=rf"^without {missing} a broker listens on loopback only, not on '::': "):
        start_broker(engine, "::", 0, security=security)


def test_place(authority: Authority, access_file: Path) -> None:
    """Addresses are numbers; names other than localhost are refused."""
    security = Security(tls_of(authority), access_file)
    every = "0.0.0.0"  # noqa: S104 - not bound
    for host, expected in ((every, every), ("[::]", "::"), ("localhost", "127.0.0.1"), ("10.0.0.7", "10.0.0.7")):
        assert place(host, security) == expected
    with pytest.raises(BrokerStartError, match=r"'pi.local' is no address to listen at"):
        place("pi.local", security)


def test_stamp(tmp_path: Path, access_file: Path) -> None:
    """It differs once a file was replaced, and is the same until then."""
    security = Security(access=access_file)
    before = security.stamp()
    assert security.stamp() == before
    (tmp_path / "new").write_text("")
    (tmp_path / "new").replace(access_file)
    assert security.stamp() != before
    before = security.stamp()
    access_file.chmod(0o640)
    assert security.stamp() != before
    access_file.unlink()
    assert security.stamp() == (None,)


def _broken(authority: Authority, tmp_path: Path) -> dict[str, tuple[ServerTls, str]]:
    folder = authority.folder
    rubbish, missing = tmp_path / "rubbish.pem", tmp_path / "missing.pem"
    rubbish.write_text("rubbish")
    good = tls_of(authority)
    return {
        "certificate missing": (ServerTls(missing, good.key), "missing.pem cannot be read"),
        "key missing": (ServerTls(good.certificate, missing), "missing.pem cannot be read"),
        "another's key": (ServerTls(good.certificate, folder / "pi.key"), "localhost.pem cannot be used for TLS"),
        "no certificate": (ServerTls(rubbish, good.key), "rubbish.pem cannot be used for TLS"),
        "no authority": (ServerTls(good.certificate, good.key, rubbish), "rubbish.pem cannot be used for TLS"),
        "no list": (ServerTls(good.certificate, good.key, authority.ca, rubbish), "rubbish.pem cannot be used for TLS"),
    }


@pytest.mark.parametrize(
    "case", ["certificate missing", "key missing", "another's key", "no certificate", "no authority", "no list"]
)
def test_tls_files_that_are_not_good(
    engine: Engine, authority: Authority, access_file: Path, tmp_path: Path, case: str
) -> None:
    """The file is named, and nothing is started."""
    tls, sentence = _broken(authority, tmp_path)[case]
    with pytest.raises(BrokerStartError, match=sentence):
        start_broker(engine, port=0, security=Security(tls, access_file))


def test_list_without_authority(authority: Authority) -> None:
    """A revocation list alone is of no use."""
    with pytest.raises(ValueError, match="add the authority"):
        ServerTls(authority.ca, authority.ca, crl=authority.crl)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not valid"),
        ("[]", "is not valid"),
        ("{" * 100_000, "is not valid"),
        ('{"version": 2, "roles": {}, "identities": []}', "is not valid"),
        ('{"version": 1, "roles": {}, "identities": [], "more": 1}', "is not valid"),
        ('{"version": 1, "roles": {"a": [{"topic": "x", "may": ["fly"]}]}, "identities": []}', "is not valid"),
    ],
)
def test_access_file_that_is_not_good(engine: Engine, tmp_path: Path, text: str, why: str) -> None:
    """It is refused in plain words, and nothing is started."""
    file = tmp_path / "access.json"
    file.write_text(text)
    with pytest.raises(AccessInvalid, match=f"the access file .*access.json {why}"):
        start_broker(engine, port=0, security=Security(access=file))
    file.unlink()
    with pytest.raises(AccessInvalid, match="cannot be read: No such file"):
        start_broker(engine, port=0, security=Security(access=file))


def _welcome(broker: RunningBroker, authority: Authority, certificate: str, name: str) -> bool:
    """Whether a certificate gets its owner in, to be heard and to hear."""
    try:
        with enter(broker, authority, certificate) as client:
            client.connect(name).subscribe(f"{name}/topic")
            client.publish(f"{name}/topic")
            # An end is put to waiting for what is not passed on: Mosquitto acknowledges that, too.
            while (packet := client.read()).kind != PUBLISH:
                client.send(PING)
                if packet.kind == PINGRESP:
                    return False
    except (OSError, EOFError, AssertionError):
        return False
    return True


def _until(condition: Callable[[], bool]) -> None:
    """Wait for what Mosquitto does in its own time after a signal."""
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
