"""Starting and stopping brokers."""

from __future__ import annotations

import queue
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker import run
from broker.address import BrokerAddress
from broker.client import Bridge
from broker.embedded import EmbeddedBroker
from broker.errors import BrokerError, BrokerStartError, SubscriptionRefused
from broker.mosquitto import MosquittoFiles, MosquittoProcess, render_config
from broker.port import answers, claim
from broker.run import Engine, RunningBroker, start_broker
from broker.security import Security, place
from broker.tls import ServerTls

if TYPE_CHECKING:
    from broker.message import Message
    from tests.broker.conftest import MakeBridge

SECONDS = 5.0


def test_start_and_stop(broker: RunningBroker, engine: Engine) -> None:
    """A started broker answers at its port; a stopped one has left it; stopping twice is fine."""
    assert broker.name == engine
    assert broker.host == "127.0.0.1"
    assert answers(broker.host, broker.port)
    assert not broker.wait(0)
    broker.stop()
    assert broker.wait(0)
    assert not answers(broker.host, broker.port)
    assert claim(broker.host, broker.port) == broker.port
    broker.stop()


def test_stop_with_open_connections(broker: RunningBroker, make_bridge: MakeBridge) -> None:
    """Clients, and a connection on which nothing was ever said, do not hold a broker up."""
    with socket.create_connection((broker.host, broker.port)), make_bridge() as bridge:
        bridge.wait_up(SECONDS)
        broker.stop()
        assert broker.wait(0)


def test_port_in_use(broker: RunningBroker, engine: Engine) -> None:
    """A second broker at the same port is refused in plain words."""
    with pytest.raises(BrokerStartError) as caught:
        start_broker(engine, broker.host, broker.port)
    assert str(caught.value) == (
        f"port {broker.port} on 127.0.0.1 is in use: stop the other broker or choose another port with --port"
    )
    assert answers(broker.host, broker.port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "::", "pi.local", ""])  # noqa: S104 - is refused
def test_beyond_loopback_is_refused(engine: Engine, host: str) -> None:
    """Neither broker opens itself to the network."""
    with pytest.raises(BrokerStartError, match="listens on loopback only"):
        start_broker(engine, host, 0)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("[::1]", "::1")],
)
def test_loopback(host: str, expected: str) -> None:
    """Every name of this machine to itself is accepted."""
    assert place(host, Security()) == expected


def test_ipv6(engine: Engine) -> None:
    """Both brokers listen on the loopback of IPv6."""
    try:
        claim("::1", 0)
    except BrokerStartError:
        pytest.skip("this machine has no IPv6")
    broker = start_broker(engine, "::1", 0)
    try:
        with Bridge(BrokerAddress.parse(f"[::1]:{broker.port}")) as bridge:
            bridge.wait_up(SECONDS)
    finally:
        broker.stop()


def test_auto_takes_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Mosquitto the embedded broker starts."""
    monkeypatch.setattr(run, "find_mosquitto", lambda: None)
    broker = start_broker("auto", port=0)
    assert broker.name == "embedded"
    broker.stop()


def test_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without either the error says what to install."""
    monkeypatch.setattr(run, "find_mosquitto", lambda: None)
    monkeypatch.setitem(sys.modules, "amqtt", None)
    with pytest.raises(BrokerStartError, match=r"apt install mosquitto.*pip install 'sled-mqtt\[broker\]'"):
        start_broker("auto", port=0)


def test_mosquitto_is_missing() -> None:
    """A program that is not there is reported as such."""
    with pytest.raises(BrokerStartError, match="could not be run"):
        MosquittoProcess(port=0, program=Path("/nowhere/mosquitto")).start()


def test_mosquitto_ends_at_once(tmp_path: Path) -> None:
    """A broker that dies while starting is reported with its exit code and last words."""
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho Error: no luck today >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(BrokerStartError, match="exit code 3: Error: no luck today"):
        MosquittoProcess(port=0, program=program).start()


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_mosquitto_remembers(engine: Engine, tmp_path: Path) -> None:
    """With a state folder, retained messages survive a restart."""
    received: queue.Queue[Message] = queue.Queue()
    for attempt in range(2):
        broker = start_broker(engine, port=0, state_dir=tmp_path / "state")
        try:
            with Bridge(BrokerAddress(broker.host, broker.port)) as bridge:
                bridge.wait_up(SECONDS)
                if attempt == 0:
                    bridge.publish("state", b"kept", retain=True)
                else:
                    bridge.subscribe("state", received.put)
                    assert received.get(timeout=SECONDS).payload == b"kept"
        finally:
            broker.stop()


def test_render_config() -> None:
    """What Mosquitto is told."""
    lines = render_config(1884).splitlines()
    assert "listener 1884 127.0.0.1" in lines
    assert "set_tcp_nodelay true" in lines
    assert "persistence false" in lines
    assert f"persistence_location {Path('/state')}/" in render_config(1884, persistence_dir=Path("/state"))
    with pytest.raises(BrokerStartError, match="loopback only"):
        render_config(1884, "0.0.0.0")  # noqa: S104 - is refused


def test_refused_subscription_is_reported() -> None:
    """A filter the broker refuses is named in an error, and the connection is up for the others."""
    errors: queue.Queue[BrokerError] = queue.Queue()
    received: queue.Queue[Message] = queue.Queue()
    plugins: dict[str, dict[str, Any]] = {"amqtt.plugins.topic_checking.TopicTabooPlugin": {}}
    with EmbeddedBroker(port=0, plugins=plugins) as broker:
        bridge = Bridge(BrokerAddress(broker.host, broker.port), on_error=errors.put)
        bridge.subscribe("prohibited", received.put)
        bridge.subscribe("allowed", received.put)
        with bridge:
            bridge.wait_up(SECONDS)
            error = errors.get_nowait()
            assert isinstance(error, SubscriptionRefused)
            assert error.topic_filter == "prohibited"
            assert "'prohibited'" in str(error)
            bridge.publish("allowed", b"")
            assert received.get(timeout=SECONDS).topic == "allowed"


def test_wrong_protocol_is_reported() -> None:
    """Something that is not a broker, and closes the connection, is reported as a lost connection."""
    reasons: queue.Queue[str] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as server:
        bridge = Bridge(BrokerAddress("127.0.0.1", server.getsockname()[1]), on_down=reasons.put)
        bridge.start()
        connection, _ = server.accept()
        connection.close()
        assert "closed by the other side" in reasons.get(timeout=SECONDS)
        bridge.stop()


def test_refused_connection_is_reported() -> None:
    """A broker that answers CONNECT with code 5 is quoted."""
    reasons: queue.Queue[str] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as server:
        bridge = Bridge(BrokerAddress("127.0.0.1", server.getsockname()[1]), on_down=reasons.put)
        bridge.start()
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"\x20\x02\x00\x05")
            assert "refused the connection (not authorized)" in reasons.get(timeout=SECONDS)
        bridge.stop()


def test_render_config_with_tls_and_rules() -> None:
    """What a hardened Mosquitto is told besides: certificates are names, and names are client ids."""
    tls = ServerTls(Path("/c.pem"), Path("/k.pem"), Path("/ca.pem"), Path("/crl.pem"))
    every = "0.0.0.0"  # noqa: S104 - not bound
    lines = render_config(8883, every, Path("/state"), tls=tls, files=MosquittoFiles(Path("/acl"))).splitlines()
    wanted = f"""
    listener 8883 {every}
    allow_anonymous false
    acl_file /acl
    use_username_as_clientid true
    use_identity_as_username true
    require_certificate true
    certfile /c.pem
    keyfile /k.pem
    cafile /ca.pem
    crlfile /crl.pem
    tls_version tlsv1.2
    set_tcp_nodelay true
    max_connections 1000
    max_packet_size 1114576
    max_queued_bytes 67108864
    max_keepalive 3600
    persistence true
    """
    assert {line.strip() for line in wanted.splitlines()} - {""} <= set(lines)
    assert "allow_anonymous true" not in lines
    with_passwords = render_config(1883, files=MosquittoFiles(Path("/acl"), Path("/passwords"))).splitlines()
    assert {"allow_anonymous false", "password_file /passwords"} <= set(with_passwords)
    with pytest.raises(BrokerStartError, match="without access control"):
        render_config(8883, every, tls=tls)
