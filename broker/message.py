"""What a bridge takes and hands over: a message received, a message to send, a last will."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.errors import PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Message:
    """A message received.

    `retain` is set when the broker sent it because of a new subscription (MQTT 3.1.1, 3.3.1.3), not when it was
    just published. `response_topic` and `correlation` say where an answer is wanted and what it should carry; only
    MQTT 5 has them (MQTT 5, 3.3.2.3.5 and 3.3.2.3.6).
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
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
    """A message to send.

    What stands after `retain` is sent over MQTT 5 only, and left out over 3.1.1.

    Attributes:
        expiry: seconds after which the broker forgets the message, retained or waiting (MQTT 5, 3.3.2.3.3).
        response_topic: where an answer is wanted.
        correlation: what the answer should carry, or, in an answer, what the request carried.
        receipt: that its sender holds, if any.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expiry: float | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    receipt: Receipt | None = field(default=None, repr=False, compare=False)

    def check(self, max_payload: int) -> None:
        """See that a broker will take it.

        Raises:
            PayloadTooLarge: the payload is longer than `max_payload` bytes.
            ValueError: a topic is empty, too long or contains a wildcard (MQTT 3.1.1, 4.7), the QoS is not 0 or 1, or
                the expiry is not above 0.
        """
        if len(self.payload) > max_payload:
            raise PayloadTooLarge(
                f"the payload for {self.topic!r} has {len(self.payload)} bytes, more than the {max_payload} allowed: "
                "send less at once"
            )
        for topic in (self.topic, self.response_topic):
            if topic is not None and not is_topic(topic):
                raise ValueError(f"{topic[:100]!r} is not a topic: it is empty, too long or contains +, # or NUL")
        if self.qos not in (0, 1):
            raise ValueError(f"QoS {self.qos} is not used here: publish to {self.topic!r} at 0 or 1")
        if self.expiry is not None and not self.expiry > 0:
            raise ValueError(f"the message to {self.topic!r} would expire after {self.expiry} s: give more than 0")


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, at QoS 1, when this client goes without saying so (MQTT 3.1.1, 3.1.2.5)."""

    topic: str
    payload: bytes
    retain: bool = True


def is_topic(text: str) -> bool:
    """Whether a message can be published there (MQTT 3.1.1, 4.7): not empty, not too long, and without wildcards."""
    return bool(text) and not any(character in text for character in "+#\0") and len(text.encode()) <= 65_535
