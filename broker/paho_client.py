"""A paho client set up before it connects, which is when paho still listens."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from broker.limits import MAX_INFLIGHT_MESSAGES
from broker.tls import Tls

if TYPE_CHECKING:
    from broker.address import BrokerAddress
    from broker.message import Will


def make_paho(
    address: BrokerAddress, client_id: str, *, clean: bool, will: Will | None, tls: Tls | None, max_outgoing: int
) -> paho.Client:
    """Make a client that acknowledges by hand, with its limits, credentials, last will and TLS files.

    Raises:
        ValueError: the client id is empty and the session is not clean (MQTT-3.1.3-8).
        OSError: a TLS file cannot be read, or is not what it should be (`ssl.SSLError`).
    """
    if not clean and not client_id:
        raise ValueError("a session that is not clean needs a client id, by which the broker finds it again")
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id,
        clean_session=clean,
        protocol=paho.MQTTv311,
        manual_ack=True,  # paho knows it per client only; the bridge acknowledges what is not manual
    )
    client.max_inflight_messages_set(MAX_INFLIGHT_MESSAGES)
    client.max_queued_messages_set(max_outgoing)
    client.username = address.username
    client.password = address.password
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
    if address.tls or tls is not None:
        (tls or Tls()).apply(client)
    return client


def send_at_once(_client: paho.Client, _userdata: object, sock: Any) -> None:
    """Set TCP_NODELAY on a socket just opened: without it each QoS 1 hop waits 40 ms for a delayed ACK."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
