"""The bounds that the bridge and the brokers it starts share, so that neither drops what the other took."""

from typing import Final

from msgspec import Struct

MAX_PAYLOAD_BYTES: Final = 1 << 20
"""Longest payload, in bytes. A context of 32,768 prompt tokens takes about 100 kB on the wire."""

MAX_INFLIGHT_MESSAGES: Final = 1000
"""QoS 1 messages one side sends before it waits for an acknowledgement. At paho's and Mosquitto's own 20, throughput
is bound by the round trip."""

MAX_OUTGOING_MESSAGES: Final = 10_000
"""QoS 1 messages a client holds in memory for a broker that is away."""

MAX_INCOMING_MESSAGES: Final = 10_000
"""Messages that may wait for a role's loop."""

MAX_QUEUED_MESSAGES: Final = 100_000
"""QoS 1 messages a broker holds for a client that is away."""

MAX_QUEUED_BYTES: Final = 64 * 2**20
"""Bytes a broker holds for a client that is away, or that does not acknowledge."""

MAX_BROKER_BYTES: Final = 2**30
"""Bytes of memory that Mosquitto takes, for what it retains too; beyond it what comes is refused."""

MAX_TOPIC_BYTES: Final = 66_000
"""Of a packet, beside the payload: the longest topic there can be, and headers."""

MAX_CONNECTIONS: Final = 1_000
"""Connections a broker accepts."""

MAX_KEEPALIVE_SECONDS: Final = 3_600
"""Longest silence that a client may ask for."""

CONNECT_SECONDS: Final = 10.0
"""Seconds in which a client must have shaken hands over TLS, and again in which it must have said CONNECT."""


class BrokerLimits(Struct, frozen=True):
    """What the embedded broker lets clients take.

    Attributes:
        packet_bytes: longest packet; a longer one ends the connection.
        packet_seconds: seconds in which a packet that has begun must be whole.
        connect_seconds: seconds in which the first packet must be there.
        write_seconds: seconds after which a client that does not read what it is sent is given up.
        keepalive_seconds: longest keepalive; also of a client that asks for none.
        connections: further ones are closed at once.
        sessions: clients that are there or have left a session; further ones are refused.
        subscriptions: filters of one client; further ones are refused.
        inflight: messages sent to a client that it has not acknowledged; further ones wait. Also messages at QoS 2 that
            it has not released; a further one ends its connection.
        unsent: packets on their way into one client's socket; above that QoS 0 messages for it are dropped, others
            wait, and nothing more is read from it. Also what it has asked to subscribe to, or no longer, without an
            answer yet; to ask further ends its connection.
        queued_messages: that wait for one client; above that new ones are dropped.
        queued_bytes: likewise.
        retained_messages: that the broker keeps; a message at a further topic is passed on but not kept.
        retained_bytes: likewise.
    """

    packet_bytes: int = MAX_PAYLOAD_BYTES + MAX_TOPIC_BYTES
    packet_seconds: float = 30.0
    connect_seconds: float = CONNECT_SECONDS
    write_seconds: float = 30.0
    keepalive_seconds: int = MAX_KEEPALIVE_SECONDS
    connections: int = MAX_CONNECTIONS
    sessions: int = 2 * MAX_CONNECTIONS
    subscriptions: int = 100
    inflight: int = MAX_INFLIGHT_MESSAGES
    unsent: int = MAX_INFLIGHT_MESSAGES
    queued_messages: int = MAX_QUEUED_MESSAGES
    queued_bytes: int = MAX_QUEUED_BYTES
    retained_messages: int = 10_000
    retained_bytes: int = 256 * 2**20
