"""The bounds that the bridge and the brokers it starts share, so that neither drops what the other took."""

from typing import Final

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
