"""What a bridge takes and hands over: a message received, a message to send, a last will."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.errors import PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Message:
    """A message received.

    `retain` is set when the broker sent it because of a new subscription (MQTT 3.1.1, 3.3.1.3), not when it was
    just published.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    _acknowledge: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def acknowledge(self) -> None:
        """Tell the broker that the message is safe here, so that it forgets it.

        Callable from any thread and any number of times. It does nothing for messages the bridge acknowledges by
        itself, and nothing once the connection the message came by is gone: the broker sends it again.
        """
        if self._acknowledge is not None:
            self._acknowledge()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False

    def check(self, max_payload: int) -> None:
        """See that a broker will take it.

        Raises:
            PayloadTooLarge: the payload is longer than `max_payload` bytes.
            ValueError: the topic is empty, too long or contains a wildcard (MQTT 3.1.1, 4.7), or the QoS is not 0 or 1.
        """
        if len(self.payload) > max_payload:
            raise PayloadTooLarge(
                f"the payload for {self.topic!r} has {len(self.payload)} bytes, more than the {max_payload} allowed: "
                "send less at once"
            )
        topic = self.topic
        if not topic or any(character in topic for character in "+#\0") or len(topic.encode()) > 65_535:
            raise ValueError(f"{topic[:100]!r} is not a topic: it is empty, too long or contains +, # or NUL")
        if self.qos not in (0, 1):
            raise ValueError(f"QoS {self.qos} is not used here: publish to {topic!r} at 0 or 1")


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, at QoS 1, when this client goes without saying so (MQTT 3.1.1, 3.1.2.5)."""

    topic: str
    payload: bytes
    retain: bool = True
