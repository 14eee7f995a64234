"""A paho client set up before it connects, which is when paho still listens."""

from __future__ import annotations

import logging
import math
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.exception import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.limits import MAX_INFLIGHT_MESSAGES
from broker.tls import Tls

if TYPE_CHECKING:
    from broker.address import BrokerAddress
    from broker.message import Outgoing, Will

_log = logging.getLogger(__name__)

_FOR_EVER: Final = 0xFFFF_FFFF
"""Seconds that mean for ever in a Session Expiry Interval (MQTT 5, 3.1.2.11.2); elsewhere the most there can be."""


class _Client(paho.Client):
    """paho's client, which parts with a message that it cannot read.

    paho ends the connection for it, or its own thread, and in a session that is kept the broker sends it again, for
    ever. It cannot read some that MQTT 5 allows and brokers pass on, such as a user property with U+FEFF in it.
    """

    def _handle_publish(self) -> MQTTErrorCode:
        packet, qos = self._in_packet["packet"], self._in_packet["command"] >> 1 & 3
        size = int.from_bytes(packet[:2])
        try:
            packet[2 : 2 + size].decode()  # paho leaves that to those who want to know the topic
            return super()._handle_publish()
        except (MQTTException, ValueError, LookupError, struct.error) as error:
            _log.warning("a message that cannot be read is dropped: %s", error)
        mid = packet[2 + size : 4 + size]
        return self._send_puback(int.from_bytes(mid)) if qos == 1 and len(mid) == 2 else MQTTErrorCode.MQTT_ERR_SUCCESS


def make_paho(
    address: BrokerAddress, client_id: str, *, clean: bool, will: Will | None, tls: Tls | None, max_outgoing: int
) -> paho.Client:
    """Make a client that acknowledges by hand, with its limits, last will and TLS files.

    Raises:
        ValueError: the client id is empty and the session is not clean (MQTT-3.1.3-8).
        OSError: a TLS file cannot be read, or is not what it should be (`ssl.SSLError`).
    """
    if not clean and not client_id:
        raise ValueError("a session that is not clean needs a client id, by which the broker finds it again")
    client = _Client(
        CallbackAPIVersion.VERSION2,
        client_id,
        clean_session=None if address.mqtt5 else clean,
        protocol=paho.MQTTv5 if address.mqtt5 else paho.MQTTv311,
        manual_ack=True,  # paho knows it per client only; the bridge acknowledges what is not manual
    )
    client.max_inflight_messages_set(MAX_INFLIGHT_MESSAGES)
    client.max_queued_messages_set(max_outgoing)
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
    if address.tls or tls is not None:
        (tls or Tls()).apply(client)
    return client


def connect_options(*, clean: bool) -> dict[str, Any]:
    """Return how to say in MQTT 5 what the clean session flag says in 3.1.1 (MQTT 5, 3.1.2.4)."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 0 if clean else _FOR_EVER
    return {"clean_start": clean, "properties": properties}


def publish_options(message: Outgoing) -> Properties | None:
    """Return what MQTT 5 can say about a message, if there is anything to say."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if message.expiry is not None:
        properties.MessageExpiryInterval = min(_FOR_EVER, math.ceil(message.expiry))
    if message.response_topic is not None:
        properties.ResponseTopic = message.response_topic
    if message.correlation is not None:
        properties.CorrelationData = message.correlation
    return None if properties.isEmpty() else properties  # type: ignore[no-untyped-call]


def send_at_once(_client: paho.Client, _userdata: object, sock: Any) -> None:
    """Set TCP_NODELAY on a socket just opened: without it each QoS 1 hop waits 40 ms for a delayed ACK."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
